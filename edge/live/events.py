"""Events: states that begin and end, from predictions that flicker."""

from collections import deque
from collections.abc import Collection
from typing import Literal, NamedTuple

from edge.live.messages import Event, Observation
from edge.live.timeline import Timeline

DEFAULT_K, DEFAULT_N = 3, 5


class State(NamedTuple):
    """A label that a source shows, and the moment since when."""

    label: str
    label_index: int
    since_s: float
    """On the source's timeline."""


class Debouncer:
    """The state of one source: it changes as soon as `k` of the last `n` predictions agree on another one.

    Predictions of an ignored label, and those that are too improbable, count for no state: `k` of them end one.
    """

    def __init__(
        self,
        k: int = DEFAULT_K,
        n: int = DEFAULT_N,
        *,
        ignore: Collection[str] = (),
        min_probability: float = 0.0,
    ) -> None:
        """Start without a state.

        Args:
            k: Predictions that must agree; more than half of `n`, so that two states never compete.
            n: Last predictions that count.
            ignore: Labels that are not states, such as `none` or `background`.
            min_probability: Predictions below it are of no state.
        """
        if not n / 2 < k <= n:
            raise ValueError(f"{k} of {n} predictions cannot decide; give more than half of them, at most all")
        self._k, self._ignore, self._min_probability = k, frozenset(ignore), min_probability
        self._recent: deque[str | None] = deque(maxlen=n)
        self._state: State | None = None
        self._last: Observation | None = None
        self._timeline, self._now_s = Timeline(), 0.0

    def add(self, observation: Observation) -> list[Event]:
        """Return the events that a further prediction causes: none, `left`, `entered`, or both in this order."""
        self._last, self._now_s = observation, self._timeline.at(observation.result.timeline_s)
        prediction = observation.prediction
        is_state = prediction.label not in self._ignore and prediction.probability >= self._min_probability
        label = prediction.label if is_state else None
        self._recent.append(label)
        current = None if self._state is None else self._state.label
        if label == current or self._recent.count(label) < self._k:
            return []
        events = self.end()
        if label is not None:
            self._state = State(label, prediction.label_index, self._now_s)
            events.append(_event("entered", observation, self._state, None))
        return events

    def end(self) -> list[Event]:
        """Leave the state, if there is any: of a source that ended, at its last frame."""
        if self._state is None or self._last is None:
            return []
        state, self._state = self._state, None
        return [_event("left", self._last, state, self._now_s - state.since_s)]


def _event(kind: Literal["entered", "left"], observation: Observation, state: State, duration_s: float | None) -> Event:
    return Event(kind, observation.source, observation.time, state.label, state.label_index, duration_s)
