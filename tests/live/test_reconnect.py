"""Sources that come back: every fault, each with its reason, its count, and without a leak."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import AddressError, SourceError, SourceLostError, UnavailableError
from edge.frames.base import Frame, FrameSource, PixelFormat
from edge.live import freeze, reconnect
from edge.live.backoff import Backoff
from edge.live.messages import SourceStatus
from edge.live.reconnect import ReconnectingSource
from edge.live.sources import open_live
from tests.support.watchers import Watcher

TIMEOUT_S = 20.0
Factory = Callable[..., ReconnectingSource]


class Site:
    """A place with a camera: the outcome of each attempt to open it, and the calls it received."""

    def __init__(self, *plans: list[object] | Exception, kind: "type[Connection] | None" = None) -> None:
        """Plan the connections: the errors and frames (numbers) of each; the last plan is repeated."""
        self.plans, self._kind = list(plans), kind or Connection
        self.opened: list[float] = []
        self.connections: list[Connection] = []

    def open(self) -> "Connection":
        self.opened.append(time.monotonic())
        plan = self.plans[0] if len(self.plans) == 1 else self.plans.pop(0)
        if isinstance(plan, Exception):
            raise plan
        self.connections.append(self._kind(plan))
        return self.connections[-1]


class Connection:
    """A live source with a plan: numbers are frames of this brightness, pairs are sizes, events are waited for."""

    is_live = True
    frames = None

    def __init__(self, plan: list[object]) -> None:
        self._plan = iter(plan)
        self.damaged = 1
        self.is_closed = threading.Event()

    def read(self, out: Frame | None) -> Frame | None:
        step = next(self._plan, None)
        while isinstance(step, threading.Event) or callable(step):
            assert step.wait(TIMEOUT_S) if isinstance(step, threading.Event) else step() is None
            step = next(self._plan, None)
        if isinstance(step, Exception):
            raise step
        if step is None:
            raise SourceLostError("camera stopped after its frames; check the cable")
        size = step if isinstance(step, tuple) else (4, 6)
        value = 0 if isinstance(step, tuple) else step
        return Frame(np.full((*size, 3), value, dtype=np.uint8), PixelFormat.BGR)

    def close(self) -> None:
        self.is_closed.set()


class Changes(list[tuple[SourceStatus, str]]):
    """The changes that a source reported, with the numbers of reconnects apart."""

    def __init__(self) -> None:
        self.reconnects: list[int] = []

    def __call__(self, status: SourceStatus, reason: str, reconnects: int) -> None:
        self.append((status, reason))
        self.reconnects.append(reconnects)

    @property
    def statuses(self) -> list[SourceStatus]:
        return [status for status, _ in self]


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    """An event that is set at the end, when no thread may be left."""
    before = threading.active_count()
    stop = threading.Event()
    yield stop
    stop.set()
    until = time.monotonic() + TIMEOUT_S
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.fixture
def source_at(stop: threading.Event, changes: Changes) -> Iterator[Factory]:
    """A factory of sources at sites, which are closed at the end."""
    sources: list[ReconnectingSource] = []

    def create(site: Site, **settings: float) -> ReconnectingSource:
        sources.append(ReconnectingSource(site.open, "camera", stop=stop, on_change=changes, **settings))
        return sources[-1]

    yield create
    for source in sources:
        source.close()


def open_plainly(name: str, stop: threading.Event) -> FrameSource:
    return open_live(name, stop, Watcher(), None, give_up_s=None, skip_bad=False)


def values(source: FrameSource, count: int) -> list[int]:
    """Return the brightness of so many frames."""
    frames = [source.read(None) for _ in range(count)]
    return [int(frame.pixels[0, 0, 0]) for frame in frames if frame]


def test_a_source_that_dies_comes_back(changes: Changes, caplog: pytest.LogCaptureFixture, source_at: Factory) -> None:
    site = Site([1, 2], [3, 4], [5, 6, 7])
    source = source_at(site)
    assert values(source, 6) == [1, 2, 3, 4, 5, 6]
    assert source.reconnects == 2
    assert changes.reconnects == [0, 0, 1, 1, 2]
    lost = ("lost", "stopped after its frames; check the cable")
    assert changes == [("connected", ""), lost, ("connected", ""), lost, ("connected", "")]
    messages = [record.message for record in caplog.records]
    assert messages[0] == "camera is lost: stopped after its frames; check the cable"
    assert messages[1].startswith("camera is back after ")
    assert messages[1].endswith(" s (reconnect 1)")
    assert source.damaged == 3
    assert all(connection.is_closed.wait(TIMEOUT_S) for connection in site.connections[:2])
    source.close()
    assert site.connections[2].is_closed.wait(TIMEOUT_S)


def test_a_source_may_be_absent_at_start_and_its_reason_is_logged_once(
    changes: Changes, caplog: pytest.LogCaptureFixture, source_at: Factory
) -> None:
    absent = SourceError("camera cannot be opened: No such file or directory; is it plugged in?")
    site = Site(absent, absent, absent, [1])
    source = source_at(site)
    source.connect(TIMEOUT_S)
    assert values(source, 1) == [1]
    assert source.reconnects == 0
    assert changes.statuses == ["lost", "connected"]
    assert [record.message for record in caplog.records] == [
        "camera is lost: cannot be opened: No such file or directory; is it plugged in?"
    ]


def test_a_file_of_a_server_that_is_absent_at_start_is_no_live_source(changes: Changes, source_at: Factory) -> None:
    class File(Connection):
        is_live, frames = False, 2

    away = SourceError("connection refused")
    site = Site(away, away, [1, SourceError("damaged")], kind=File)
    source = source_at(site)
    source.connect(TIMEOUT_S)
    assert values(source, 1) == [1]
    assert (source.is_live, source.frames) == (False, 2)
    with pytest.raises(SourceError, match="damaged"):
        source.read(None)
    assert changes.statuses == ["lost", "connected"]


def test_a_source_that_hangs_is_left_behind_and_opened_again(changes: Changes, source_at: Factory) -> None:
    gate = threading.Event()
    site = Site([1, gate], [2, 3])
    source = source_at(site, stall_s=0.1)
    assert values(source, 3) == [1, 2, 3]
    assert changes.statuses == ["connected", "stalled", "connected"]
    assert changes[1] == ("stalled", "gave no frame within 0.1 s; check the camera and the network")
    assert source.reconnects == 1
    assert not site.connections[0].is_closed.is_set()
    gate.set()
    assert site.connections[0].is_closed.wait(TIMEOUT_S)


def test_only_so_many_connections_hang_at_the_same_time(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch, source_at: Factory
) -> None:
    monkeypatch.setattr(reconnect, "MAX_DELAY_S", 0.05)
    gates = [threading.Event() for _ in range(10)]
    site = Site(*([1, gate] for gate in gates))
    source = source_at(site, stall_s=0.02)
    reader = threading.Thread(target=values, args=(source, 100), daemon=True)
    reader.start()
    until = time.monotonic() + TIMEOUT_S
    while len(site.opened) < reconnect.MAX_HANGING and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.5)
    assert len(site.opened) == reconnect.MAX_HANGING
    gates[0].set()
    while len(site.opened) == reconnect.MAX_HANGING and time.monotonic() < until:
        time.sleep(0.01)
    assert len(site.opened) == reconnect.MAX_HANGING + 1
    stop.set()
    for gate in gates:
        gate.set()
    reader.join(TIMEOUT_S)


def test_a_source_may_come_back_at_another_size(source_at: Factory) -> None:
    site = Site([(4, 6), (1, 1)], [(20, 30)])
    source = source_at(site)
    out: Frame | None = None
    sizes = []
    for _ in range(3):
        out = source.read(out)
        assert out is not None
        sizes.append(out.size)
    assert sizes == [(4, 6), (1, 1), (20, 30)]


@pytest.mark.parametrize(
    "error",
    [
        AddressError("camera has no mode of width 5"),
        UnavailableError("camera cannot be opened: Permission denied"),
        TypeError("a defect"),
    ],
)
def test_what_can_never_work_is_raised_at_once_at_the_start_and_retried_later(
    error: Exception, source_at: Factory
) -> None:
    site = Site(error)
    source = source_at(site)
    with pytest.raises(type(error)):
        source.connect(TIMEOUT_S)
    assert len(site.opened) == 1
    assert source.read(None) is None
    site = Site([1], error, error, [2])
    assert values(source_at(site), 2) == [1, 2]


@pytest.mark.parametrize("plan", [SourceError("not there"), [threading.Event()]], ids=["absent", "hanging"])
def test_a_source_is_given_up_after_its_time(plan: list[object] | Exception, source_at: Factory) -> None:
    source = source_at(Site(plan), give_up_s=0.3)
    started = time.monotonic()
    with pytest.raises(SourceLostError, match=r"camera gave no frame for .* and is given up: ") as caught:
        source.read(None)
    assert time.monotonic() - started >= 0.3
    assert caught.value.exit_code == 3
    assert source.read(None) is None
    if isinstance(plan, list):
        plan[0].set()  # type: ignore[attr-defined]


def test_a_source_whose_connections_all_hang_is_given_up_after_its_time(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch, source_at: Factory
) -> None:
    monkeypatch.setattr(reconnect, "MAX_DELAY_S", 0.02)
    gate, limit = threading.Event(), threading.Timer(TIMEOUT_S, stop.set)
    limit.start()
    site = Site([1, gate])
    source = source_at(site, stall_s=0.02, give_up_s=0.3)
    values(source, reconnect.MAX_HANGING)
    started = time.monotonic()
    with pytest.raises(SourceLostError, match="camera gave no frame for 0 s and is given up: 4 connections hang"):
        source.read(None)
    assert time.monotonic() - started >= 0.3
    assert source.read(None) is None
    limit.cancel()
    gate.set()


def test_a_wait_between_frames_is_no_outage(source_at: Factory) -> None:
    site = Site([1, 2], [3])
    source = source_at(site, give_up_s=0.3)
    values(source, 2)
    time.sleep(0.4)
    assert values(source, 1) == [3]


@pytest.mark.parametrize("plan", [SourceError("not there"), [threading.Event()]], ids=["absent", "hanging"])
@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_read_that_waits_ends_at_once(
    plan: list[object] | Exception, how: str, stop: threading.Event, source_at: Factory
) -> None:
    source = source_at(Site(plan))
    timer = threading.Timer(0.1, stop.set if how == "stop" else source.close)
    timer.start()
    assert source.read(None) is None
    timer.join()
    if isinstance(plan, list):
        plan[0].set()  # type: ignore[attr-defined]


def test_a_frozen_picture_is_reported_and_so_is_its_end(
    changes: Changes, monkeypatch: pytest.MonkeyPatch, source_at: Factory
) -> None:
    monkeypatch.setattr(reconnect, "FROZEN_S", 0.2)
    monkeypatch.setattr(freeze, "INTERVAL_S", 0.05)
    same = [2, partial(time.sleep, 0.06)] * 10
    source = source_at(Site([1, *same, 3, 4]))
    values(source, 13)
    assert changes == [("connected", ""), ("frozen", "the same picture for 0.2 s"), ("connected", "")]
    assert source.reconnects == 0


def test_every_attempt_to_open_a_source_is_noted_though_its_reason_stays_the_same(
    changes: Changes, stop: threading.Event
) -> None:
    site, watcher = Site(SourceError("away"), SourceError("away"), SourceError("away"), [1]), Watcher(changes)
    source = ReconnectingSource(site.open, "camera", stop=stop, on_change=watcher.report, on_attempt=watcher.attempt)
    values(source, 1)
    source.close()
    assert (changes.statuses, watcher.attempts) == (["lost", "connected"], 3)


def test_a_live_source_may_end(changes: Changes, stop: threading.Event) -> None:
    source = open_live(
        "test://?size=64x48&rate=200&frames=3", stop, Watcher(changes), None, give_up_s=None, skip_bad=False
    )
    assert source.is_live
    assert len(list(iter(lambda: source.read(None), None))) == 3
    assert source.read(None) is None
    assert changes.statuses == ["connected"]  # its end is reported when its last result is there


def test_finite_sources_are_read_as_they_are(tmp_path: Path, stop: threading.Event) -> None:
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.zeros((8, 8, 3), dtype=np.uint8))
    source = open_plainly(str(tmp_path), stop)
    assert (source.is_live, source.frames) == (False, 2)
    assert [frame.position for frame in iter(lambda: source.read(None), None)] == ["0.png", "1.png"]
    (tmp_path / "1.png").write_bytes(b"no image")
    damaged = open_plainly(str(tmp_path), stop)
    damaged.read(None)
    with pytest.raises(SourceError, match="cannot be read as an image"):
        damaged.read(None)
    with pytest.raises(SourceError, match="there is no video or folder"):
        open_plainly(str(tmp_path / "nowhere.mp4"), stop)


@pytest.mark.parametrize("name", ["nosuch://host/x", "0?rotate=45", "csi://0"])
def test_an_address_that_can_never_work_is_refused_at_once(name: str, stop: threading.Event) -> None:
    with pytest.raises((AddressError, UnavailableError)):
        open_plainly(name, stop)


def test_a_stream_without_a_server_is_waited_for(stop: threading.Event) -> None:
    source = open_plainly("rtsp://127.0.0.1:1/x", stop)
    assert source.is_live
    threading.Timer(0.3, stop.set).start()
    assert source.read(None) is None
    source.close()


def test_delays_grow_with_jitter_up_to_their_limit() -> None:
    backoff = Backoff(0.1)
    delays = [backoff.delay_s(1) for index in range(120)]
    assert delays[0] <= 0.1
    assert max(delays) <= 1
    assert min(delays[4:]) >= 0.5
    assert len(set(delays[10:])) > 100
    late = [backoff.delay_s(30) for index in range(20)]
    assert 15 <= late[-1] <= 30
    backoff.reset()
    assert backoff.delay_s(30) <= 0.1


def test_a_source_that_works_for_a_moment_each_time_is_not_opened_too_often(source_at: Factory) -> None:
    site = Site([1])
    values(source_at(site), 6)
    gaps = [later - earlier for earlier, later in pairwise(site.opened)]
    assert gaps[4] >= 0.5


def test_attempts_become_rare_until_a_connection_works_for_a_while(
    monkeypatch: pytest.MonkeyPatch, source_at: Factory
) -> None:
    class Recorded(Backoff):
        def reset(self) -> None:
            delays.append("reset")

        def delay_s(self, max_s: float) -> float:
            delays.append(max_s)
            return 0.0

    monkeypatch.setattr(reconnect, "Backoff", Recorded)
    monkeypatch.setattr(reconnect, "PATIENCE_S", 0.5)
    monkeypatch.setattr(reconnect, "STABLE_S", 0.5)
    delays: list[object] = []
    pause = partial(time.sleep, 0.6)
    site = Site([1], [pause, 2], [3], [4, pause, 5], [6])
    assert values(source_at(site), 6) == [1, 2, 3, 4, 5, 6]
    often, rarely = reconnect.MAX_DELAY_S, reconnect.MAX_LATE_DELAY_S
    assert delays == [often, rarely, rarely, "reset", often]


def test_hundreds_of_reconnects_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch, source_at: Factory) -> None:
    monkeypatch.setattr(reconnect, "MIN_DELAY_S", 0.0005)
    monkeypatch.setattr(reconnect, "MAX_DELAY_S", 0.0005)
    site = Site([1])
    source = source_at(site)
    values(source, 10)
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    values(source, 300)
    assert source.reconnects == 309
    assert threading.active_count() <= threads + 1
    assert len(os.listdir("/proc/self/fd")) == files
    assert len(source._left_behind) <= 2
    assert sum(connection.is_closed.is_set() for connection in site.connections) >= 308
