"""The run of a standing installation: sources to observations and events, and these to outputs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Counts of a finished run."""

    frames: int


def run() -> RunSummary:
    """Classify sources until they end."""
    raise NotImplementedError
