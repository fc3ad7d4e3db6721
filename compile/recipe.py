"""Checkpoint to bundle: export, convert, cut, score, fit, write."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calibration.rejection import Fitted, RejectGuarantee, check_guarantees, fit_with_rejection
from calibration.samples import check_count
from calibration.temperature import fit_temperatures
from calibration.thresholds import RiskGuarantee, fit_all_precisions
from compile.check import assert_chain_equals_whole
from compile.contents import SCORES, NetworkFiles, write_contents, write_network, write_references
from compile.cut import Segment, cut_segments, whole_network
from compile.decision_ops import add_decisions
from compile.export import export_onnx
from compile.graph import IndexedGraph, MultiExitGraph, parameter_count, total_macs
from compile.precisions import DEFAULT_PRECISIONS, convert
from compile.quantise import METHODS
from compile.trained_model import TrainedModel, load_trained_model
from edge.bundle import tensors
from edge.bundle.bundle import Bundle, bundle_writer
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import ExitSpec, PrecisionSpec, SegmentSpec
from edge.bundle.scores import LabelledScores, combined_digest
from edge.console import status
from edge.decision import NEVER
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.inference.classifier import Classifier
from edge.inference.record import record_parallel
from edge.storage import atomic_file, sha256_of
from edge.system import usable_cores
from edge.training.checkpoint import Checkpoint

CHECKED_SAMPLES = 16


def compile_bundle(
    checkpoint: Checkpoint,
    output: Path,
    *,
    guarantee: RiskGuarantee,
    reject: RejectGuarantee | None = None,
    precisions: Sequence[str] = DEFAULT_PRECISIONS,
    method: str = METHODS[0],
    references: Path | None = None,
    data: Path | None = None,
) -> Bundle:
    """Compile a checkpoint to a bundle.

    Args:
        checkpoint: The trained network.
        output: Folder of the bundle; an older bundle there is replaced when the new one is complete.
        guarantee: Bound on the risk of early exits, for images that the thresholds are not fitted to.
        reject: Bound on the error of predictions that are not `none`; None to reject nothing.
        precisions: Precisions to include, of `compile.precisions.PRECISIONS`.
        method: ModelOpt's calibration method, one of `compile.quantise.METHODS`.
        references: File for more reference samples than fit into a bundle of large images.
        data: Folder of the dataset's files, if they moved since training.

    Raises:
        DataError: the dataset is not the one that the network was trained on, or too small for int8.
        CheckpointError: the network cannot be exported or cut.
        BundleError: `output` contains something other than a bundle.
        ThresholdError: a guarantee is invalid, or cannot be given with these samples.
    """
    trained = load_trained_model(checkpoint, data)
    names = tuple(dict.fromkeys(precisions))
    if {"int8", "auto"} & set(names):
        check_count(len(trained.splits["calibration"]), len(trained.images.labels))
    network = checkpoint.network()
    check_guarantees(guarantee, reject, len(trained.splits["thresholds"]), len(network.heads))
    with bundle_writer(output) as folder:
        with status("exporting"):
            graph = export_onnx(network, checkpoint.input)
        exits = exit_specs(graph)
        converted = {name: convert(name, graph, trained, method) for name in names}
        networks = {name: cut_network(converted[name].graph, trained) for name in names}
        files = {name: write_network(folder, name, *networks[name]) for name in names}
        scores = {name: score(folder, name, files[name].segments, trained) for name in names}
        fitted = fit(scores, exits, trained, guarantee, reject)
        specs = {
            name: precision_spec(name, files[name], scores[name], fitted[name], converted[name].notes) for name in names
        }
        if references is not None:
            with atomic_file(references) as partial:
                write_references(partial, trained)
        write_contents(folder, trained, exits, specs, scores)
    return Bundle.open(output)


def exit_specs(graph: MultiExitGraph) -> tuple[ExitSpec, ...]:
    """Return the cost of each exit's segment in fp32 and the size of its attention map."""
    indexed = IndexedGraph(graph.model)
    specs = []
    for segment in cut_segments(add_decisions(graph)):
        height, width = indexed.spec(tensors.attention(segment.exit_index)).shape[-2:]
        attention = (height, width) if height and width else None
        specs.append(ExitSpec(total_macs(segment.model), parameter_count(segment.model), attention))
    return tuple(specs)


class CutNetwork(NamedTuple):
    """A network in one precision, cut for inference."""

    segments: list[Segment]
    whole: Segment
    """The network without its early exits."""


def cut_network(graph: MultiExitGraph, trained: TrainedModel) -> CutNetwork:
    """Add the exit decisions, cut the graph, and check that the segments compute its outputs."""
    decided = add_decisions(graph)
    segments = cut_segments(decided)
    images = trained.inputs(trained.sample_indices("validation", CHECKED_SAMPLES))
    assert_chain_equals_whole(decided, segments, images)
    return CutNetwork(segments, whole_network(decided))


def score(folder: Path, precision: str, segments: tuple[SegmentSpec, ...], trained: TrainedModel) -> LabelledScores:
    """Record every exit's outputs on the threshold-fitting split, by running the segments as a device does."""
    spec, early_exits = trained.checkpoint.input, len(segments) - 1
    chain = ChainSpec(spec, trained.checkpoint.classes, segments, temperatures=(1.0,) * len(segments))
    parts = [part for part in np.array_split(trained.splits["thresholds"], usable_cores()) if len(part)]
    engines = load_engines(folder, segments, OnnxRuntime())
    with Classifier(chain, engines, (NEVER,) * early_exits) as classifier, status(f"{precision}: scoring"):
        recording = record_parallel(classifier, [trained.frames_at(part) for part in parts])
    digests = np.stack([trained.digests("thresholds")] * 2, axis=1)  # one digest identifies both file and input
    segments_id = combined_digest(sha256_of(folder / segment.file) for segment in segments)
    return LabelledScores(*recording, trained.labels("thresholds"), digests, segments_id)


def fit(
    scores: Mapping[str, LabelledScores],
    exits: Sequence[ExitSpec],
    trained: TrainedModel,
    guarantee: RiskGuarantee,
    reject: RejectGuarantee | None,
) -> dict[str, Fitted]:
    """Fit the thresholds of each precision to its scores, and the rejection if one was asked for."""
    exit_scores = {precision: recorded.scores for precision, recorded in scores.items()}
    macs = [exit_.macs for exit_ in exits]
    split = trained.checkpoint.splits["thresholds"].fingerprint
    fit_thresholds = partial(fit_all_precisions, costs=macs, guarantee=guarantee, split=split)
    truth, labels = trained.labels("thresholds"), trained.checkpoint.classes
    return fit_with_rejection(fit_thresholds, exit_scores, truth, labels, reject, split)


def precision_spec(
    precision: str, files: NetworkFiles, recorded: LabelledScores, fitted: Fitted, notes: tuple[str, ...]
) -> PrecisionSpec:
    """Describe one precision, with temperatures fitted to its scores."""
    return PrecisionSpec(
        segments=files.segments,
        whole=files.whole,
        thresholds=fitted.thresholds,
        rejection=fitted.rejection,
        temperatures=fit_temperatures(recorded.logits, recorded.truth),
        notes=notes,
        scores=f"{precision}/{SCORES}",
    )
