"""Charts: points of each second, and the power of a meter."""

from collections.abc import Mapping, Sequence

import pytest

from edge.live.messages import Message
from edge.live.statistics import Statistics
from edge.live.view.history import SECONDS, History
from edge.live.view.power import PowerReader
from edge.measure.power.base import Quantity, RailMeter, Total
from tests.support.observations import observation
from tests.support.outputs import change


class Recorded:
    """A history beside its statistics, as the page has them."""

    def __init__(self, power: PowerReader | None = None) -> None:
        self.statistics = Statistics()
        self.history = History(self.statistics, power or PowerReader(None))

    def add(self, messages: Sequence[Message]) -> None:
        self.statistics.add(messages)
        self.history.add(messages)


def meter(quantity: Quantity, readings: Mapping[str, Sequence[float]], total: tuple[str, ...]) -> RailMeter:
    """Return a meter whose rails give these readings, one after the other."""
    values = {name: iter(each) for name, each in readings.items()}
    readers = {name: (lambda name=name: next(values[name])) for name in readings}
    return RailMeter("meter", quantity, readers, Total(total, "the machine"))


def test_a_point_has_the_changes_of_its_second() -> None:
    recorded = Recorded()
    recorded.add([observation(0, exit_index=index % 2, latency_ms=float(index), dropped=index) for index in range(101)])
    recorded.add([change("connected", reconnects=2)])
    first = recorded.history.tick()["test://"]
    assert (first.frames, first.exits, first.dropped, first.reconnects) == (101, (51, 50), 100, 2)
    assert (first.latency_p50_ms, first.latency_p95_ms) == (50, 95)
    recorded.add([observation(1, exit_index=2, dropped=103)])
    second = recorded.history.tick()["test://"]
    assert (second.frames, second.exits, second.dropped, second.reconnects) == (1, (0, 0, 1), 3, 0)
    third = recorded.history.tick()["test://"]
    assert (third.frames, third.exits, third.latency_p50_ms, third.dropped) == (0, (0, 0, 0), None, 0)
    assert third.frame_age_s is not None
    assert second.frame_age_s is not None
    assert third.frame_age_s >= second.frame_age_s


def test_the_last_minutes_are_kept() -> None:
    recorded = Recorded()
    for index in range(SECONDS + 10):
        recorded.add([observation(index)] * (1 + index % 7))
        recorded.history.tick()
    points = recorded.history.to_json()["test://"]
    assert len(points) == SECONDS
    assert [point["frames"] for point in points[-2:]] == [1 + (SECONDS + 8) % 7, 1 + (SECONDS + 9) % 7]


def test_energy_is_shared_by_the_frames_of_all_sources() -> None:
    recorded = Recorded(PowerReader(meter("power_mw", {"a": [4000, 4000], "b": [1000, 1000]}, ("a", "b"))))
    recorded.add([observation(0, source=source) for source in ("one", "two", "two", "two")])
    points = recorded.history.tick()
    assert {name: (point.power_w, point.energy_mj) for name, point in points.items()} == {
        "one": (5.0, 1250.0),
        "two": (5.0, 1250.0),
    }
    assert [point.energy_mj for point in recorded.history.tick().values()] == [None, None]


def test_a_counter_gives_its_rise_and_nothing_where_it_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = iter([10.0, 10.0, 12.0, 12.0, 13.0, 13.0, 14.0, 14.0, 14.0, 14.0])
    monkeypatch.setattr("edge.measure.power.base.monotonic", lambda: next(times_s))
    reader = PowerReader(meter("energy_mj", {"cpu": [1000, 9000, 500, 1500, 1600]}, ("cpu",)))
    assert [reader.read_w() for _ in range(5)] == [None, 4.0, None, 1.0, None], "no time has passed at the last"


def test_a_rail_that_fails_has_no_total() -> None:
    def fail() -> float:
        raise OSError("suspended")

    reader = PowerReader(
        RailMeter("meter", "power_mw", {"a": lambda: 1.0, "b": fail}, Total(("a", "b"), "the machine"))
    )
    assert reader.read_w() is None
