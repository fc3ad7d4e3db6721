"""Checkpoint to bundle: export, quantise, cut, fit thresholds, check."""

import dataclasses
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.temperature import fit_temperatures
from calibration.thresholds import RiskGuarantee, fit_all_precisions
from compile.check import assert_chain_equals_whole
from compile.contents import exit_specs, write_precision, write_references
from compile.cut import cut_segments, whole_network
from compile.decision_ops import add_decisions
from compile.export import export_onnx
from compile.plot import draw_trade_offs
from compile.precisions import DEFAULT_PRECISIONS, convert
from compile.quantise import METHODS
from compile.trained_model import TrainedModel, load_trained_model
from edge.bundle.bundle import MANIFEST, Bundle, bundle_writer, file_hashes, write_samples
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import MANIFEST_VERSION, ExitSpec, Manifest, PrecisionSpec, manifest_to_json
from edge.bundle.scores import LabelledScores, segments_digest, write_scores
from edge.console import status
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.frames.base import Frame, frame_from_array
from edge.inference.classifier import Classifier
from edge.inference.record import record_parallel
from edge.storage import atomic_file, sha256_of
from edge.system import usable_cores
from edge.training.checkpoint import Checkpoint

REFERENCE, SAMPLES, TRADE_OFFS = "reference.npz", "samples.npz", "trade_offs.png"
CHECKED_SAMPLES = 16
TOOLS = ("early-exit", "numpy", "torch", "onnx", "onnxruntime", "nvidia-modelopt")


def compile_bundle(
    checkpoint: Checkpoint,
    output: Path,
    *,
    guarantee: RiskGuarantee,
    precisions: Sequence[str] = DEFAULT_PRECISIONS,
    method: str = METHODS[0],
    references: Path | None = None,
    data: Path | None = None,
) -> Bundle:
    """Turn a checkpoint into a bundle at `output`.

    Args:
        checkpoint: The trained network.
        output: Where the bundle goes; an older bundle there is replaced once the new one is whole.
        promise: What early exits may cost, on other images than the thresholds are fitted to.
        precisions: Which of `compile.precisions.PRECISIONS` to include.
        method: How int8 ranges are chosen: see `compile.quantise`.
        references: File for more reference samples than travel with a bundle of large images.
        data: Folder of the dataset's files, if they moved since training.

    Raises:
        DataError: the dataset is not the one the network was trained on.
        CheckpointError: the network cannot be exported or cut.
        BundleError: `output` holds something that is no bundle.
    """
    trained = load_trained_model(checkpoint, data)
    with bundle_writer(output) as folder:
        with status("exporting"):
            whole = export_onnx(checkpoint.network(), checkpoint.input)
            exits = exit_specs(whole, cut_segments(add_decisions(whole)))
        macs, specs, found = [exit_.macs for exit_ in exits], {}, {}
        for precision in dict.fromkeys(precisions):
            model, notes = convert(precision, whole, trained, method)
            written = cut_and_written(folder, precision, model, trained)
            found[precision] = scored(folder, precision, written, trained)
            specs[precision] = dataclasses.replace(written, notes=notes)
        scores = {precision: one.scores for precision, one in found.items()}
        split = checkpoint.splits["thresholds"].fingerprint
        fitted = fit_all_precisions(scores, trained.labels("thresholds"), macs, guarantee, split)
        for precision, (logits, *_) in found.items():
            temperatures = fit_temperatures(logits, trained.labels("thresholds"))
            specs[precision] = dataclasses.replace(
                specs[precision], thresholds=fitted[precision], temperatures=temperatures
            )
            draw_trade_offs(folder / precision / TRADE_OFFS, found[precision], macs, fitted[precision])
        write_references(folder / REFERENCE, trained)
        if references is not None:
            with atomic_file(references) as aside:
                write_references(aside, trained, most_bytes=None)
        write_samples(
            folder / SAMPLES, {name: trained.digests(name) for name in trained.splits if name != "thresholds"}
        )
        write_manifest(folder, checkpoint, exits, specs)
    return Bundle.open(output)


def cut_and_written(folder: Path, precision: str, model: ModelProto, trained: TrainedModel) -> PrecisionSpec:
    """Add the decisions, cut, check the segments against the graph bit for bit, and write them."""
    decided = add_decisions(model)
    segments = cut_segments(decided)
    assert_chain_equals_whole(decided, segments, trained.inputs(trained.some("validation", CHECKED_SAMPLES)))
    return write_precision(folder, precision, segments, whole_network(decided))


def scored(folder: Path, precision: str, spec: PrecisionSpec, trained: TrainedModel) -> LabelledScores:
    """Record what the segments say of the threshold-fitting split, as they will run."""
    checkpoint = trained.checkpoint
    chain = ChainSpec(checkpoint.input, checkpoint.classes, spec.segments, spec.temperatures)
    classifier = Classifier(chain, load_engines(folder, spec.segments, OnnxRuntime()), spec.thresholds.values)
    truth, cores = trained.labels("thresholds"), usable_cores()
    parts = [part for part in np.array_split(trained.splits["thresholds"], cores) if len(part)]

    def frames(indices: NDArray[np.intp]) -> Iterator[Frame]:
        return (frame_from_array(trained.images.frames[int(index)], checkpoint.input.kind) for index in indices)

    with status(f"{precision}: scoring"):
        recording = record_parallel(classifier, [frames(part) for part in parts])
    samples = np.stack([trained.digests("thresholds")] * 2, axis=1)  # either tells them apart
    segments = segments_digest(sha256_of(folder / segment.file) for segment in spec.segments)
    found = LabelledScores(*recording, truth, samples, segments)
    write_scores(folder / spec.scores, found)
    return found


def write_manifest(
    folder: Path, checkpoint: Checkpoint, exits: tuple[ExitSpec, ...], specs: dict[str, PrecisionSpec]
) -> None:
    """Describe and vouch for everything in the folder."""
    settings = checkpoint.settings
    manifest = Manifest(
        version=MANIFEST_VERSION,
        name=f"{settings.dataset}-{settings.backbone}",
        input=checkpoint.input,
        labels=checkpoint.classes,
        exits=exits,
        precisions=specs,
        reference=REFERENCE,
        samples=SAMPLES,
        splits=checkpoint.splits,
        training={"settings": dataclasses.asdict(settings), **checkpoint.metrics},
        tools={name: metadata.version(name) for name in TOOLS},
        files=file_hashes(folder),
    )
    (folder / MANIFEST).write_text(manifest_to_json(manifest))
