"""Results of a source's frames, by a classifier that another one may replace meanwhile."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.frames.base import FrameSource
from edge.frames.open import open_source
from edge.inference.base import Slot
from edge.inference.pipeline import Pipeline, Policy
from edge.inference.result import Result
from edge.inference.slot_pool import SlotGroup, SlotPool


class StreamClassifier(Protocol):
    """Classifier of a stream's frames."""

    def new_slots(self) -> Sequence[Slot]:
        """Return the slots of a stream."""

    def next_thresholds(self) -> NDArray[np.float32]:
        """Return the thresholds for the next frame."""


class Stream:
    """Results of a source's frames, in order. Iterate over it once."""

    def __init__(
        self,
        classifier: StreamClassifier,
        source: str | int | Path | FrameSource,
        policy: Policy | None = None,
        bundle: str = "",
        slots: Sequence[Slot] | None = None,
    ) -> None:
        """Store the arguments.

        Args:
            classifier: Classifier of the frames.
            source: A name for `edge.open_source`, or an open source. It is closed when the iteration ends.
            policy: `latest` drops late frames, `all` drops none; by default `latest` for live sources, else `all`.
            bundle: Name of the classifier's bundle in results.
            slots: Slots of the classifier, for a source that was opened after them; they are closed when the iteration
                ends.
        """
        self._classifier, self._source, self._policy, self._bundle = classifier, source, policy, bundle
        self._slots = slots
        self._pool: SlotPool | None = None
        self._changing, self._is_over = Lock(), False

    def __iter__(self) -> Iterator[Result]:
        """Yield results.

        Raises:
            SourceError: the source cannot be opened or fails, after all frames before that were yielded; or the policy
                is unknown.
        """
        source = self._source
        opened = source if isinstance(source, FrameSource) else None
        try:
            pool = self._open_pool()
            if not isinstance(source, FrameSource):
                opened = source = open_source(source)
            yield from Pipeline(source, pool, self._policy)
        finally:
            if opened is not None:
                opened.close()
            with self._changing:
                self._is_over = True
                if self._pool is not None:
                    self._pool.close()

    def replace(self, classifier: StreamClassifier, bundle: str) -> None:
        """Let another classifier answer the frames captured from now on; called from another thread.

        It is on trial until `confirm`: frames at which it fails are answered by the classifier before. Its slots are
        opened and prepared here, so that no frame waits for them.

        Raises:
            EngineError: the device has too little memory; the classifier before stays.
        """
        with self._changing:
            if self._pool is not None and not self._is_over:
                self._pool.replace(SlotGroup(classifier.new_slots(), classifier.next_thresholds, bundle))
            for slot in self._slots or ():  # prepared for the classifier before
                slot.close()
            self._classifier, self._bundle, self._slots = classifier, bundle, None

    @property
    def failure(self) -> Exception | None:
        """The first exception of the classifier on trial; None if it has answered every frame."""
        return None if self._pool is None else self._pool.failure

    def confirm(self) -> None:
        """End the trial of a new classifier."""
        if self._pool is not None:
            self._pool.confirm()

    def close_retired(self) -> None:
        """Release the slots of replaced classifiers that are no longer in flight."""
        with self._changing:
            if self._pool is not None and not self._is_over:
                self._pool.close_retired()

    def _open_pool(self) -> SlotPool:
        """Return the pool of slots; nothing else may refer to them, since they keep the engines."""
        with self._changing:
            slots, self._slots = self._slots or self._classifier.new_slots(), None
            self._pool = SlotPool(SlotGroup(slots, self._classifier.next_thresholds, self._bundle))
            return self._pool
