"""Everything that the page shows beside pictures: status, charts, events, and the deployment."""

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import count
from typing import Any

from edge.live.deployment import Deployment
from edge.live.health import health
from edge.live.messages import Audit, BundleChange, Message, Observation, iso_time, record
from edge.live.outputs.terminal import describe
from edge.live.statistics import SourceStatistics, Statistics
from edge.live.view.history import History
from edge.live.view.power import PowerReader, total_meter

MAX_EVENTS = 200


class ViewState:
    """State of the page. The output's thread calls `add`, the server's everything else."""

    def __init__(self, deployment: Deployment | None, timeout_s: float) -> None:
        """Start without messages."""
        self.statistics = Statistics()
        self.deployment = deployment
        self._power = PowerReader(total_meter())
        self._history = History(self.statistics, self._power)
        self._timeout_s = timeout_s
        self._newest: dict[str, Observation] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._event_ids = count()

    def add(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Count messages, and return the events among them, in words and as fields; audits are only counted."""
        self.statistics.add(messages)
        self._history.add(messages)
        events = []
        for message in messages:
            if isinstance(message, Observation):
                self._newest[message.source] = message
                continue
            if isinstance(message, BundleChange) and message.deployment is not None:
                self.deployment = message.deployment
            is_repeated = isinstance(message, BundleChange) and message.is_repeated
            if not is_repeated and not isinstance(message, Audit):
                events.append({"id": next(self._event_ids), "text": describe(message), **record(message)})
        self._events.extend(events)
        return events

    def events(self) -> list[dict[str, Any]]:
        """Return the last events, the oldest first."""
        return list(self._events)

    def status(self) -> dict[str, Any]:
        """Return counters and condition of each source since the start, and the thresholds in force."""
        unhealthy = health(self.statistics, self._timeout_s).reasons
        with self.statistics.sources() as sources:
            rows = [self._source(name, each, unhealthy.get(name, "")) for name, each in sources.items()]
        thresholds: dict[str, Any] = {}
        if self.deployment is not None:
            thresholds = {
                "thresholds": self.deployment.classifier.thresholds,
                "candidate": self.deployment.candidate_index,
            }
        return {"time": iso_time(datetime.now(timezone.utc)), "sources": rows, **thresholds}

    def tick(self) -> dict[str, Any]:
        """End a second of the charts: return the status with the second's point of each source."""
        points = self._history.tick()
        return self.status() | {"points": {name: asdict(point) for name, point in points.items()}}

    def to_json(self) -> dict[str, Any]:
        """Return everything, for a page that was just opened."""
        return {
            "deployment": None if self.deployment is None else self.deployment.to_json(),
            "status": self.status(),
            "history": self._history.to_json(),
            "power_scope": self._power.scope,
            "events": self.events(),
        }

    def _source(self, name: str, source: SourceStatistics, unhealthy: str) -> dict[str, Any]:
        newest = self._newest.get(name)
        return {
            "name": name,
            "status": source.status,
            "reason": source.reason,
            "unhealthy": unhealthy,
            "frames": source.frames,
            "exits": [source.exits[index] for index in range(max(source.exits, default=-1) + 1)],
            "dropped": source.dropped,
            "skipped": source.skipped,
            "damaged": source.damaged,
            "reconnects": source.reconnects,
            "audits": dict(source.audits),
            "alarms": [record(alarm) for alarm in source.alarms.values()],
            "newest": None if newest is None else record(newest),
        }
