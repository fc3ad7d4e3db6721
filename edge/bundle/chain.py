"""The part of a manifest that inference needs for one precision."""

from dataclasses import dataclass

from edge.bundle.manifest import InputSpec, Rejection, SegmentSpec
from edge.decision import NONE, NONE_CLASSES, NONE_INDEX, Prediction
from edge.errors import EngineError


@dataclass(frozen=True, slots=True)
class ChainSpec:
    """Segments that run in sequence, with their input, labels, temperatures and rejection."""

    input: InputSpec
    labels: tuple[str, ...]
    segments: tuple[SegmentSpec, ...]
    temperatures: tuple[float, ...]
    """Temperature of each segment's exit."""
    rejection: Rejection | None = None
    """None if every prediction is accepted."""

    @property
    def exits(self) -> int:
        """Number of exits."""
        return len(self.segments)

    def prediction(self, label_index: int, probability: float, exit_index: int, confidence: float) -> Prediction:
        """Return the prediction of the exit that answered, or `none` in its place if it is rejected.

        Raises:
            EngineError: a segment predicts a class that the bundle does not have.
        """
        label = self._label(label_index)
        if self.rejection is not None and self._is_rejected(label, exit_index, confidence, self.rejection.threshold):
            label, label_index = NONE, NONE_INDEX
        return Prediction(label, label_index, probability, exit_index, confidence)

    def _is_rejected(self, label: str, exit_index: int, confidence: float, threshold: float) -> bool:
        """Apply the rule of `edge.decision.accepted` to one prediction."""
        is_sure = exit_index < self.exits - 1 or confidence >= threshold
        return not is_sure or label in NONE_CLASSES

    def _label(self, index: int) -> str:
        """Return the name of a class.

        Raises:
            EngineError: a segment predicts a class that the bundle does not have.
        """
        if 0 <= index < len(self.labels):
            return self.labels[index]
        raise EngineError(f"a segment predicts class {index} of {len(self.labels)}; compile the bundle again")
