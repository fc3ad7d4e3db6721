"""What goes into a bundle's folder, and how the manifest describes it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from compile.cut import Segment
from compile.export import NEWEST_IR, OPSET
from compile.graph import Graph, int8_macs_share, parameter_count, total_macs
from compile.trained_model import TrainedModel
from edge.bundle.bundle import Reference, write_reference
from edge.bundle.manifest import ExitSpec, PrecisionSpec, SegmentSpec, Thresholds
from edge.console import track
from edge.decision import NEVER
from edge.errors import BundleError
from edge.frames.preprocess import resize
from edge.training.data import PreprocessedImages, batches
from edge.training.evaluate import logits_of

REFERENCE_SAMPLES, REFERENCE_BYTES = 2_000, 32 << 20


def write_precision(folder: Path, name: str, segments: Sequence[Segment], whole: Segment) -> PrecisionSpec:
    """Write the ONNX files of one precision and describe them, with early exits never taken."""
    (folder / name).mkdir()
    specs = [write_segment(folder, f"{name}/segment_{k}.onnx", segment) for k, segment in enumerate(segments)]
    unfitted = Thresholds((NEVER,) * (len(segments) - 1), "accuracy_gap", 0.0, "none", None, samples=0, split="")
    return PrecisionSpec(
        tuple(specs),
        write_segment(folder, f"{name}/whole.onnx", whole),
        unfitted,
        temperatures=(1.0,) * len(segments),
        notes=(),
        scores=f"{name}/scores.npz",
    )


def write_segment(folder: Path, file: str, segment: Segment) -> SegmentSpec:
    """Write one ONNX file and describe it."""
    _check_versions(segment.model, file)
    onnx.checker.check_model(segment.model)
    onnx.save(segment.model, folder / file)
    graph = Graph(segment.model)
    inputs, outputs = ([graph.spec(name) for name in names] for names in (segment.inputs, segment.outputs))
    return SegmentSpec(
        file,
        tuple(inputs),
        tuple(outputs),
        int8_macs_share(segment.model),
        segment.exit_index,
        segment.cuts_in,
        segment.cuts_out,
    )


def _check_versions(model: ModelProto, file: str) -> None:
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    if opset > OPSET or model.ir_version > NEWEST_IR:
        raise BundleError(
            f"{file} came out with ONNX opset {opset} and IR version {model.ir_version}, which not every device reads; "
            f"install the tool versions of constraints.txt, they keep to opset {OPSET} and IR version {NEWEST_IR}"
        )


def write_references(path: Path, trained: TrainedModel, most_bytes: int | None = REFERENCE_BYTES) -> None:
    """Write test samples at the network's size, with labels and what the trained network says of them in fp32."""
    spec, count = trained.checkpoint.input, REFERENCE_SAMPLES
    if most_bytes is not None:
        first = next(trained.frames("test", 1))
        count = min(count, max(1, most_bytes // resize(first.pixels, spec).nbytes))
    chosen = trained.some("test", count)
    frames = np.stack([resize(frame.pixels, spec) for frame in trained.frames("test", count)])
    samples = PreprocessedImages(trained.images, chosen, spec)
    loader = track(batches(samples, 100), "reference samples")
    logits, labels = logits_of(trained.checkpoint.network(), loader)
    write_reference(path, Reference(frames, labels, logits))


def exit_specs(whole: ModelProto, segments: Sequence[Segment]) -> tuple[ExitSpec, ...]:
    """Return what each exit costs, from the multi-exit graph in fp32 and its segments."""
    graph = Graph(whole)
    specs = []
    for index, segment in enumerate(segments):
        height, width = graph.spec(f"attention_{index}").shape[-2:]
        attention = (height, width) if height and width else None
        specs.append(ExitSpec(total_macs(segment.model), parameter_count(segment.model), attention))
    return tuple(specs)
