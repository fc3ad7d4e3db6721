"""The part of a manifest that inference needs for one precision."""

from dataclasses import dataclass

from edge.bundle.manifest import InputSpec, SegmentSpec
from edge.errors import EngineError


@dataclass(frozen=True, slots=True)
class ChainSpec:
    """Segments that run in sequence, with their input, labels and temperatures."""

    input: InputSpec
    labels: tuple[str, ...]
    segments: tuple[SegmentSpec, ...]
    temperatures: tuple[float, ...]
    """Temperature of each segment's exit."""

    @property
    def exits(self) -> int:
        """Number of exits."""
        return len(self.segments)

    def label(self, index: int) -> str:
        """Return the name of a class.

        Raises:
            EngineError: a segment predicts a class that the bundle does not have.
        """
        if 0 <= index < len(self.labels):
            return self.labels[index]
        raise EngineError(f"a segment predicts class {index} of {len(self.labels)}; compile the bundle again")
