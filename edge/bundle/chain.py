"""A chain of segments as inference needs it: derived from a manifest, the same on every backend."""

from dataclasses import dataclass

from edge.bundle.manifest import InputSpec, SegmentSpec


@dataclass(frozen=True, slots=True)
class ChainSpec:
    """Segments that run one after the other, what they read and how their answers are read."""

    input: InputSpec
    labels: tuple[str, ...]
    segments: tuple[SegmentSpec, ...]
    temperatures: tuple[float, ...]
    """One for each segment's exit."""

    @property
    def exits(self) -> int:
        """Number of exits."""
        return len(self.segments)
