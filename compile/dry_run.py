"""Compilation of an untrained network, to check in seconds that it will compile after training."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from compile.check import assert_chain_equals_whole
from compile.cut import Segment, cut_segments
from compile.decision_ops import add_decisions
from compile.export import export_onnx
from compile.fp16 import to_fp16
from compile.graph import MultiExitGraph, int8_macs_share, total_macs
from compile.quantise import quantise_int8
from edge.bundle.manifest import InputSpec
from edge.errors import CheckpointError
from edge.training.network import MultiExitNetwork

SAMPLES = 4


@dataclass(frozen=True, slots=True)
class DryRun:
    """Result of compiling a network with its initial weights and random images."""

    macs: tuple[int, ...]
    """Multiply-accumulates of each segment."""
    int8_shares: tuple[float, ...]
    """Share of each segment's convolutions that runs in int8, by multiply-accumulates; empty without int8."""
    problems: dict[str, str]
    """Reasons why the network cannot be converted, by precision."""
    seconds: float


def dry_run(network: MultiExitNetwork, spec: InputSpec) -> DryRun:
    """Export a network, cut it, and convert it to fp16 and int8.

    Leaves the network in evaluation mode. Untrained weights are enough: training can only add values too large for
    fp16.

    Raises:
        CheckpointError: the network cannot be exported or cut, so that it cannot be compiled in any precision.
    """
    started = perf_counter()
    images = np.random.default_rng(0).standard_normal((SAMPLES, *spec.shape), dtype=np.float32)
    graph = export_onnx(network, spec)
    segments = _cut(graph, images)
    conversions: dict[str, Callable[[], MultiExitGraph]] = {
        "fp16": lambda: to_fp16(graph, images[:1]),
        "int8": lambda: quantise_int8(graph, images),
    }
    problems: dict[str, str] = {}
    shares: tuple[float, ...] = ()
    for precision, convert in conversions.items():
        try:
            converted = _cut(convert(), images)
        except CheckpointError as error:
            problems[precision] = str(error)
        else:
            shares = tuple(int8_macs_share(segment.model) for segment in converted)
    return DryRun(
        macs=tuple(total_macs(segment.model) for segment in segments),
        int8_shares=() if "int8" in problems else shares,
        problems=problems,
        seconds=perf_counter() - started,
    )


def _cut(graph: MultiExitGraph, images: NDArray[np.float32]) -> list[Segment]:
    """Cut a graph and check that its segments compute the same outputs."""
    decided = add_decisions(graph)
    segments = cut_segments(decided)
    assert_chain_equals_whole(decided, segments, images[:1])
    return segments
