"""Live classification that runs for weeks: sources that come back, triggers, events, outputs."""

from edge.live.run import RunSummary, run

__all__ = ["RunSummary", "run"]
