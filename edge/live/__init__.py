"""Live classification that runs for weeks: sources that come back, triggers, events, outputs."""

from edge.live.runner import run

__all__ = ["run"]
