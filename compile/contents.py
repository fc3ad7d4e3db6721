"""The files of a bundle: ONNX segments, recorded scores, reference samples and the manifest that describes them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from calibration.operating_points import operating_point_of, operating_points
from compile.cut import Segment
from compile.export import MAX_IR_VERSION, OPSET
from compile.graph import IndexedGraph, int8_macs_share
from compile.trained_model import TrainedModel
from edge.bundle.bundle import MANIFEST, Reference, file_hashes, write_reference, write_samples
from edge.bundle.manifest import (
    MANIFEST_VERSION,
    ExitSpec,
    Manifest,
    PrecisionSpec,
    SegmentSpec,
    Thresholds,
    manifest_to_json,
)
from edge.bundle.scores import LabelledScores, write_scores
from edge.console import track
from edge.decision import validate_thresholds
from edge.errors import BundleError
from edge.frames.preprocess import resize
from edge.training.checkpoint import Checkpoint
from edge.training.data import batches
from edge.training.evaluate import logits_of
from edge.training.loading import PreprocessedImages

REFERENCE, SAMPLES = "reference.npz", "samples.npz"
SCORES, TRADE_OFFS = "scores.npz", "trade_offs.png"
"""Files in the folder of each precision."""
TOOLS = ("early-exit", "numpy", "torch", "onnx", "onnxruntime", "nvidia-modelopt")
REFERENCE_SAMPLES = 2_000
REFERENCE_MAX_BYTES = 32 << 20
REFERENCE_BATCH_SIZE = 100


@dataclass(frozen=True, slots=True)
class NetworkFiles:
    """The ONNX files of one precision."""

    segments: tuple[SegmentSpec, ...]
    whole: SegmentSpec
    """The network without its early exits."""


def write_network(folder: Path, precision: str, segments: Sequence[Segment], whole: Segment) -> NetworkFiles:
    """Write the ONNX files of one precision into its own new folder in the bundle."""
    (folder / precision).mkdir()
    specs = [write_segment(folder, f"{precision}/segment_{k}.onnx", segment) for k, segment in enumerate(segments)]
    return NetworkFiles(tuple(specs), write_segment(folder, f"{precision}/whole.onnx", whole))


def write_segment(folder: Path, file: str, segment: Segment) -> SegmentSpec:
    """Write one ONNX file and describe it."""
    _check_versions(segment.model, file)
    onnx.checker.check_model(segment.model)
    onnx.save(segment.model, folder / file)
    indexed = IndexedGraph(segment.model)
    return SegmentSpec(
        file=file,
        inputs=tuple(indexed.spec(name) for name in segment.inputs),
        outputs=tuple(indexed.spec(name) for name in segment.outputs),
        int8_macs_share=int8_macs_share(segment.model),
        exit_index=segment.exit_index,
        cuts_in=segment.cuts_in,
        cuts_out=segment.cuts_out,
    )


def _check_versions(model: ModelProto, file: str) -> None:
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    if opset > OPSET or model.ir_version > MAX_IR_VERSION:
        raise BundleError(
            f"{file} has ONNX opset {opset} and IR version {model.ir_version}, which not every device can read; "
            f"install the tool versions of constraints.txt, which write opset {OPSET} and IR version {MAX_IR_VERSION}"
        )


def draw_trade_offs(path: Path, recorded: LabelledScores, macs: Sequence[int], chosen: Thresholds) -> None:
    """Plot accuracy over mean multiply-accumulates on the threshold-fitting split, with the chosen point, as a PNG."""
    from matplotlib.figure import Figure

    scores, truth = recorded.scores, recorded.truth
    points = sorted(operating_points(scores, truth, macs), key=lambda point: point.cost_ratio)
    chosen_point = operating_point_of(scores, truth, macs, validate_thresholds(chosen.values, len(macs)))
    exit_accuracies = (scores.label == truth).mean(axis=1)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([p.cost_ratio for p in points], [p.accuracy for p in points], ".-", label="best trade-offs")
    axes.plot(np.cumsum(macs) / np.sum(macs), exit_accuracies, "s", color="grey", label="each exit for all images")
    axes.plot(chosen_point.cost_ratio, chosen_point.accuracy, "o", markersize=10, label=f"chosen, by {chosen.method}")
    axes.set(xlabel="mean multiply-accumulates, share of the whole network's", ylabel="accuracy")
    axes.set_title(f"{len(truth)} images of the threshold-fitting split")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png", dpi=120)


def write_contents(
    folder: Path,
    trained: TrainedModel,
    exits: tuple[ExitSpec, ...],
    precisions: dict[str, PrecisionSpec],
    scores: Mapping[str, LabelledScores],
) -> None:
    """Write scores, plots, reference samples, sample digests and the manifest: all files but the ONNX files."""
    macs = [exit_.macs for exit_ in exits]
    for name, spec in precisions.items():
        write_scores(folder / spec.scores, scores[name])
        draw_trade_offs(folder / name / TRADE_OFFS, scores[name], macs, spec.thresholds)
    write_references(folder / REFERENCE, trained, REFERENCE_MAX_BYTES)
    used_samples = {split: trained.copy_digests(split) for split in trained.splits if split != "thresholds"}
    write_samples(folder / SAMPLES, used_samples)
    write_manifest(folder, trained.checkpoint, exits, precisions)


def write_references(path: Path, trained: TrainedModel, max_bytes: int | None = None) -> None:
    """Write test samples at the network's size, with their labels and the trained network's logits in fp32."""
    spec, count = trained.checkpoint.input, REFERENCE_SAMPLES
    if max_bytes is not None:
        first = next(trained.frames("test", 1))
        count = min(count, max(1, max_bytes // resize(first.pixels, spec).nbytes))
    indices = trained.sample_indices("test", count)
    frames = np.stack([resize(frame.pixels, spec) for frame in trained.frames_at(indices)])
    loader = batches(PreprocessedImages(trained.images, indices, spec), REFERENCE_BATCH_SIZE)
    logits, labels = logits_of(trained.checkpoint.network(), track(loader, "reference samples"))
    write_reference(path, Reference(frames, labels, logits))


def write_manifest(
    folder: Path, checkpoint: Checkpoint, exits: tuple[ExitSpec, ...], precisions: dict[str, PrecisionSpec]
) -> None:
    """Write the manifest, with the hash of every other file in the folder."""
    settings = checkpoint.settings
    manifest = Manifest(
        version=MANIFEST_VERSION,
        name=f"{settings.dataset}-{settings.backbone}",
        input=checkpoint.input,
        labels=checkpoint.classes,
        exits=exits,
        precisions=precisions,
        reference=REFERENCE,
        samples=SAMPLES,
        splits=checkpoint.splits,
        training={"settings": dataclasses.asdict(settings), **checkpoint.metrics},
        tools={name: metadata.version(name) for name in TOOLS},
        files=file_hashes(folder),
    )
    (folder / MANIFEST).write_text(manifest_to_json(manifest))
