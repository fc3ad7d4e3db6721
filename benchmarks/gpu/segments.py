"""Chains of segments that take a time that is set, behind the seam that TensorRT's engines stand behind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cuda.core import LaunchConfig, ObjectCode, Program, ProgramOptions, Stream, launch

from edge.bundle.manifest import InputSpec, PrecisionSpec, SegmentSpec, TensorSpec, Thresholds
from edge.cuda.memory import PinnedMemory
from edge.cuda.runtime import Level, Runtime
from edge.cuda.slot import CudaSlot
from edge.inference.classifier import Classifier

SOURCE = Path(__file__).with_name("segments.cu")
THRESHOLD = 0.5


class TimedEngine:
    """One segment; counts how often it ran, on the GPU."""

    def __init__(self, code: ObjectCode, index: int, exits: int, duration_us: float) -> None:
        """Take the kernel."""
        self._kernel = code.get_kernel("segment")
        self._index, self._is_last, self._duration_ns = index, index == exits - 1, int(1000 * duration_us)
        self._counter = PinnedMemory({"ran": 4})

    def bind(self, addresses: Mapping[str, int]) -> Callable[[int], None]:
        """Tie addresses to the segment."""
        k = self._index
        early = ("", "") if self._is_last else (f"threshold_{k}", f"cut_{k}")
        threshold, cut = (addresses.get(name, 0) for name in early)
        answer = [addresses[f"{kind}_{k}"] for kind in ("logits", "confidence", "label")]
        arguments = [addresses["image"], threshold, cut, *answer, addresses.get(f"exit_{k}", 0)]
        config, ran = LaunchConfig(grid=1, block=32), self._counter.addresses["ran"]

        def enqueue(stream: int) -> None:
            on = Stream.from_handle(stream)
            launch(on, config, self._kernel, self._duration_ns, np.int32(k), *arguments, ran)

        return enqueue

    def runs(self) -> int:
        """Return how often the segment ran so far."""
        return int(self._counter.view("ran", np.uint32)[0])


def timed_engines(runtime: Runtime, durations_us: Sequence[float]) -> list[TimedEngine]:
    """Return an engine for each duration."""
    with runtime.context.activate("compiling timed segments"):
        program = Program(SOURCE.read_text(), "c++", ProgramOptions(std="c++17", arch=runtime.context.arch))
        code = program.compile("cubin")
        return [TimedEngine(code, k, len(durations_us), duration) for k, duration in enumerate(durations_us)]


def timed_classifier(runtime: Runtime, engines: Sequence[TimedEngine], level: Level) -> Classifier:
    """Return a classifier of these engines: an array's k-th value is how sure exit k is."""
    exits = len(engines)
    segments = tuple(_segment(k, exits) for k in range(exits))
    spec = InputSpec("array", None, exits, 1, 1, (0.0,) * exits, (1.0,) * exits)
    return classifier_of(replace(runtime, level=level), spec, segments, engines, (THRESHOLD,) * (exits - 1))


def classifier_of(
    runtime: Runtime,
    spec: InputSpec,
    segments: tuple[SegmentSpec, ...],
    engines: Sequence[Any],
    thresholds: Sequence[float],
) -> Classifier:
    """Return a classifier of segments that no bundle holds."""
    fitted = Thresholds(tuple(thresholds), "accuracy_gap", 0.0, "none", None, samples=1, split="")
    whole = SegmentSpec("", segments[0].inputs[:1], segments[-1].outputs, 0.0)
    precision = PrecisionSpec(segments, whole, fitted, (1.0,) * len(segments), (), "")
    return Classifier(
        input_spec=spec, precision=precision, engines=engines, make_slot=lambda one: CudaSlot(one, runtime)
    )


def frame_for(exit_index: int, exits: int) -> np.ndarray:
    """Return an array with which this exit answers, and no exit before it."""
    sure = np.zeros((exits, 1, 1), dtype=np.float32)
    sure[exit_index:] = 0.9
    return sure


def _segment(k: int, exits: int) -> SegmentSpec:
    image = TensorSpec("image", "float32", (None, exits, 1, 1))
    entering = [image] if k == 0 else [TensorSpec(f"cut_{k - 1}", "float32", (None, 1))]
    answer = [
        TensorSpec(f"logits_{k}", "float32", (None, 2)),
        TensorSpec(f"confidence_{k}", "float32", (None,)),
        TensorSpec(f"label_{k}", "int32", (None,)),
    ]
    if k == exits - 1:
        return SegmentSpec("", tuple(entering), tuple(answer), 0.0)
    inputs = (*entering, TensorSpec(f"threshold_{k}", "float32", (1,)))
    outputs = (TensorSpec(f"cut_{k}", "float32", (None, 1)), *answer, TensorSpec(f"exit_{k}", "bool", (None,)))
    return SegmentSpec("", inputs, outputs, 0.0)
