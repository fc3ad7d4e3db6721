"""MQTT topics and payloads, in the order in which they are to be published, however often the connection breaks.

BASE/availability        online or offline; retained, and the last will
BASE/SOURCE/state        label of the current state, condition and alarms of the source, as JSON; retained
BASE/SOURCE/event        each event, alarm, choice of a candidate and change of the bundle, as JSON
BASE/SOURCE/prediction   the newest observation, at most once a second, as JSON
homeassistant/sensor/…   descriptions of the sensors of each source for Home Assistant; retained
"""

import hashlib
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edge.live.messages import (
    Alarm,
    BundleChange,
    CandidateChange,
    Event,
    Message,
    Observation,
    SourceChange,
    iso_time,
    record,
)

DISCOVERY_PREFIX = "homeassistant"
ONLINE, OFFLINE = "online", "offline"
MAX_EVENTS = 1000
"""Events kept while there is no connection; further ones replace the oldest."""
PREDICTION_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to the broker."""

    topic: str
    payload: str
    qos: int = 1
    retain: bool = False


class Outbox:
    """Publications that wait for the connection."""

    def __init__(self, base: str) -> None:
        """Start empty; `base` is the first part of every topic."""
        self.lost_events = 0
        """Events replaced by newer ones, while there was no connection."""
        self._base = base
        self._names: dict[str, str] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._retained: dict[str, Publication] = {}
        self._changed: dict[str, None] = {}
        self._events: deque[Publication] = deque()
        self._newest: dict[str, Observation] = {}
        self._next_prediction_s: dict[str, float] = {}
        """Moments before which no prediction of a source is published."""

    def add(self, messages: Sequence[Message]) -> None:
        """Add messages."""
        for message in messages:
            if message.source not in self._names:
                self._add_source(message.source)
            if isinstance(message, Observation):
                self._newest[message.source] = message
            elif isinstance(message, SourceChange):
                self._set_state(message.source, **_condition(message))
            elif isinstance(message, BundleChange) and message.is_repeated:
                continue  # it would replace older events while there is no connection
            elif isinstance(message, Event | Alarm | CandidateChange | BundleChange):
                self._add_event(message)

    def restore(self) -> None:
        """Publish everything retained again: the broker may have been restarted."""
        self._changed = dict.fromkeys(self._retained)

    def due(self, now_s: float) -> Iterator[Publication]:
        """Yield the publications that are due. Each stays until the next is requested, as it may not have arrived."""
        while self._changed:
            publication = self._retained[next(iter(self._changed))]
            yield publication
            if self._retained[publication.topic] is publication:  # else a newer state follows
                self._changed.pop(publication.topic, None)
        while self._events:
            event = self._events[0]
            yield event
            if self._events[0] is event:  # else it was replaced by newer ones meanwhile
                self._events.popleft()
        for source in [source for source in self._newest if now_s >= self._next_prediction_s.get(source, 0.0)]:
            self._next_prediction_s[source] = now_s + PREDICTION_INTERVAL_S
            observation = self._newest.pop(source)
            yield Publication(self._topic(source, "prediction"), json.dumps(record(observation)), qos=0)

    def _topic(self, source: str, kind: str) -> str:
        return f"{self._base}/{self._names[source]}/{kind}"

    def _add_source(self, source: str) -> None:
        name = topic_name(source)
        self._names[source] = f"{name}_{_digest(source)}" if name in self._names.values() else name
        self._states[source] = {"source": source, "label": None, "since": None, "status": "connected", "alarms": []}
        for topic, payload in discovery(self._base, self._names[source], source).items():
            self._retain(topic, payload)
        self._set_state(source)

    def _add_event(self, event: Event | Alarm | CandidateChange | BundleChange) -> None:
        if len(self._events) == MAX_EVENTS:
            self._events.popleft()
            self.lost_events += 1
        self._events.append(Publication(self._topic(event.source, "event"), json.dumps(record(event))))
        if isinstance(event, Event):
            label = event.label if event.kind == "entered" else None
            self._set_state(event.source, label=label, since=iso_time(event.time))
        elif isinstance(event, Alarm):
            self._set_state(event.source, alarms=[*self._states[event.source]["alarms"], event.kind])
        elif isinstance(event, BundleChange) and event.status == "swapped":
            self._set_state(event.source, alarms=[])  # they were about the bundle before

    def _set_state(self, source: str, **changes: Any) -> None:
        self._states[source] = self._states[source] | changes
        self._retain(self._topic(source, "state"), self._states[source])

    def _retain(self, topic: str, payload: dict[str, Any]) -> None:
        self._retained[topic] = Publication(topic, json.dumps(payload), retain=True)
        self._changed[topic] = None


def topic_name(source: str) -> str:
    """Return a source as a level of a topic and a part of an identifier: lower-case letters, digits, underscores."""
    return re.sub(r"[^a-z0-9]+", "_", source.lower()).strip("_") or _digest(source)


def discovery(base: str, name: str, source: str) -> dict[str, dict[str, Any]]:
    """Return the topics and payloads that make a source a device with four sensors in Home Assistant."""
    device_id = f"edge_{topic_name(base)}_{name}"
    state, prediction = f"{base}/{name}/state", f"{base}/{name}/prediction"
    connected = "{{ 'online' if value_json.status == 'connected' else 'offline' }}"
    percent = {"unit_of_measurement": "%", "state_class": "measurement", "suggested_display_precision": 0}
    sensors: dict[str, dict[str, Any]] = {
        "label": {"name": "Label", "state_topic": state, "value_template": "{{ value_json.label }}"},
        "probability": {
            "name": "Probability", "state_topic": prediction,
            "value_template": "{{ value_json.probability * 100 }}", **percent,
        },
        "exit": {"name": "Exit", "state_topic": prediction, "value_template": "{{ value_json.exit_index }}"},
        "alarm": {
            "name": "Alarm", "state_topic": state,
            "value_template": "{{ value_json.alarms | join(', ') or 'none' }}",
        },
    }  # fmt: skip
    common: dict[str, Any] = {
        "availability": [{"topic": f"{base}/availability"}, {"topic": state, "value_template": connected}],
        "availability_mode": "all",
        "device": {"identifiers": [device_id], "name": source, "model": "early-exit classifier"},
    }
    return {
        f"{DISCOVERY_PREFIX}/sensor/{device_id}/{key}/config": {"unique_id": f"{device_id}_{key}", **sensor, **common}
        for key, sensor in sensors.items()
    }


def _condition(change: SourceChange) -> dict[str, Any]:
    return {"status": change.status, "reason": change.reason, "reconnects": change.reconnects}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
