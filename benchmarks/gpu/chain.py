"""`python -m benchmarks cuda-chain`: exits decided on the GPU against exits the host looks at, side by side."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import pycuda.driver as driver
from cuda.core.graph import GraphBuilder

from benchmarks.gpu.segments import frame_for, timed_classifier, timed_engines
from benchmarks.results import command_line, write_result
from edge.classifier import Classifier
from edge.console import print_table, say, tracked
from edge.cuda import opened
from edge.cuda.chain import Chain, On
from edge.cuda.device import device_facts
from edge.cuda.graph import captured
from edge.cuda.runs import GraphRun, Run
from edge.cuda.runtime import Runtime
from edge.cuda.slot import CudaSlot
from edge.errors import EngineError
from edge.machine import conditions
from edge.preprocess import Frame
from edge.statistics import latency_from_ms

DURATIONS_US = (20, 50, 100, 200)
SHARES = (0.6, 0.25, 0.15)
"""Of frames that leave at each exit."""
FRAMES, WARM_UP = 3000, 200

Way = Callable[[Frame], object]


def run_chain(output: Path) -> None:
    """Write `cuda_chain.json`.

    Raises:
        EngineError: there is no GPU, or graphs cannot decide on it.
    """
    runtime = opened()
    if runtime.level != "graph":
        raise EngineError(f"there is nothing to compare here: {runtime.why_not_graph}")
    rows = [measured(runtime, duration) for duration in tracked(DURATIONS_US, "segments of 20 to 200 us")]
    result = {
        "command": command_line(),
        "conditions": conditions() | {"gpu": device_facts()},
        "what": "timed kernels, no TensorRT",
        "shares": SHARES,
        "frames": FRAMES,
        "rows": rows,
    }
    write_result(output, result)
    columns = ("segment", "graph p50", "stepwise p50", "ratio", "ideal mean", "realised saving", "untaken condition")
    print_table("the chain in one CUDA graph, and step by step", columns, [cells(row) for row in rows])
    say(f"every row is in {output}")


def measured(runtime: Runtime, duration_us: float) -> dict[str, Any]:
    """Return what segments of one duration take, in every way, frame by frame in turns."""
    exits = len(SHARES)
    engines = timed_engines(runtime, (duration_us,) * exits)
    ways: dict[str, Way] = {
        "graph": one_by_one(timed_classifier(runtime, engines, "graph")),
        "stepwise": one_by_one(timed_classifier(runtime, engines, "stepwise")),
    }
    bare = [f"bare 0..{k}" for k in range(exits)]
    for k, name in enumerate(bare):
        ways[name] = one_by_one(timed_classifier(runtime, engines, "graph", partial(BareSlot, last=k)))
    drawn = np.random.default_rng(0).choice(exits, size=WARM_UP + FRAMES, p=SHARES)
    times_us = interleaved(ways, [frame_for(int(k), exits) for k in drawn])
    taken = drawn[WARM_UP:]
    ideal = sum(float((taken == k).mean() * times_us[name].mean()) for k, name in enumerate(bare))
    whole, graph = float(times_us[bare[-1]].mean()), times_us["graph"]
    at_first = float(np.median(graph[taken == 0]) - np.median(times_us[bare[0]]))
    return {
        "segment_us": duration_us,
        "latency_us": {name: _microseconds(times) for name, times in times_us.items()},
        "stepwise_over_graph_p50": float(np.median(times_us["stepwise"]) / np.median(graph)),
        "ideal_mean_us": ideal,
        "ideal_over_measured": ideal / float(graph.mean()),
        "realised_saving": (whole - float(graph.mean())) / (whole - ideal),
        "untaken_condition_us": at_first,
    }


def one_by_one(classifier: Classifier) -> Way:
    """Return what classifies a frame and waits for the answer."""
    return lambda frame: classifier.classify(frame).exit_index


class BareSlot(CudaSlot):
    """A slot whose graph is the segments up to one, with nothing between them and one answer noted."""

    def __init__(self, classifier: Classifier, runtime: Runtime, last: int) -> None:
        """Say which segment is the last."""
        super().__init__(classifier, runtime)
        self._last = last

    def record(self, chain: Chain, stream: driver.Stream) -> Run:
        """Return the bare segments as a graph."""
        return BareRun(chain, stream, self._last)


class BareRun(GraphRun):
    """Segments in a row, whatever their exits say."""

    def __init__(self, chain: Chain, stream: driver.Stream, last: int) -> None:
        """Record them."""

        def fill(builder: GraphBuilder) -> None:
            on = On(builder, int(builder.stream.handle))
            chain.enqueue_input(on, stream)
            for k in range(last):
                chain.enqueue_segment(on, k)
            chain.enqueue_exit(on, last)

        super().__init__(captured(stream, fill), stream)


def interleaved(ways: dict[str, Way], frames: Sequence[Frame]) -> dict[str, np.ndarray]:
    """Time every way on every frame, in an order drawn for each; return microseconds of each, without the warm-up."""
    times: dict[str, list[int]] = {name: [] for name in ways}
    turns, generator = list(ways.items()), np.random.default_rng(1)
    for frame in frames:
        for index in generator.permutation(len(turns)):
            name, way = turns[index]
            started = perf_counter_ns()
            way(frame)
            times[name].append(perf_counter_ns() - started)
    return {name: np.array(taken[WARM_UP:]) / 1e3 for name, taken in times.items()}


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a line of the table."""
    latency = row["latency_us"]
    return (
        f"{row['segment_us']} us",
        f"{latency['graph']['p50']:.1f} us",
        f"{latency['stepwise']['p50']:.1f} us",
        f"{row['stepwise_over_graph_p50']:.2f}x",
        f"{row['ideal_mean_us']:.1f} us",
        f"{row['realised_saving']:.1%}",
        f"{row['untaken_condition_us']:.1f} us",
    )


def _microseconds(times_us: np.ndarray) -> dict[str, float]:
    latency = latency_from_ms(times_us / 1e3)
    return {name: 1e3 * getattr(latency, name) for name in ("mean", "p50", "p95", "p99")} | {"spread": latency.spread}
