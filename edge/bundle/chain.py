"""The part of a manifest that inference needs for one precision."""

from dataclasses import dataclass

from edge.bundle.manifest import InputSpec, SegmentSpec


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
