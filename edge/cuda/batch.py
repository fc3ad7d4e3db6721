"""Batched inference on the GPU: samples that exit are removed and the rest is compacted."""

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from edge.bundle import tensors
from edge.bundle.chain import ChainSpec
from edge.cuda.base import MAX_BATCH, DeviceEngine
from edge.cuda.chain import decision, tensor_sizes, tensor_specs, threshold_names
from edge.cuda.kernels import PREDICTION
from edge.cuda.memory import Memory
from edge.cuda.operations import Upload
from edge.cuda.runtime import Runtime
from edge.cuda.stream import GpuStream
from edge.decision import Predictions, allocate_predictions
from edge.errors import EngineError


class CudaBatch:
    """A chain of engines without a pinned batch, and memory for `max_batch` images.

    The host waits once for each segment that runs: it launches the next segment with the number of active rows.
    """

    def __init__(
        self, spec: ChainSpec, engines: Sequence[DeviceEngine], runtime: Runtime, max_batch: int = MAX_BATCH
    ) -> None:
        """Allocate all memory and bind the segments.

        Raises:
            EngineError: the GPU has too little memory, or an engine refuses an address.
        """
        self._spec, self._runtime, self._max_batch = spec, runtime, max_batch
        self._classifying = runtime.activate("classifying a batch")
        self._row_bytes = {tensor.name: tensor.sample_nbytes for tensor in tensor_specs(spec)}
        with runtime.prepare("preparing for a batch"), ExitStack() as stack:
            self._memory = self._allocate(engines)
            stack.callback(self._memory.close)
            self._stream = GpuStream(engines[0].sync or "spin")
            stack.callback(self._stream.close)
            self._steps = [
                engine.bind_batch(self._memory.addresses | self._compacted(segment.cuts_in))
                for engine, segment in zip(engines, spec.segments, strict=True)
            ]
            self._resources = stack.pop_all()

    def classify(self, images: NDArray[np.float32], thresholds: NDArray[np.float32]) -> Predictions:
        """Classify preprocessed images; see `edge.inference.base.Batch`."""
        if not self._steps:
            raise EngineError("this batch was closed; load the classifier again")
        predictions = allocate_predictions(len(images))
        for start in range(0, len(images), self._max_batch):
            part = slice(start, start + self._max_batch)
            with self._classifying:
                results = self._classify_part(images[part], thresholds)
            for name, array in predictions._asdict().items():
                array[part] = results[name]
        return predictions

    def close(self) -> None:
        """Release memory and stream. Idempotent."""
        with self._runtime.prepare("closing a batch"):
            self._steps = []
            self._resources.close()

    def _allocate(self, engines: Sequence[DeviceEngine]) -> Memory:
        rows = self._max_batch
        on_gpu = tensor_sizes(self._spec, engines, rows)
        pinned = {name: on_gpu.pop(name) for name in threshold_names(self._spec)}
        pinned |= {tensors.IMAGE: on_gpu[tensors.IMAGE], "samples": 4 * rows, "active_count": 4}
        pinned["predictions"] = rows * PREDICTION.itemsize
        if self._runtime.is_integrated:  # which reads images in the host's memory
            del on_gpu[tensors.IMAGE]
        cuts = [name for segment in self._spec.segments for name in segment.cuts_in]
        on_gpu |= {f"compacted {name}": on_gpu[name] for name in cuts}
        return Memory(pinned, on_gpu | {"decisions": rows * PREDICTION.itemsize, "active_rows": 4 * rows})

    def _compacted(self, names: Sequence[str]) -> dict[str, int]:
        """Return the address of each tensor's active rows."""
        return {name: self._memory.addresses[f"compacted {name}"] for name in names}

    def _classify_part(self, images: NDArray[np.float32], thresholds: NDArray[np.float32]) -> NDArray[np.void]:
        """Classify at most `max_batch` images; return an array of `PREDICTION`."""
        rows, view = len(images), self._memory.view
        view(tensors.IMAGE, np.float32, (-1, *images.shape[1:]))[:rows] = images
        view("samples", np.int32)[:] = np.arange(self._max_batch)
        for name, value in zip(threshold_names(self._spec), thresholds, strict=True):
            view(name, np.float32)[0] = value
        if not self._runtime.is_integrated:
            address, source = self._memory.upload(tensors.IMAGE)
            Upload(address, source[: images.nbytes]).on(self._stream)
        for index, step in enumerate(self._steps):
            self._gather_cut(index, rows)
            step(self._stream.handle, rows)
            rows = self._compact(index, rows)
            if not rows:
                break
        return view("predictions", PREDICTION)[: len(images)]

    def _gather_cut(self, index: int, rows: int) -> None:
        """Copy the active rows of a segment's incoming cut to consecutive rows."""
        addresses, gather = self._memory.addresses, self._runtime.kernels.gather
        for name, out in self._compacted(self._spec.segments[index].cuts_in).items():
            gather(addresses[name], addresses["active_rows"], rows, self._row_bytes[name], out).on(self._stream)

    def _compact(self, index: int, rows: int) -> int:
        """Keep the decisions of the rows that exit; return the number of active rows."""
        addresses, kernels = self._memory.addresses, self._runtime.kernels
        decisions = addresses["decisions"]
        decision(kernels, self._spec, addresses, index, decisions, rows=rows).on(self._stream)
        names = ("predictions", "samples", "active_rows", "active_count")
        kernels.compact(decisions, rows, *(addresses[name] for name in names)).on(self._stream)
        self._stream.synchronize()
        return int(self._memory.view("active_count", np.int32)[0])
