"""Batched inference on the GPU: samples that exit are removed and the rest is compacted."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.bundle import tensors
from edge.bundle.chain import ChainSpec
from edge.cuda.base import ACTIVATIONS, MAX_BATCH, DeviceEngine
from edge.cuda.chain import tensor_specs, threshold_names
from edge.cuda.kernel_params import EXIT, PREDICTION, write_exits
from edge.cuda.memory import Memory, Upload
from edge.cuda.runtime import Runtime
from edge.cuda.stream import GpuStream
from edge.decision import Predictions, allocate_predictions
from edge.errors import EngineError


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
        self._spec, self._kernels, self._max_batch = chain, runtime.kernels, max_batch
        self._classifying = runtime.context.activate("classifying a batch")
        self._preparing = runtime.context.prepare("preparing for a batch")
        self._tensors = tensor_specs(chain)
        with self._preparing:
            self._stream: GpuStream | None = None
            self._inputs: Upload | None = None
            constants = self._allocate(engines, uploads=not runtime.context.is_integrated)
            try:
                self._stream = GpuStream()
                write_exits(self._memory, chain)
                self._stream.upload(self._memory.upload(constants))
                self._steps = [
                    engine.bind_batch(self._memory.addresses | self._compacted(segment.cuts_in))
                    for engine, segment in zip(engines, chain.segments, strict=True)
                ]
            except BaseException:
                self.close()
                raise

    def classify(self, images: NDArray[np.float32], thresholds: NDArray[np.float32]) -> Predictions:
        """Classify preprocessed images; see `edge.inference.base.Batch`."""
        if self._stream is None:
            raise EngineError("this batch was closed; load the classifier again")
        predictions = allocate_predictions(len(images))
        for start in range(0, len(images), self._max_batch):
            part = slice(start, start + self._max_batch)
            with self._classifying:
                results = self._classify_part(self._stream, images[part], thresholds)
            for name, array in predictions._asdict().items():
                array[part] = results[name]
        return predictions

    def close(self) -> None:
        """Release memory and stream. Idempotent."""
        with self._preparing:
            if self._stream is not None:
                self._stream.close()
            self._memory.close()
            self._stream, self._steps, self._inputs = None, [], None

    def _allocate(self, engines: Sequence[DeviceEngine], *, uploads: bool) -> dict[str, int]:
        """Allocate the memory; return the sizes of the constants."""
        rows, sizes = self._max_batch, {name: spec.sample_nbytes for name, spec in self._tensors.items()}
        cuts = [name for segment in self._spec.segments for name in segment.cuts_in]
        inputs = {name: sizes[name] for name in threshold_names(self._spec)}
        inputs |= {"samples": 4 * rows, tensors.IMAGE: rows * sizes[tensors.IMAGE]}
        constants = {"exits": self._spec.exits * EXIT.itemsize}
        workspace = {name: rows * size for name, size in sizes.items() if name not in inputs}
        workspace |= {f"compacted {name}": rows * sizes[name] for name in cuts}
        workspace |= {"decisions": rows * PREDICTION.itemsize, "active_rows": 4 * rows}
        workspace[ACTIVATIONS] = max(engine.activation_bytes for engine in engines)
        outputs = {"predictions": rows * PREDICTION.itemsize, "active_count": 4}
        self._memory = Memory(inputs | constants | outputs, (inputs if uploads else {}) | constants | workspace)
        self._inputs = self._memory.upload(inputs) if uploads else None
        return constants

    def _compacted(self, names: Sequence[str]) -> dict[str, int]:
        """Return the address of each tensor's active rows."""
        return {name: self._memory.addresses[f"compacted {name}"] for name in names}

    def _classify_part(
        self, stream: GpuStream, images: NDArray[np.float32], thresholds: NDArray[np.float32]
    ) -> NDArray[np.void]:
        """Classify at most `max_batch` images; return an array of `PREDICTION`."""
        rows, view = len(images), self._memory.view
        view(tensors.IMAGE, np.float32, (-1, *images.shape[1:]))[:rows] = images
        view("samples", np.int32)[:] = np.arange(self._max_batch)
        for name, value in zip(threshold_names(self._spec), thresholds, strict=True):
            view(name, np.float32)[0] = value
        if self._inputs is not None:
            used_bytes = self._inputs.source.nbytes - (self._max_batch - rows) * images[0].nbytes
            stream.upload(Upload(self._inputs.address, self._inputs.source[:used_bytes]))
        for index, step in enumerate(self._steps):
            self._gather_cut(stream, index, rows)
            step(stream.handle, rows)
            rows = self._compact(stream, index, rows)
            if not rows:
                break
        return view("predictions", PREDICTION)[: len(images)]

    def _gather_cut(self, stream: GpuStream, index: int, rows: int) -> None:
        """Copy the active rows of a segment's incoming cut to consecutive rows."""
        addresses = self._memory.addresses
        for name, out in self._compacted(self._spec.segments[index].cuts_in).items():
            row_bytes = self._tensors[name].sample_nbytes
            self._kernels.gather(addresses[name], addresses["active_rows"], rows, row_bytes, out).on(stream.core)

    def _compact(self, stream: GpuStream, index: int, rows: int) -> int:
        """Keep the decisions of the rows that exit; return the number of active rows."""
        addresses = self._memory.addresses
        decisions, exit_ = addresses["decisions"], addresses["exits"] + index * EXIT.itemsize
        self._kernels.decide(exit_, decisions, rows=rows).on(stream.core)
        names = ("predictions", "samples", "active_rows", "active_count")
        self._kernels.compact(decisions, rows, *(addresses[name] for name in names)).on(stream.core)
        stream.synchronize()
        return int(self._memory.view("active_count", np.int32)[0])
