"""`python -m benchmarks cuda-chain`: exits decided on the GPU against exits the host looks at, side by side."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu import why_no_torch
from benchmarks.gpu.events import Stopwatch, WatchedGraph, WatchedSteps
from benchmarks.gpu.plot import write_saving
from benchmarks.gpu.recorded import Record, RecordedSlot, bare, recorded_ways
from benchmarks.gpu.segments import frame_for, timed_classifier, timed_engines
from benchmarks.gpu.ways import Answering, Answers, answers_of, by_the_host, interleaved, summed_up
from benchmarks.results import command_line, write_result
from edge.console import log, print_table
from edge.cuda import get_runtime
from edge.cuda.executors import GraphRun, StepwiseRun
from edge.cuda.identity import device_facts
from edge.cuda.runtime import Runtime
from edge.errors import EngineError
from edge.inference.classifier import Classifier
from edge.system import conditions

DURATIONS_US = (20, 50, 100, 200)
SHARES = (0.6, 0.25, 0.15)
"""Of frames that leave at each exit."""
FRAMES, WARM_UP = 3000, 200
CLOCKS = ("host_clock", "cuda_events")


def run_chain(output: Path) -> None:
    """Write `cuda_chain.json`, and beside it a picture of the saving.

    Raises:
        EngineError: there is no GPU, or graphs cannot decide on it.
    """
    runtime = get_runtime()
    if runtime.level != "graph":
        raise EngineError(f"there is nothing to compare here: {runtime.graph_unsupported_reason}")
    gpu = device_facts()
    result: dict[str, Any] = {
        "command": command_line(),
        "conditions": conditions() | {"gpu": gpu},
        "what": f"timed kernels on {gpu['gpu']}, no TensorRT",
        "shares": SHARES,
        "frames": FRAMES,
        "rows": [measured(runtime, duration) for duration in DURATIONS_US],
    }
    result |= worst_of(result["rows"])
    print_rows(result["rows"])
    write_result(output, result)  # kept, whatever torch does in this process
    result["users"] = beside_users(runtime)
    write_result(output, result)
    write_saving(output.with_suffix(".png"), result["rows"], result["what"])
    log(f"every row is in {output}, the saving over segment time in {output.with_suffix('.png')}")


def beside_users(runtime: Runtime) -> dict[str, Any] | str:
    """Return how networks in torch compare with what a user would write, or why they were not run."""
    if why := why_no_torch():
        log(f"networks in torch, against what a user would write, were not run: {why}")
        return f"not run: {why}"
    from benchmarks.gpu.users import against_users, print_users

    found = against_users(runtime, SHARES, FRAMES, WARM_UP)
    print_users(found)
    return found


def measured(runtime: Runtime, duration_us: float) -> dict[str, Any]:
    """Return what segments of one duration take in every way, by the host's clock and then by the GPU's.

    In two passes: recording events takes the host's time.
    """
    log(f"segments of {duration_us} us, every way in turns")
    exits = len(SHARES)
    classifier = timed_classifier(runtime, timed_engines(runtime, (duration_us,) * exits), "graph")
    drawn = np.random.default_rng(0).choice(exits, size=WARM_UP + FRAMES, p=SHARES)
    frames, watch = [frame_for(int(k), exits) for k in drawn], Stopwatch(runtime)
    watched = recorded_ways(exits, partial(WatchedGraph, watch=watch), partial(WatchedSteps, watch=watch))
    passes = (recorded_ways(exits, GraphRun, StepwiseRun), by_the_host), (watched, watch.timing)
    row: dict[str, Any] = {"segment_us": duration_us}
    for clock, (ways, timing) in zip(CLOCKS, passes, strict=True):
        with ExitStack() as stack:
            answering = slots_for(classifier, runtime, ways, stack)
            timed = {name: timing(answer) for name, answer in answering.items()}
            row[clock] = compared(interleaved(timed, frames, WARM_UP), drawn[WARM_UP:])
    return row


def slots_for(
    classifier: Classifier, runtime: Runtime, ways: Mapping[str, Record], stack: ExitStack
) -> dict[str, Answering]:
    """Return a slot's answers for each way; the slots are closed with the stack."""
    slots = {name: RecordedSlot(classifier, runtime, way) for name, way in ways.items()}
    for slot in slots.values():
        stack.callback(slot.close)
    return {name: answers_of(slot) for name, slot in slots.items()}


def compared(found: Mapping[str, Answers], taken: NDArray[np.intp]) -> dict[str, Any]:
    """Return every way's times by one clock, and what they come to; `taken` are the exits that were drawn.

    Raises:
        EngineError: another exit answered.
    """
    for name in ("graph", "stepwise"):
        if not np.array_equal(found[name].exit_index, taken):
            raise EngineError(f"{name}: other exits answered than were drawn; report this")
    us = {name: one.us for name, one in found.items()}
    exits, graph = range(len(SHARES)), us["graph"]
    ideal = sum(float((taken == k).mean() * us[bare(k)].mean()) for k in exits)
    whole, mean = float(us[bare(exits[-1])].mean()), float(graph.mean())
    return {
        "latency_us": {name: summed_up(times) for name, times in us.items()},
        "stepwise_over_graph_p50": float(np.median(us["stepwise"]) / np.median(graph)),
        "ideal_mean_us": ideal,
        "ideal_over_measured": ideal / mean,
        "realised_saving": (whole - mean) / (whole - ideal),
        "untaken_condition_us": float(np.median(graph[taken == 0]) - np.median(us[bare(0)])),
    }


def worst_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what is promised of segments of any duration, by the host's clock; the ratio is that of the shortest."""
    found = [row["host_clock"] for row in rows]
    return {
        "realised_saving": min(one["realised_saving"] for one in found),
        "stepwise_over_graph_p50": found[0]["stepwise_over_graph_p50"],
        "untaken_condition_us": max(one["untaken_condition_us"] for one in found),
    }


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each duration and clock."""
    columns = ("segment", "clock", "graph p50", "stepwise p50", "ratio", "ideal mean", "realised saving", "untaken")
    lines = [(f"{row['segment_us']} us", *cells(clock, row[clock])) for row in rows for clock in CLOCKS]
    print_table("the chain in one CUDA graph, and step by step", columns, lines)


def cells(clock: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a line of the table."""
    latency = found["latency_us"]
    return (
        clock.replace("_", " "),
        f"{latency['graph']['p50']:.1f} us",
        f"{latency['stepwise']['p50']:.1f} us",
        f"{found['stepwise_over_graph_p50']:.2f}x",
        f"{found['ideal_mean_us']:.1f} us",
        f"{found['realised_saving']:.1%}",
        f"{found['untaken_condition_us']:.1f} us",
    )
