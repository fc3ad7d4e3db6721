"""Batched inference on the GPU: samples that exit are removed and the rest is compacted."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pycuda.driver as driver
from cuda.core import Stream
from numpy.typing import NDArray

from edge.bundle import tensors
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import SegmentSpec, TensorSpec
from edge.cuda.base import MAX_BATCH, DeviceEngine
from edge.cuda.kernel_params import PREDICTION, exit_outputs_name, exit_outputs_sizes, write_exit_outputs
from edge.cuda.memory import NON_BLOCKING, Buffers, synchronize_before_free
from edge.cuda.runtime import Runtime
from edge.decision import Predictions, allocate_predictions
from edge.errors import EngineError


class BatchResources(NamedTuple):
    """Stream, memory and bound segments of a batch."""

    stream: driver.Stream
    buffers: Buffers
    steps: list[Callable[[int, int], None]]


class CudaBatch:
    """A chain of engines without a pinned batch, and memory for `max_batch` images.

    The host waits once for each segment that runs: it launches the next segment with the number of active rows.
    """

    def __init__(
        self, chain: ChainSpec, engines: Sequence[DeviceEngine], runtime: Runtime, max_batch: int = MAX_BATCH
    ) -> None:
        """Allocate all memory and bind the segments.

        Raises:
            EngineError: the GPU has too little memory, or an engine refuses an address.
        """
        self._spec, self._engines, self._kernels, self._max_batch = chain, engines, runtime.kernels, max_batch
        self._classifying = runtime.context.activate("classifying a batch")
        self._closing = runtime.context.activate("closing a batch")
        self._threshold_names = [tensors.threshold(segment.exit_index) for segment in chain.segments[:-1]]
        with runtime.context.activate("preparing for a batch"):
            buffers = self._allocate(uploads=not runtime.context.is_integrated)
            self._resources: BatchResources | None = self._bind(buffers)

    def classify(self, images: NDArray[np.float32], thresholds: NDArray[np.float32]) -> Predictions:
        """Classify preprocessed images; see `edge.inference.base.Batch`."""
        if self._resources is None:
            raise EngineError("this batch was closed; load the classifier again")
        predictions = allocate_predictions(len(images))
        for start in range(0, len(images), self._max_batch):
            part = slice(start, start + self._max_batch)
            with self._classifying:
                results = self._classify_part(self._resources, images[part], thresholds)
            for name, array in predictions._asdict().items():
                array[part] = results[name]
        return predictions

    def close(self) -> None:
        """Release memory and stream. Idempotent."""
        if self._resources is None:
            return
        with self._closing:
            resources, self._resources = self._resources, None
            synchronize_before_free(resources.stream)
            resources.buffers.close()
            del resources  # pinned memory and streams are freed here, while the context is current

    def _allocate(self, *, uploads: bool) -> Buffers:
        segments, rows = self._spec.segments, self._max_batch
        sizes = {spec.name: spec.sample_nbytes for segment in segments for spec in (*segment.inputs, *segment.outputs)}
        inputs = {name: sizes[name] for name in self._threshold_names}
        inputs |= {"samples": 4 * rows, tensors.IMAGE: rows * sizes[tensors.IMAGE]}
        workspace = {name: rows * size for name, size in sizes.items() if name not in inputs}
        workspace |= {_compacted(name): rows * sizes[name] for segment in segments for name in segment.cuts_in}
        return Buffers(
            inputs=inputs,
            constants=exit_outputs_sizes(self._spec),
            workspace={**workspace, "active_rows": 4 * rows},
            outputs={"predictions": rows * PREDICTION.itemsize, "active_count": 4},
            uploads=uploads,
        )

    def _bind(self, buffers: Buffers) -> BatchResources:
        """Bind the engines and upload the constants."""
        try:
            write_exit_outputs(buffers, self._spec)
            pairs = zip(self._spec.segments, self._engines, strict=True)
            steps = [engine.bind_batch(_segment_addresses(buffers, segment)) for segment, engine in pairs]
            stream = driver.Stream(NON_BLOCKING)
            buffers.upload_constants(stream)
        except BaseException:
            buffers.close()
            raise
        return BatchResources(stream, buffers, steps)

    def _classify_part(
        self, resources: BatchResources, images: NDArray[np.float32], thresholds: NDArray[np.float32]
    ) -> NDArray[np.void]:
        """Classify at most `max_batch` images; return an array of `PREDICTION`."""
        rows, view = len(images), resources.buffers.view
        view(tensors.IMAGE, np.float32, (-1, *images.shape[1:]))[:rows] = images
        view("samples", np.int32)[:] = np.arange(self._max_batch)
        for name, value in zip(self._threshold_names, thresholds, strict=True):
            view(name, np.float32)[0] = value
        resources.buffers.upload_inputs(resources.stream, unused_bytes=(self._max_batch - rows) * images[0].nbytes)
        for index, step in enumerate(resources.steps):
            if index:
                self._gather_cut(resources, index, rows)
            step(int(resources.stream.handle), rows)
            rows = self._compact(resources, index, rows)
            if not rows:
                break
        return view("predictions", PREDICTION)[: len(images)]

    def _compact(self, resources: BatchResources, index: int, rows: int) -> int:
        """Write the results of the rows that exit; return the number of active rows."""
        stream, addresses = Stream.from_handle(resources.stream.handle), resources.buffers.addresses
        names = ("predictions", "samples", "active_rows", "active_count")
        exit_outputs = addresses[exit_outputs_name(index)]
        self._kernels.compact(stream, exit_outputs, rows, **{name: addresses[name] for name in names})
        resources.stream.synchronize()
        return int(resources.buffers.view("active_count", np.int32)[0])

    def _gather_cut(self, resources: BatchResources, index: int, rows: int) -> None:
        """Copy the active rows of a segment's incoming cut to consecutive rows."""
        stream, addresses = Stream.from_handle(resources.stream.handle), resources.buffers.addresses
        for spec in _cut_specs(self._spec.segments[index]):
            source, out = addresses[spec.name], addresses[_compacted(spec.name)]
            self._kernels.gather(stream, source, addresses["active_rows"], rows, spec.sample_nbytes, out)


def _segment_addresses(buffers: Buffers, segment: SegmentSpec) -> dict[str, int]:
    """Return the addresses of a segment's tensors, with the compacted buffers for its incoming cut."""
    addresses = buffers.addresses
    return addresses | {name: addresses[_compacted(name)] for name in segment.cuts_in}


def _cut_specs(segment: SegmentSpec) -> list[TensorSpec]:
    return [spec for spec in segment.inputs if spec.name in segment.cuts_in]


def _compacted(name: str) -> str:
    """Return the name of the buffer for the active rows of a tensor."""
    return f"compacted {name}"
