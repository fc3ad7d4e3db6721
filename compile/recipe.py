"""Checkpoint to bundle: export, quantise, cut, fit thresholds, check."""

import dataclasses
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.samples import stratified
from calibration.thresholds import fit_thresholds
from compile.check import assert_chain_equals_whole
from compile.cut import Segment, cut_segments, whole_network
from compile.decision_ops import add_decisions
from compile.export import export_onnx
from compile.graph import Graph, int8_macs_share, parameter_count, total_macs
from compile.quantise import quantise_int8
from edge.bundle import MANIFEST, Bundle, bundle_writer, file_hashes, write_scores
from edge.classifier import Classifier
from edge.console import say, tracked
from edge.decision import NEVER
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import DataError
from edge.manifest import (
    MANIFEST_VERSION,
    ExitSpec,
    Manifest,
    PrecisionSpec,
    SegmentSpec,
    Thresholds,
    manifest_to_json,
)
from edge.preprocess import Frame, as_sized
from edge.recording import Recording, record
from edge.training.checkpoint import Checkpoint
from edge.training.data import PreprocessedImages, batches, preprocessed
from edge.training.datasets import LabelledImages, load_dataset
from edge.training.evaluate import logits_of
from edge.training.splits import Splits, draw_splits, split_specs

PRECISIONS = ("fp32", "int8")
REFERENCE_SAMPLES, REFERENCE_BYTES = 2_000, 32 << 20
CHECKED_SAMPLES = 16
UNFITTED = "unfitted"


def compile_bundle(
    checkpoint: Checkpoint, output: Path, *, precisions: Sequence[str], max_drop: float, data: Path | None = None
) -> Bundle:
    """Turn a checkpoint into a bundle at `output`.

    Args:
        checkpoint: The trained network.
        output: Where the bundle goes; an older bundle there is replaced once the new one is whole.
        precisions: Which of `PRECISIONS` to include.
        max_drop: Accuracy the thresholds may lose on the threshold-fitting split, as a fraction.
        data: Folder of the dataset's files, if they moved since training.

    Raises:
        DataError: the dataset is not the one the network was trained on.
        CheckpointError: the network cannot be exported or cut.
        BundleError: `output` holds something that is no bundle.
    """
    images, splits = training_data(checkpoint, data)
    say("exporting")
    whole = export_onnx(checkpoint.network(), checkpoint.input)
    with bundle_writer(output) as folder:
        specs = {}
        for name in precisions:
            model = whole if name == "fp32" else quantised(whole, checkpoint, images, splits)
            decided = add_decisions(model, exits=exit_count(model))
            segments = cut_segments(decided)
            say(f"{name}: cut into {len(segments)} segments")
            assert_chain_equals_whole(
                decided, segments, preprocessed(images, splits["validation"][:CHECKED_SAMPLES], checkpoint.input)
            )
            unfitted = write_precision(folder, name, segments, whole_network(decided))
            specs[name] = fitted(folder, name, unfitted, checkpoint, images, splits, max_drop)
        write_reference(folder / "reference.npz", checkpoint, images, splits["test"])
        manifest = Manifest(
            version=MANIFEST_VERSION,
            name=f"{checkpoint.settings.dataset}-{checkpoint.settings.backbone}",
            input=checkpoint.input,
            labels=checkpoint.classes,
            exits=exit_specs(whole),
            precisions=specs,
            reference="reference.npz",
            splits=checkpoint.splits,
            training={"settings": dataclasses.asdict(checkpoint.settings), "history": checkpoint.metrics["history"]},
            tools={name: metadata.version(name) for name in ("torch", "onnx", "onnxruntime", "nvidia-modelopt")},
            files=file_hashes(folder),
        )
        (folder / MANIFEST).write_text(manifest_to_json(manifest))
    return Bundle.open(output)


def training_data(checkpoint: Checkpoint, data: Path | None) -> tuple[LabelledImages, Splits]:
    """Return the dataset of a training run and its splits, drawn again and compared with their fingerprints.

    Raises:
        DataError: the dataset is missing or has changed since.
    """
    settings = checkpoint.settings
    path = data or (Path(settings.data) if settings.data else None)
    images = load_dataset(settings.dataset, path, settings.image_size)
    splits = draw_splits(images, settings.seed)
    if split_specs(images, splits) != checkpoint.splits:
        raise DataError(
            f"dataset {settings.dataset!r} is not what the network was trained on (other fingerprints); "
            "bring back the images as they were, or train again"
        )
    return images, splits


