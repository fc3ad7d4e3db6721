"""Many images at once on the GPU: after each exit those that go on are put together there."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pycuda.driver as driver
from cuda.core import Stream
from numpy.typing import NDArray

from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import SegmentSpec
from edge.cuda.base import MAX_BATCH, DeviceEngine
from edge.cuda.chain import said_sizes, write_said
from edge.cuda.kernels import DECIDED
from edge.cuda.memory import NON_BLOCKING, Buffers, waited_for
from edge.cuda.runtime import Runtime
from edge.decision import Predictions, allocate_predictions
from edge.errors import EngineError

PACKED = "packed "
"""What the name of a tensor begins with of which only those rows are left that go on."""


class _Ready(NamedTuple):
    """What images travel in."""

    stream: driver.Stream
    buffers: Buffers
    run: list[Callable[[int, int], None]]


class CudaBatch:
    """A chain of engines whose batch is not pinned, and memory for as many images as they take.

    The host waits once for each segment that runs: it has to say how many images the next one takes.
    """

    def __init__(
        self, chain: ChainSpec, engines: Sequence[DeviceEngine], runtime: Runtime, most: int = MAX_BATCH
    ) -> None:
        """Allocate everything and bind the segments.

        Raises:
            EngineError: there is no room for it.
        """
        self._spec, self._engines, self._kernels, self._most = chain, engines, runtime.kernels, most
        self._classifying = runtime.context.activate("classifying a batch")
        self._closing = runtime.context.activate("closing a batch")
        self._cuts = [[s for s in segment.inputs if s.name in segment.cuts_in] for segment in chain.segments]
        with runtime.context.activate("preparing for a batch"):
            buffers = self._allocated(uploads=not runtime.context.is_integrated)
            self._ready: _Ready | None = self._prepared(buffers)

    def classify(self, images: NDArray[np.float32], thresholds: NDArray[np.float32]) -> Predictions:
        """Classify preprocessed images; see `edge.inference.base.Batch`."""
        if self._ready is None:
            raise EngineError("this batch was closed; load the classifier again")
        decisions = allocate_predictions(len(images))
        for start in range(0, len(images), self._most):
            part = slice(start, start + self._most)
            with self._classifying:
                found = self._decided(self._ready, images[part], thresholds)
            for field in Predictions._fields:
                getattr(decisions, field)[part] = found[field]
        return decisions

    def close(self) -> None:
        """Let go of memory, stream and engines; may be called twice."""
        if self._ready is None:
            return
        with self._closing:
            ready, self._ready = self._ready, None
            waited_for(ready.stream)
            ready.buffers.close()
            del ready  # while the context is current: that is when pinned memory and streams are freed

    def _allocated(self, *, uploads: bool) -> Buffers:
        segments, most = self._spec.segments, self._most
        tensors = {
            spec.name: spec.nbytes_of_one for segment in segments for spec in (*segment.inputs, *segment.outputs)
        }
        sent = {name: size for name, size in tensors.items() if name.startswith("threshold_")}
        sent |= {"images": 4 * most, "image": most * tensors["image"]}
        stays = {name: most * size for name, size in tensors.items() if name not in sent}
        stays |= {PACKED + spec.name: most * spec.nbytes_of_one for cuts in self._cuts for spec in cuts}
        return Buffers(
            sent=sent,
            constant=said_sizes(len(segments)),
            stays={**stays, "going_on": 4 * most},
            told={"decided": most * DECIDED.itemsize, "count": 4},
            uploads=uploads,
        )

    def _prepared(self, buffers: Buffers) -> _Ready:
        """Bind the engines, and say what is said once."""
        try:
            write_said(buffers, self._spec)
            pairs = zip(self._spec.segments, self._engines, strict=True)
            run = [engine.bind_batch(self._places(buffers, segment)) for segment, engine in pairs]
            stream = driver.Stream(NON_BLOCKING)
            buffers.send_constants(stream)
        except BaseException:
            buffers.close()
            raise
        return _Ready(stream, buffers, run)

    def _places(self, buffers: Buffers, segment: SegmentSpec) -> dict[str, int]:
        """Return where a segment finds its tensors: its cuts are what is left of those of the segment before."""
        at = buffers.addresses
        return at | {spec.name: at[PACKED + spec.name] for spec in segment.inputs if PACKED + spec.name in at}

    def _decided(self, ready: _Ready, images: NDArray[np.float32], thresholds: NDArray[np.float32]) -> NDArray[np.void]:
        """Run a chain of images that fit in."""
        rows, view = len(images), ready.buffers.view
        view("image", np.float32, (-1, *images.shape[1:]))[:rows] = images
        view("images", np.int32)[:] = np.arange(self._most)
        for k, value in enumerate(thresholds):
            view(f"threshold_{k}", np.float32)[0] = value
        ready.buffers.send(ready.stream, unused_bytes=(self._most - rows) * images[0].nbytes)
        for index, run in enumerate(ready.run):
            if index:
                self._pack(ready, index, rows)
            run(int(ready.stream.handle), rows)
            rows = self._left(ready, index, rows)
            if not rows:
                break
        return view("decided", DECIDED)[: len(images)]

    def _left(self, ready: _Ready, index: int, rows: int) -> int:
        """Note who leaves at an exit; return how many go on."""
        on, at = Stream.from_handle(ready.stream.handle), ready.buffers.addresses
        places = {name: at[name] for name in ("decided", "images", "going_on", "count")}
        self._kernels.survivors(on, at[f"said_{index}"], rows, **places)
        ready.stream.synchronize()
        return int(ready.buffers.view("count", np.int32)[0])

    def _pack(self, ready: _Ready, index: int, rows: int) -> None:
        """Put the rows together that go on to a segment."""
        on, at = Stream.from_handle(ready.stream.handle), ready.buffers.addresses
        for spec in self._cuts[index]:
            self._kernels.gather(on, at[spec.name], at["going_on"], rows, spec.nbytes_of_one, at[PACKED + spec.name])
