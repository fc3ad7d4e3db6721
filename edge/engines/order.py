"""What is to be built, and where what is built goes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """One segment to make an engine of."""

    segment: Path
    batch: int | None
    """Images at once; None leaves it free."""
    engine: Path
    """File to write the engine to."""
    layers: Path
    """File for the library's own description of the engine, where it has one."""
    timing_cache: Path
    """File in which kernels' timings are kept from one build to the next, where the library times any."""
