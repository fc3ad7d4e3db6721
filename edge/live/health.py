"""Health of a standing installation: each source must give a result every few seconds."""

from dataclasses import dataclass
from time import monotonic
from typing import Any

from edge.live.statistics import SourceStatistics, Statistics


@dataclass(frozen=True, slots=True)
class Health:
    """Sources by name, each with the reason for which it is unhealthy; empty for healthy ones."""

    reasons: dict[str, str]

    @property
    def is_healthy(self) -> bool:
        """True where every source is."""
        return not any(self.reasons.values())

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        sources = {name: {"healthy": not reason} | ({"reason": reason} if reason else {})
                   for name, reason in self.reasons.items()}  # fmt: skip
        return {"healthy": self.is_healthy, "sources": sources}


def health(statistics: Statistics, timeout_s: float) -> Health:
    """Return the health of all sources: those without a result for longer than the timeout are unhealthy.

    A source that ended, such as a video, is healthy. Before the first source appears, the start counts as a result.
    """
    now_s = monotonic()
    with statistics.sources() as sources:
        reasons = {name: _reason(source, now_s, statistics.started_s, timeout_s) for name, source in sources.items()}
    if not reasons and now_s - statistics.started_s > timeout_s:
        reasons["all"] = f"no result for {now_s - statistics.started_s:.1f} s, since the start"
    return Health(reasons)


def _reason(source: SourceStatistics, now_s: float, started_s: float, timeout_s: float) -> str:
    waited_s = now_s - (source.answered_s or started_s)
    if source.status == "ended" or waited_s <= timeout_s:
        return ""
    cause = f"; {source.status}" if source.status != "connected" else ""
    return f"no result for {waited_s:.1f} s{cause}" + (f": {source.reason}" if cause and source.reason else "")
