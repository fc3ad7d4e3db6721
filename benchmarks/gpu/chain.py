"""`python -m benchmarks cuda-chain`: the chain as one CUDA graph against stepwise execution, interleaved."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cuda.core.graph import GraphDefinition
from numpy.typing import NDArray

from benchmarks.gpu.segments import (
    MODES,
    EventClock,
    Series,
    Workload,
    frame_for,
    latency_us,
    run_interleaved,
    timed_engines,
    timed_workload,
)
from benchmarks.results import command_line, write_result
from edge.console import log
from edge.cuda import get_runtime
from edge.cuda.executor import Executor
from edge.cuda.frame_input import Transfer
from edge.cuda.runtime import Runtime
from edge.cuda.slot import CudaSlot, Mode
from edge.doctor.probe import chain_unsupported_reason
from edge.errors import EngineError
from edge.frames.base import Frame
from edge.system import conditions

DURATIONS_US = (20, 50, 100, 200)
SHARES = (0.6, 0.25, 0.15)
"""Shares of frames that take each exit."""
FRAMES, WARM_UP = 3000, 200


def run_chain(output: Path) -> None:
    """Write `cuda_chain.json`.

    Raises:
        EngineError: there is no GPU, or its graphs have no conditional nodes.
    """
    runtime = get_runtime()
    if reason := chain_unsupported_reason(runtime, "graph"):
        raise EngineError(f"this GPU cannot run conditional graph nodes ({reason}); update the driver to CUDA 12.5")
    gpu = runtime.facts
    rows = [measure_row(runtime, duration) for duration in DURATIONS_US]
    result: dict[str, Any] = {
        "command": command_line(),
        "conditions": conditions() | {"gpu": gpu},
        "what": f"timed kernels on {gpu['gpu']}, no TensorRT",
        "shares": SHARES,
        "frames": FRAMES,
        "rows": rows,
    }
    write_result(output, result | worst_figures(rows))
    log(f"wrote {output}")


def time_steps(executor: Executor, clock: EventClock) -> None:
    """Record a CUDA event before an executor's first step and one after each; the last record counts."""
    step, stream = executor.step, executor.chain.stream

    def timed_step(index: int) -> None:
        if index == 0:
            clock.before.record(stream.owner)
        step(index)
        clock.after.record(stream.owner)

    executor.step = timed_step  # type: ignore[method-assign]


def bare_graph(executor: Executor, last: int) -> GraphDefinition:
    """Return the segments up to `last` as a graph, without exits between them."""
    definition, chain = GraphDefinition(), executor.chain
    node: Any = definition
    for operation in (*executor.frames.operations, *chain.segments[: last + 1], chain.decision(last)):
        node = operation.after(node)
    return definition


class Execution(NamedTuple):
    """A way to execute the chain."""

    mode: Mode
    last: int | None = None
    """Launch the segments up to this one as one graph without exits between them."""


class ExecutionSlot(CudaSlot):
    """A slot that executes its chain in a given way."""

    def __init__(
        self, workload: Workload, runtime: Runtime, execution: Execution, clock: EventClock | None = None
    ) -> None:
        """Store the way, and the events that time it if there are any."""
        self._last, self._clock = execution.last, clock
        super().__init__(workload.chain, workload.engines, runtime, execution.mode)

    def open_executor(self, frame: Frame, transfer: Transfer) -> Executor:
        """Return an executor that executes the chain in this way."""
        executor = super().open_executor(frame, transfer)
        if self._last is not None:
            executor.use_graph(bare_graph(executor, self._last))
        if self._clock is not None:
            time_steps(executor, self._clock)
        return executor


def executions(exits: int) -> dict[str, Execution]:
    """Return the executions to compare: graph, stepwise, and bare segments up to each exit."""
    return {mode: Execution(mode) for mode in MODES} | {bare(k): Execution("stepwise", k) for k in range(exits)}


def bare(last: int) -> str:
    """Return the name of the execution of segments 0 to `last` without exits between them."""
    return f"bare 0..{last}"


def thresholds_of(name: str, workload: Workload) -> Workload:
    """Return a workload for an execution: without exits between them, the only exit answers whatever its confidence."""
    return workload if name in MODES else replace(workload, thresholds=(0.0,) * len(workload.thresholds))


def measure_row(runtime: Runtime, duration_us: float) -> dict[str, Any]:
    """Compare all executors on segments of one duration, in two passes: recording events takes host time."""
    exits = len(SHARES)
    workload = timed_workload(timed_engines(runtime, (duration_us,) * exits))
    drawn = np.random.default_rng(0).choice(exits, size=WARM_UP + FRAMES, p=SHARES)
    frames = [frame_for(int(k), exits) for k in drawn]
    row: dict[str, Any] = {"segment_us": duration_us}
    clocks: dict[str, EventClock | None] = {"host_clock": None, "cuda_events": EventClock(runtime)}
    for name, clock in clocks.items():
        with ExitStack() as stack:
            predictors = {}
            for execution, way in executions(exits).items():
                slot = ExecutionSlot(workload, runtime, way, clock)
                stack.callback(slot.close)
                predictors[execution] = thresholds_of(execution, workload).predictor(slot)
            row[name] = compare_executors(run_interleaved(predictors, frames, WARM_UP, clock), drawn[WARM_UP:])
        ratio, saving = row[name]["stepwise_over_graph_p50"], row[name]["realised_saving"]
        log(f"{duration_us} us segments, {name}: stepwise over graph {ratio:.2f}x, realised saving {saving:.0%}")
    return row


def compare_executors(series: Mapping[str, Series], drawn: NDArray[np.intp]) -> dict[str, Any]:
    """Return times and ratios of all executors by one clock; `drawn` are the exits that the frames must take.

    Raises:
        EngineError: a frame took another exit.
    """
    for name in MODES:
        if not np.array_equal(series[name].exit_index, drawn):
            raise EngineError(f"in {name} mode, frames took other exits than they must; report this")
    us = {name: run.us for name, run in series.items()}
    exits, graph = range(len(SHARES)), us["graph"]
    ideal = sum(float((drawn == k).mean() * us[bare(k)].mean()) for k in exits)
    whole, mean = float(us[bare(exits[-1])].mean()), float(graph.mean())
    return {
        "latency_us": {name: latency_us(times) for name, times in us.items()},
        "stepwise_over_graph_p50": float(np.median(us["stepwise"]) / np.median(graph)),
        "ideal_mean_us": ideal,
        "ideal_over_measured": ideal / mean,
        "realised_saving": (whole - mean) / (whole - ideal),
        "untaken_condition_us": float(np.median(graph[drawn == 0]) - np.median(us[bare(0)])),
    }


def worst_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the worst figures over all durations, by the host's clock; the ratio is for the shortest duration."""
    figures = [row["host_clock"] for row in rows]
    return {
        "realised_saving": min(row["realised_saving"] for row in figures),
        "stepwise_over_graph_p50": figures[0]["stepwise_over_graph_p50"],
        "untaken_condition_us": max(row["untaken_condition_us"] for row in figures),
    }
