"""The chain: segments run one after the other until an exit is sure enough to answer."""

from collections.abc import Callable, Mapping, Sequence
from math import exp
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge.bundle import Bundle
from edge.decision import checked_thresholds
from edge.engines.cache import load_engines
from edge.errors import SourceError
from edge.manifest import InputSpec, PrecisionSpec, SegmentSpec
from edge.preprocess import Frame, preprocess_for
from edge.protocols import Backend, Prediction, Slot


class Classifier:
    """Early-exit classification with a bundle's segments in one precision.

    Frames in flight travel in slots, each with its own buffers and bindings; engines and thresholds are shared.
    """

    def __init__(
        self,
        *,
        input_spec: InputSpec,
        precision: PrecisionSpec,
        engines: Sequence[Any],
        thresholds: ArrayLike | None = None,
        make_slot: Callable[["Classifier"], Slot] | None = None,
    ) -> None:
        """Join engines with what the manifest says of them.

        Args:
            input_spec: What the network reads.
            precision: Whose segments.
            engines: These segments on this machine: of `Engine` or `DeviceEngine`, as slots need them.
            thresholds: In place of the fitted ones.
            make_slot: What makes slots for these engines; None for engines in host memory.

        Raises:
            ThresholdError: thresholds are NaN, infinite, negative or too few or many.
        """
        self._make_slot = make_slot or HostSlot
        self.input_spec = input_spec
        self.precision = precision
        self.segments = precision.segments
        self.engines = engines
        self.set_thresholds(precision.thresholds.values if thresholds is None else thresholds)
        self._own_slot: Slot | None = None

    @staticmethod
    def from_bundle(
        bundle: Bundle,
        precision: str,
        backend: Backend,
        thresholds: ArrayLike | None = None,
        *,
        batch: int | None = 1,
    ) -> "Classifier":
        """Load, and where needed build, the engines of a bundle in one precision.

        Args:
            bundle: What to run.
            precision: Of its segments.
            backend: What runs them.
            thresholds: In place of the fitted ones.
            batch: Images that engines take at once; None for any number, which `Backend.make_batch` needs.

        Raises:
            BundleError: the bundle does not have this precision.
            EngineError: an engine cannot be built or run here.
            ThresholdError: thresholds are NaN, infinite, negative or too few or many.
        """
        spec = bundle.precision(precision)
        engines = load_engines(bundle.path, spec.segments, backend, batch=batch)
        return Classifier(
            input_spec=bundle.manifest.input,
            precision=spec,
            engines=engines,
            thresholds=thresholds,
            make_slot=backend.make_slot,
        )

    def with_thresholds(self, values: ArrayLike) -> "Classifier":
        """Return a classifier on the same engines with thresholds of its own.

        Raises:
            ThresholdError: they are NaN, infinite, negative or too few or many.
        """
        return Classifier(
            input_spec=self.input_spec,
            precision=self.precision,
            engines=self.engines,
            thresholds=values,
            make_slot=self._make_slot,
        )

    def set_thresholds(self, values: ArrayLike) -> None:
        """Use other thresholds from the next frame on; frames already loaded keep theirs.

        Raises:
            ThresholdError: they are NaN, infinite, negative or too few or many.
        """
        self.thresholds = checked_thresholds(values, exits=len(self.segments))

    def new_slot(self) -> Slot:
        """Return buffers for one more frame in flight."""
        return self._make_slot(self)

    def classify(self, frame: Frame) -> Prediction:
        """Classify one frame now, in a slot kept for this.

        Raises:
            SourceError: it is none that this network reads.
        """
        if not isinstance(frame, np.ndarray):  # such as the None of an image that OpenCV could not read
            raise SourceError(f"a frame is no array but {type(frame).__name__}; was it read at all?")
        if self._own_slot is None:
            self._own_slot = self.new_slot()
        self._own_slot.frame = frame
        self._own_slot.load()
        return self._own_slot.infer()

    def close(self) -> None:
        """Let go of the slot that `classify` uses; may be called twice. Engines may be other classifiers' as well."""
        if self._own_slot is not None:
            self._own_slot.close()
            self._own_slot = None


class HostSlot:
    """One frame's buffers in host memory, and the segments bound to them.

    Attributes:
        frame: The frame to classify next.
        tensors: Every tensor of the chain by name, batch 1. Those of segments that did not run are stale.
    """

    def __init__(self, classifier: Classifier) -> None:
        """Allocate all buffers and bind all segments."""
        self.frame: NDArray[Any] | None = None
        self.tensors: Mapping[str, NDArray[Any]] = buffers_for(classifier.segments)
        self._classifier = classifier
        self._preprocess = preprocess_for(classifier.input_spec)
        self._image = self.tensors["image"][0]
        exits = [segment.exit_index for segment in classifier.segments]
        self._thresholds = [self.tensors[f"threshold_{k}"] for k in exits[:-1]]
        self._steps = [engine.bind(self.tensors) for engine in classifier.engines]
        self._exits = [self.tensors[f"exit_{k}"] for k in exits[:-1]] + [np.ones(1, dtype=bool)]
        self._labels = [self.tensors[f"label_{k}"] for k in exits]
        self._confidences = [self.tensors[f"confidence_{k}"] for k in exits]
        self._logits = [self.tensors[f"logits_{k}"][0] for k in exits]
        self._coldness = [1 / temperature for temperature in classifier.precision.temperatures]

    def load(self) -> None:
        """Preprocess `frame` into the chain's input, and take over the thresholds in force."""
        assert self.frame is not None, "load() before a frame was captured"  # noqa: S101 - our own pipeline's order
        self._preprocess(self.frame, self._image)
        for buffer, value in zip(self._thresholds, self._classifier.thresholds, strict=True):
            buffer[0] = value

    def infer(self) -> Prediction:
        """Run segments until an exit answers; those after it are not run."""
        for index, step in enumerate(self._steps):
            step()
            if self._exits[index][0]:
                break
        confidence = float(self._confidences[index][0])
        return Prediction(int(self._labels[index][0]), confidence, index, self._probability(index))

    def close(self) -> None:
        """Do nothing: memory of the host is freed when nobody holds it any more."""

    def _probability(self, index: int) -> float:
        """Return the highest of `softmax(logits / temperature)`, which is 1 over its denominator.

        In plain Python: after a segment NumPy's calls are cold, and took 13 to 30 us instead of about 4.
        """
        logits, coldness = self._logits[index].tolist(), self._coldness[index]
        largest = max(logits)
        return 1.0 / sum([exp((value - largest) * coldness) for value in logits])


def buffers_for(segments: Sequence[SegmentSpec]) -> dict[str, NDArray[Any]]:
    """Return a zeroed array for every tensor of the segments, batch 1; a cut is shared by the two that meet in it."""
    return {
        spec.name: np.zeros(spec.shape_of_one, dtype=spec.dtype)
        for segment in segments
        for spec in (*segment.inputs, *segment.outputs)
    }
