"""Chains of segments with a fixed duration, and interleaved timing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycuda.driver as driver
from cuda.core import LaunchConfig, ObjectCode, Program, ProgramOptions, Stream, launch
from numpy.typing import NDArray

from edge.bundle import tensors
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import InputSpec, SegmentSpec, TensorSpec
from edge.cuda.base import DeviceEngine
from edge.cuda.memory import Memory
from edge.cuda.runtime import Runtime
from edge.cuda.slot import CudaSlot, Mode
from edge.decision import Prediction
from edge.frames.base import Frame, PixelFormat
from edge.inference.base import Slot
from edge.measure.interleave import interleave
from edge.measure.latency import latency_from_ms

SOURCE = Path(__file__).with_name("segments.cu")
MODES: tuple[Mode, ...] = ("graph", "stepwise")
THRESHOLD = 0.5
SURE = 9.0
"""A logit with a confidence above the threshold, for any number of exits."""


class Outcome(NamedTuple):
    """Exit and label of one frame."""

    exit_index: int
    label_index: int


Predictor = Callable[[Frame], Outcome | Prediction]


@dataclass(frozen=True, slots=True)
class Workload:
    """A chain without a bundle, with its engines and thresholds."""

    chain: ChainSpec
    engines: Sequence[DeviceEngine]
    thresholds: tuple[float, ...]

    def slot(self, runtime: Runtime, mode: Mode) -> CudaSlot:
        """Return a slot that executes the chain in this mode."""
        return CudaSlot(self.chain, self.engines, runtime, mode)

    def predictor(self, slot: Slot) -> Predictor:
        """Return the function that classifies a frame in a slot."""
        thresholds = np.array(self.thresholds, dtype=np.float32)

        def predict(frame: Frame) -> Prediction:
            slot.start(frame, thresholds)
            return slot.result()

        return predict


class Series(NamedTuple):
    """Times and predictions of one predictor, frame by frame."""

    us: NDArray[np.float64]
    exit_index: NDArray[np.intp]
    label_index: NDArray[np.intp]


class EventClock:
    """CUDA events before an executor's first launch and after its last."""

    def __init__(self, runtime: Runtime) -> None:
        """Create the events."""
        self._context = runtime.activate("timing with CUDA events")
        with self._context:
            self.before, self.after = driver.Event(), driver.Event()

    def us(self) -> float:
        """Return the microseconds between the events; the stream must be synchronised."""
        with self._context:
            return 1e3 * float(self.after.time_since(self.before))


def run_interleaved(
    predictors: Mapping[str, Predictor], frames: Sequence[Frame], warm_up: int, clock: EventClock | None = None
) -> dict[str, Series]:
    """Interleave predictors, timed by the host or by CUDA events; drop the first `warm_up` frames."""

    def timed(predict: Predictor) -> Callable[[Frame], tuple[Outcome | Prediction, float]]:
        return lambda frame: (predict(frame), 0.0 if clock is None else clock.us())

    series = {}
    for name, run in zip(predictors, interleave([timed(p) for p in predictors.values()], frames), strict=True):
        predictions, event_us = zip(*run.results[warm_up:], strict=True)
        us = 1e3 * run.times_ms[warm_up:] if clock is None else np.array(event_us)
        decisions = np.array([(p.exit_index, p.label_index) for p in predictions], dtype=np.intp)
        series[name] = Series(us, decisions[:, 0], decisions[:, 1])
    return series


def latency_us(us: NDArray[np.float64]) -> dict[str, float]:
    """Return mean and percentiles in microseconds, and their spread relative to p50."""
    latency = latency_from_ms(us / 1e3)
    return {name: 1e3 * getattr(latency, name) for name in ("mean", "p50", "p95", "p99")} | {"spread": latency.spread}


class TimedEngine:
    """A segment of a fixed duration, which counts its runs on the GPU."""

    activation_bytes, sync = 0, None

    def __init__(self, code: ObjectCode, index: int, exits: int, duration_us: float) -> None:
        """Get the kernel from compiled code."""
        self._kernel = code.get_kernel("timed_segment")
        self._index, self._exits, self._duration_ns = index, exits, int(1000 * duration_us)
        self._counter = Memory({"runs": 4})

    def bind(self, addresses: Mapping[str, int]) -> Callable[[int], None]:
        """Bind addresses to the segment."""
        k = self._index
        [cut] = tensors.cut(k, 1)
        pointers = (addresses[tensors.IMAGE], addresses.get(cut, 0), addresses[tensors.logits(k)])
        arguments = (self._duration_ns, np.int32(k), np.int32(self._exits), *pointers, self._counter.addresses["runs"])
        config = LaunchConfig(grid=1, block=32)
        return lambda stream: launch(Stream.from_handle(stream), config, self._kernel, *arguments)

    def bind_batch(self, addresses: Mapping[str, int]) -> Callable[[int, int], None]:
        """Refuse batches: a timed segment takes one sample."""
        raise NotImplementedError

    def runs(self) -> int:
        """Return how often the segment ran."""
        return int(self._counter.view("runs", np.uint32)[0])


def timed_engines(runtime: Runtime, durations_us: Sequence[float]) -> list[TimedEngine]:
    """Return one engine for each duration."""
    with runtime.activate("compiling timed segments"):
        program = Program(SOURCE.read_text(), "c++", ProgramOptions(std="c++17", arch=runtime.arch))
        code = program.compile("cubin")
        exits = len(durations_us)
        return [TimedEngine(code, index, exits, duration) for index, duration in enumerate(durations_us)]


def timed_workload(engines: Sequence[DeviceEngine]) -> Workload:
    """Return a chain of timed segments: value k of an input array is the logit of exit k."""
    exits = len(engines)
    spec = InputSpec("array", None, exits, 1, 1, (0.0,) * exits, (1.0,) * exits)
    segments = tuple(_segment(k, exits) for k in range(exits))
    chain = ChainSpec(spec, tuple(f"exit {k}" for k in range(exits)), segments, (1.0,) * exits)
    return Workload(chain, engines, (THRESHOLD,) * (exits - 1))


def frame_for(exit_index: int, exits: int) -> Frame:
    """Return a frame that takes this exit."""
    logits = np.zeros((exits, 1, 1), dtype=np.float32)
    logits[exit_index:] = SURE
    return Frame(logits, PixelFormat.ARRAY)


def _segment(k: int, exits: int) -> SegmentSpec:
    is_last = k == exits - 1
    cuts_in = tensors.cut(k - 1, 1) if k else ()
    cuts_out = () if is_last else tensors.cut(k, 1)
    inputs = [TensorSpec(name, "float32", (None, 1)) for name in cuts_in]
    inputs = inputs or [TensorSpec(tensors.IMAGE, "float32", (None, exits, 1, 1))]
    outputs = [TensorSpec(name, "float32", (None, 1)) for name in cuts_out]
    outputs.append(TensorSpec(tensors.logits(k), "float32", (None, exits)))
    if not is_last:
        inputs.append(TensorSpec(tensors.threshold(k), "float32", (1,)))
    return SegmentSpec("", tuple(inputs), tuple(outputs), 0.0, k, cuts_in, cuts_out)
