"""`python -m benchmarks cuda-chain`: the chain as one CUDA graph against stepwise execution, interleaved."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cuda.core.graph import Graph, GraphDefinition
from numpy.typing import NDArray

from benchmarks.gpu import torch_unavailable_reason
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
from edge.cuda.chain import Chain
from edge.cuda.executor import Executor
from edge.cuda.graph import capture, chain_graph, instantiate, step_graph
from edge.cuda.identity import device_facts
from edge.cuda.probe import chain_unsupported_reason
from edge.cuda.runtime import Runtime
from edge.cuda.slot import CudaSlot
from edge.errors import EngineError
from edge.system import conditions

DURATIONS_US = (20, 50, 100, 200)
SHARES = (0.6, 0.25, 0.15)
"""Shares of frames that take each exit."""
FRAMES, WARM_UP = 3000, 200
GraphFactory = Callable[[Chain, Sequence[GraphDefinition]], Sequence[Graph]]


def run_chain(output: Path) -> None:
    """Write `cuda_chain.json`.

    Raises:
        EngineError: there is no GPU, or its graphs have no conditional nodes.
    """
    runtime = get_runtime()
    if reason := chain_unsupported_reason(runtime, "graph"):
        raise EngineError(f"this GPU cannot run conditional graph nodes ({reason}); update the driver to CUDA 12.5")
    gpu = device_facts()
    rows = [measure_row(runtime, duration) for duration in DURATIONS_US]
    result: dict[str, Any] = {
        "command": command_line(),
        "conditions": conditions() | {"gpu": gpu},
        "what": f"timed kernels on {gpu['gpu']}, no TensorRT",
        "shares": SHARES,
        "frames": FRAMES,
        "rows": rows,
    }
    result |= worst_figures(rows)
    write_result(output, result)  # kept even if torch fails in this process
    if reason := torch_unavailable_reason():
        result["users"] = f"not run: {reason}"
    else:
        from benchmarks.gpu.networks import compare_with_user_code

        result["users"] = compare_with_user_code(runtime, SHARES, FRAMES, WARM_UP)
    write_result(output, result)
    log(f"wrote {output}")


class EventTimed(Executor):
    """An executor with a CUDA event before its first step and one after each; the last record counts."""

    def __init__(self, clock: EventClock, chain: Chain, graphs: Sequence[Graph | None]) -> None:
        """Store the clock."""
        super().__init__(chain, graphs)
        self._clock = clock

    def step(self, index: int) -> None:
        """Start one step."""
        if index == 0:
            self._clock.before.record(self.chain.stream.owner)
        super().step(index)
        self._clock.after.record(self.chain.stream.owner)


class ExecutorSlot(CudaSlot):
    """A slot whose graphs a factory makes from the captured segments."""

    def __init__(
        self, workload: Workload, runtime: Runtime, make_graphs: GraphFactory, clock: EventClock | None = None
    ) -> None:
        """Store the factory, and the events that time the executor if there are any."""
        super().__init__(workload.chain, workload.engines, runtime)
        self._make_graphs, self._clock = make_graphs, clock

    def make_executor(self, chain: Chain) -> Executor:
        """Return the executor of a bound chain."""
        graphs = self._make_graphs(chain, [capture(segment) for segment in chain.segments])
        return Executor(chain, graphs) if self._clock is None else EventTimed(self._clock, chain, graphs)


def graph_factories(exits: int) -> dict[str, GraphFactory]:
    """Return the executions to compare: graph, stepwise, and bare segments up to each exit."""
    factories: dict[str, GraphFactory] = {
        "graph": lambda chain, segments: [chain_graph(chain, segments)],
        "stepwise": lambda chain, segments: [step_graph(chain, *step) for step in enumerate(segments)],
    }
    return factories | {bare(last): partial(_bare_graph, last) for last in range(exits)}


def bare(last: int) -> str:
    """Return the name of the execution of segments 0 to `last` without exits between them."""
    return f"bare 0..{last}"


def thresholds_of(name: str, workload: Workload) -> Workload:
    """Return a workload for an execution: without exits between them, the only exit answers whatever its confidence."""
    return workload if name in MODES else replace(workload, thresholds=(0.0,) * len(workload.thresholds))


def _bare_graph(last: int, chain: Chain, segments: Sequence[GraphDefinition]) -> list[Graph]:
    graph = GraphDefinition()
    node = chain.add_input(graph)
    for segment in segments[: last + 1]:
        node = node.embed(segment)
    chain.decision(last).after(node)
    return [instantiate(chain, graph)]


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
            for execution, factory in graph_factories(exits).items():
                slot = ExecutorSlot(workload, runtime, factory, clock)
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
