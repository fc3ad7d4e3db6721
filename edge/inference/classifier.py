"""The classifier: segments run in sequence until an exit's confidence reaches its threshold."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import Rejection
from edge.decision import NEVER, Prediction, validate_thresholds
from edge.engines.base import DeviceKind
from edge.errors import EngineError, SourceError
from edge.frames.base import Frame, FrameSource
from edge.frames.open import is_single_image, open_frame
from edge.frames.preprocess import preprocess_batch
from edge.inference.base import Batch, Slot
from edge.inference.pipeline import Policy
from edge.inference.result import Result
from edge.inference.slot_pool import MIN_SLOTS
from edge.inference.slots import new_batch, new_slot
from edge.inference.stream import Stream

if TYPE_CHECKING:
    from PIL.Image import Image

    from edge.cuda.autotune import Tuning

READ_AHEAD = 64
"""Images that `predict_batch` reads at once, which bounds its memory."""


class Classifier:
    """Early-exit classification with a chain of engines. Created by `edge.load`; calls from several threads are safe.

    Attributes:
        chain: Segments, labels, input and temperatures.
    """

    def __init__(
        self,
        chain: ChainSpec,
        engines: Sequence[Any],
        thresholds: ArrayLike,
        *,
        device: DeviceKind = "cpu",
        load_batch_engines: Callable[[], Sequence[Any]] | None = None,
    ) -> None:
        """Join a chain with its engines.

        Args:
            chain: Segments, labels and input that the engines were built for.
            engines: An engine for each segment: `Engine`s on the CPU, `DeviceEngine`s on a GPU.
            thresholds: A threshold for each exit but the last.
            device: Device that the engines run on.
            load_batch_engines: Loads engines for any batch size when `predict_batch` is first called; None if there are
                none.

        Raises:
            ThresholdError: a threshold is NaN, infinite or negative, or their count is wrong.
        """
        self.chain = chain
        self._engines, self._device, self._load_batch_engines = engines, device, load_batch_engines
        self._thresholds = validate_thresholds(thresholds, chain.exits)
        self._idle: list[Slot] = []
        self._batch: Batch | None = None
        self._batch_lock = Lock()
        self._closed = False

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Thresholds of the early exits: 0 always exits, above 1 never. A change affects frames not yet started."""
        return tuple(self._thresholds.tolist())

    @thresholds.setter
    def thresholds(self, values: ArrayLike) -> None:
        self._thresholds = validate_thresholds(values, self.chain.exits)

    @property
    def rejection(self) -> Rejection | None:
        """Confidence that the last exit must reach, and its guarantee; below, a prediction is `none`. None if off."""
        return self.chain.rejection

    @property
    def tuning(self) -> "Tuning | None":
        """How the GPU transfers and waits for frames, with timings; None on the CPU and before the first prediction."""
        return self._idle[-1].tuning if self._idle else None

    def with_thresholds(self, values: ArrayLike) -> "Classifier":
        """Return a classifier on the same engines with its own thresholds.

        Raises:
            ThresholdError: a threshold is NaN, infinite or negative, or their count is wrong.
        """
        return self._with(self.chain, values)

    def to_last_exit(self) -> "Classifier":
        """Return a classifier on the same engines that answers at the last exit only, however unsure it is."""
        chain = self.chain
        if chain.rejection is not None:  # predictions of classes such as `none` stay rejected, as at early exits
            chain = replace(chain, rejection=replace(chain.rejection, threshold=0.0))
        return self._with(chain, [NEVER] * (chain.exits - 1))

    def prepare(self) -> None:
        """Make the memory of `predict` now. On a GPU, this takes a while."""
        self._return_slot(self._take_slot())

    def predict(self, image: "str | Path | NDArray[Any] | Frame | Image") -> Prediction:
        """Classify one image.

        Args:
            image: A file, an array (8-bit BGR, BGRx or gray; for networks that read arrays, their input), a `Frame`,
                or a PIL image.

        Raises:
            SourceError: the image cannot be read or has a shape or type that the network does not read.
        """
        frame = open_frame(image, self.chain.input.kind)
        slot = self._take_slot()
        try:
            slot.start(frame, self._thresholds)
            return slot.result()
        finally:
            self._return_slot(slot)

    def predict_batch(self, images: "Iterable[str | Path | NDArray[Any] | Frame | Image]") -> list[Prediction]:
        """Classify many images: samples that exit are removed from the batch and the rest is compacted.

        Engines for any batch size are loaded, and built if they are missing, at the first call.

        Raises:
            SourceError: an image cannot be read or has a shape or type that the network does not read.
            EngineError: this classifier has no engines for batches.
        """
        if is_single_image(images, self.chain.input.kind) or not isinstance(images, Iterable):
            raise SourceError(
                f"predict_batch classifies several images, got {type(images).__name__}; give a list, or call `predict`"
            )
        remaining, thresholds = iter(images), self._thresholds
        predictions: list[Prediction] = []
        while batch := list(islice(remaining, READ_AHEAD)):
            frames = [open_frame(image, self.chain.input.kind) for image in batch]
            inputs = preprocess_batch(frames, self.chain.input)
            with self._batch_lock:
                classified = self._open_batch().classify(inputs, thresholds)
            predictions += map(self.chain.prediction, *(array.tolist() for array in classified))
        return predictions

    def stream(
        self, source: str | int | Path | FrameSource, *, policy: Policy | None = None
    ) -> Generator[Result, None, None]:
        """Classify a source's frames; capture, preprocessing and inference of consecutive frames overlap.

        Args:
            source: A name for `edge.open_source`, or an open source. It is closed when the iteration ends.
            policy: `latest` drops late frames, `all` drops none; by default `latest` for live sources, else `all`.

        Raises:
            SourceError: the source cannot be opened or fails, after all frames before that were yielded; or the policy
                is unknown.
        """
        yield from Stream(self, source, policy)

    def new_slots(self) -> list[Slot]:
        """Return the slots of a stream. On a GPU this takes a while, so do it before a camera opens."""
        slots: list[Slot] = []
        with ExitStack() as stack:
            for _ in range(MIN_SLOTS):
                slots.append(self.new_slot())
                stack.callback(slots[-1].close)
            stack.pop_all()
        return slots

    def new_slot(self) -> Slot:
        """Return a slot for another in-flight frame; the caller closes it."""
        self._check_open()
        return new_slot(self._device, self.chain, self._engines)

    def next_thresholds(self) -> NDArray[np.float32]:
        """Return the thresholds for the next frame, shape (exits - 1,)."""
        return self._thresholds

    def close(self) -> None:
        """Release the buffers. Idempotent. Engines are kept by open slots and by classifiers that share them."""
        self._closed, self._engines = True, ()
        while self._idle:
            self._idle.pop().close()
        with self._batch_lock:
            if self._batch is not None:
                self._batch.close()
                self._batch = None

    def __enter__(self) -> "Classifier":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _with(self, chain: ChainSpec, thresholds: ArrayLike) -> "Classifier":
        self._check_open()
        load_batch_engines = self._load_batch_engines
        return Classifier(chain, self._engines, thresholds, device=self._device, load_batch_engines=load_batch_engines)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the classifier was closed; load it again")

    def _take_slot(self) -> Slot:
        """Return an idle slot, or a new slot if concurrent calls use all others."""
        try:
            return self._idle.pop()
        except IndexError:
            return self.new_slot()

    def _return_slot(self, slot: Slot) -> None:
        self._idle.append(slot)
        if self._closed:
            self.close()

    def _open_batch(self) -> Batch:
        """Return batched inference; the batch lock is held."""
        self._check_open()
        if self._batch is None:
            if self._load_batch_engines is None:
                raise EngineError("this classifier has no engines for batches; load it with `edge.load`")
            self._batch = new_batch(self._device, self.chain, self._load_batch_engines())
        return self._batch