def quantised(whole: ModelProto, checkpoint: Checkpoint, images: LabelledImages, splits: Splits) -> ModelProto:
    """Return the graph in int8, its ranges measured on the calibration split."""
    seed = checkpoint.settings.seed
    chosen = stratified(splits["calibration"], images.labels, count=len(splits["calibration"]), seed=seed)
    say(f"int8: measuring ranges on {len(chosen)} images")
    return quantise_int8(whole, preprocessed(images, chosen, checkpoint.input))


def write_precision(folder: Path, name: str, segments: Sequence[Segment], whole: Segment) -> PrecisionSpec:
    """Write the ONNX files of one precision and describe them; thresholds and scores come later."""
    (folder / name).mkdir()
    specs = [write_segment(folder, f"{name}/segment_{k}.onnx", segment) for k, segment in enumerate(segments)]
    unfitted = Thresholds((NEVER,) * (len(segments) - 1), "accuracy_drop", 0.0, None, 0, UNFITTED)
    return PrecisionSpec(
        tuple(specs), write_segment(folder, f"{name}/whole.onnx", whole), unfitted, f"{name}/scores.npz"
    )


def write_segment(folder: Path, file: str, segment: Segment) -> SegmentSpec:
    """Write one ONNX file and describe it."""
    onnx.checker.check_model(segment.model)
    onnx.save(segment.model, folder / file)
    graph = Graph(segment.model)
    inputs = tuple(graph.spec(name) for name in segment.inputs)
    return SegmentSpec(
        file, inputs, tuple(graph.spec(name) for name in segment.outputs), int8_macs_share(segment.model)
    )


def fitted(
    folder: Path,
    name: str,
    spec: PrecisionSpec,
    checkpoint: Checkpoint,
    images: LabelledImages,
    splits: Splits,
    max_drop: float,
) -> PrecisionSpec:
    """Record what the segments say of the threshold-fitting split, as they will run, and fit thresholds to it."""
    chosen = splits["thresholds"]
    classifier = Classifier(
        input_spec=checkpoint.input, precision=spec, engines=load_engines(folder, spec.segments, OnnxRuntime())
    )
    frames = tracked([images.frames[int(i)] for i in chosen], f"{name}: scoring")
    recording: Recording = record(classifier, frames)
    truth = images.labels[chosen]
    write_scores(folder / spec.scores, recording.scores, truth)
    macs = [total_macs(onnx.load(folder / segment.file)) for segment in spec.segments]
    thresholds = fit_thresholds(
        recording.scores, truth, macs, max_drop=max_drop, split=checkpoint.splits["thresholds"].fingerprint
    )
    return dataclasses.replace(spec, thresholds=thresholds)


def write_reference(path: Path, checkpoint: Checkpoint, images: LabelledImages, test: NDArray[np.intp]) -> None:
    """Write test samples at the network's size, with labels and what the trained network says of them in fp32."""
    fitting = max(1, REFERENCE_BYTES // np.asarray(as_sized(images.frames[int(test[0])], checkpoint.input)).nbytes)
    chosen = test[np.linspace(0, len(test) - 1, min(len(test), REFERENCE_SAMPLES, fitting)).astype(np.intp)]
    frames: list[Frame] = [as_sized(images.frames[int(i)], checkpoint.input) for i in chosen]
    samples = PreprocessedImages(images, chosen, checkpoint.input, augment=False)
    logits, labels = logits_of(checkpoint.network(), tracked(batches(samples, 100, shuffle=False), "reference"))
    with path.open("wb") as file:
        np.savez_compressed(file, frames=np.stack(frames), labels=labels, logits=logits)


def exit_specs(model: ModelProto) -> tuple[ExitSpec, ...]:
    """Return what each exit costs, from the fp32 graph."""
    segments = cut_segments(add_decisions(model, exits=exit_count(model)))
    graph = Graph(model)
    specs = []
    for index, segment in enumerate(segments):
        height, width = graph.spec(f"attention_{index}").shape[-2:]
        attention = (height, width) if height and width else None
        specs.append(ExitSpec(total_macs(segment.model), parameter_count(segment.model), attention))
    return tuple(specs)


def exit_count(model: ModelProto) -> int:
    """Return the number of exits of a multi-exit graph."""
    return sum(output.name.startswith("logits_") for output in model.graph.output)


def describe(bundle: Bundle) -> dict[str, Any]:
    """Return what was compiled, for machines."""
    return {
        "bundle": str(bundle.path),
        "thresholds": {name: spec.thresholds.values for name, spec in bundle.manifest.precisions.items()},
    }
