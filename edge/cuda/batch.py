"""Many images at once on the GPU: after each exit those that go on are put together there."""

import numpy as np
import pycuda.driver as driver
from cuda.core import Stream
from numpy.typing import NDArray

from edge.batch import checked_images, undecided
from edge.classifier import Classifier
from edge.cuda.chain import nbytes, write_said
from edge.cuda.kernels import DECIDED, SAID
from edge.cuda.memory import NON_BLOCKING, Buffers
from edge.cuda.runtime import Runtime
from edge.decision import Decisions
from edge.errors import EngineError
from edge.manifest import SegmentSpec

PACKED = "packed "
"""What the name of a tensor begins with of which only those rows are left that go on."""


class CudaBatch:
    """A chain of engines whose batch is not pinned, and memory for as many images as they take.

    The host waits once for each segment that runs: it has to say how many images the next one takes.
    """

    def __init__(self, classifier: Classifier, runtime: Runtime, most: int) -> None:
        """Allocate everything and bind the segments.

        Raises:
            EngineError: there is no room for it.
        """
        self._classifier, self._kernels, self._most = classifier, runtime.kernels, most
        self._preparing = runtime.context.calling("preparing for a batch")
        self._classifying = runtime.context.calling("classifying a batch")
        self._closing = runtime.context.calling("closing a batch")
        segments = classifier.segments
        self._cuts = [[spec for spec in segment.inputs if spec.name.startswith("cut_")] for segment in segments]
        with self._preparing:
            self._stream = driver.Stream(NON_BLOCKING)
            self._buffers = self._allocated(uploads=not runtime.context.is_integrated)
            try:
                write_said(self._buffers, classifier.precision)
                pairs = zip(segments, classifier.engines, strict=True)
                self._run = [engine.bind_batch(self._places(segment)) for segment, engine in pairs]
            except BaseException:
                self._buffers.close()
                raise

    def classify(self, images: NDArray[np.float32]) -> Decisions:
        """Classify preprocessed images; see `edge.protocols.Batch`."""
        if not self._buffers.addresses:
            raise EngineError("this batch was closed; make another with `Backend.make_batch`")
        decisions = undecided(len(checked_images(images, self._classifier.input_spec)))
        for start in range(0, len(images), self._most):
            part = slice(start, start + self._most)
            with self._classifying:
                found = self._decided(images[part])
            for field in Decisions._fields:
                getattr(decisions, field)[part] = found[field]
        return decisions

    def close(self) -> None:
        """Let go of memory and engines; may be called twice."""
        with self._closing:
            self._stream.synchronize()
            self._run = []
            self._buffers.close()

    def _allocated(self, *, uploads: bool) -> Buffers:
        segments, most = self._classifier.segments, self._most
        exits = range(len(segments))
        tensors = {spec.name: nbytes(spec) for segment in segments for spec in (*segment.inputs, *segment.outputs)}
        sent = {f"said_{k}": SAID.itemsize for k in exits} | {f"threshold_{k}": 4 for k in exits[:-1]}
        sent |= {"images": 4 * most, "image": most * tensors["image"]}
        stays = {name: most * size for name, size in tensors.items() if name not in sent}
        stays |= {PACKED + spec.name: most * nbytes(spec) for cuts in self._cuts for spec in cuts}
        return Buffers(
            sent, {**stays, "going_on": 4 * most}, {"decided": most * DECIDED.itemsize, "count": 4}, uploads=uploads
        )

    def _places(self, segment: SegmentSpec) -> dict[str, int]:
        """Return where a segment finds its tensors: its cuts are what is left of those of the segment before."""
        at = self._buffers.addresses
        return at | {spec.name: at[PACKED + spec.name] for spec in segment.inputs if PACKED + spec.name in at}

    def _decided(self, images: NDArray[np.float32]) -> NDArray[np.void]:
        """Run a chain of images that fit in."""
        rows = len(images)
        self._buffers.view("image", np.float32, (-1, *images.shape[1:]))[:rows] = images
        self._buffers.view("images", np.int32)[:] = np.arange(self._most)
        for k, value in enumerate(self._classifier.thresholds):
            self._buffers.view(f"threshold_{k}", np.float32)[0] = value
        self._buffers.send(self._stream, unused_bytes=(self._most - rows) * images[0].nbytes)
        for index, run in enumerate(self._run):
            if index:
                self._pack(index, rows)
            run(int(self._stream.handle), rows)
            rows = self._left(index, rows)
            if not rows:
                break
        return self._buffers.view("decided", DECIDED)[: len(images)]

    def _left(self, index: int, rows: int) -> int:
        """Note who leaves at an exit; return how many go on."""
        on, at = Stream.from_handle(self._stream.handle), self._buffers.addresses
        places = {name: at[name] for name in ("decided", "images", "going_on", "count")}
        self._kernels.survivors(on, at[f"said_{index}"], rows, **places)
        self._stream.synchronize()
        return int(self._buffers.view("count", np.int32)[0])

    def _pack(self, index: int, rows: int) -> None:
        """Put the rows together that go on to a segment."""
        on, at = Stream.from_handle(self._stream.handle), self._buffers.addresses
        for spec in self._cuts[index]:
            self._kernels.gather(on, at[spec.name], at["going_on"], rows, nbytes(spec), at[PACKED + spec.name])
