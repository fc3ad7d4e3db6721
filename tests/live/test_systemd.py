"""Notifications to systemd, received as systemd does: by a datagram socket of a path or an abstract name."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

import edge
from edge.bundle.bundle import Bundle
from edge.console import TERMINATED
from edge.errors import OutputError
from edge.live import run
from edge.live.messages import Message, Observation
from edge.live.outputs import systemd as systemd_module
from edge.live.outputs.base import Output
from edge.live.outputs.systemd import Systemd, systemd_from
from edge.live.triggers import Every
from tests.support.commands import TIMEOUT_S, start_command, wait_until
from tests.support.observations import observation
from tests.support.outputs import alarm, audit, change, event, opened


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def received(self) -> list[str]:
        """Return the datagrams that arrived since the last call."""
        datagrams = []
        try:
            while True:
                datagrams.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return datagrams

    def close(self) -> None:
        self._socket.close()


class KeepsCount(Output):
    """An output that counts the signs of life of sources without results."""

    name = "count"

    def __init__(self) -> None:
        self.count = 0

    def keep_alive(self) -> None:
        self.count += 1

    def write(self, messages: Sequence[Message]) -> None:
        pass


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify") if request.param == "path" else f"@edge-test-{os.getpid()}")
    yield manager
    manager.close()


def test_a_service_is_ready_at_the_first_result_and_stops_at_the_end(manager: Manager) -> None:
    with opened(Systemd(manager.address), [change("connected")]) as systemd:
        assert manager.received() == ["STATUS=0 frames; connected"]
        systemd.write([observation(0), observation(1, "3", exit_index=1)])
        assert manager.received() == ["READY=1"]
        systemd.write([event(), observation(2)])
        assert manager.received() == ["STATUS=3 frames; entered 7"]
    assert manager.received() == ["STOPPING=1"]


def test_the_watchdog_beats_on_results_only_and_several_times_within_its_timeout(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(systemd_module, "monotonic", lambda: now_s)
    beats = []
    with opened(Systemd(manager.address, watchdog_s=2.0)) as systemd:
        for step in range(1, 401):
            now_s = 1000 + step / 100
            systemd.write([observation(now_s)])
            beats += [step for text in manager.received() if "WATCHDOG=1" in text.splitlines()]
        assert beats == list(range(1, 401, 50))
        for step in range(401, 2000):  # events and changes of a source are no results
            now_s = 1000 + step / 100
            systemd.write([change("stalled"), event()])
            assert "WATCHDOG=1" not in "".join(manager.received())


def test_sources_that_are_opened_again_keep_the_run_ready_and_alive(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(systemd_module, "monotonic", lambda: now_s)
    with opened(Systemd(manager.address, watchdog_s=2.0)) as systemd:
        systemd.keep_alive()
        systemd.keep_alive()
        assert manager.received() == ["READY=1\nWATCHDOG=1"]
        now_s += 0.5
        systemd.keep_alive()
        assert manager.received() == ["WATCHDOG=1"]
        systemd.write([observation(now_s)])  # not due again
        assert "WATCHDOG" not in "".join(manager.received())


def test_keeping_alive_never_raises(tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "nobody"), watchdog_s=2.0)
    systemd.open()
    systemd.keep_alive()
    with pytest.raises(FileNotFoundError):
        systemd.close()


@pytest.mark.parametrize(
    "words", [("--source", "rtsp://127.0.0.1:9/away"), ("--source", "test://?rate=50", "--trigger", "message")]
)
def test_a_run_without_results_is_alive_while_its_camera_is_away_or_its_trigger_waits(
    words: tuple[str, ...], digits_bundle: Bundle, tmp_path: Path
) -> None:
    manager, texts = Manager(str(tmp_path / "notify")), []

    def is_alive() -> bool:
        texts.extend(manager.received())
        return sum("WATCHDOG=1" in text.splitlines() for text in texts) >= 2

    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2000000"}
    with start_command("edge", "run", digits_bundle.path, *words, env=env, stderr=subprocess.PIPE) as process:
        wait_until(is_alive, "two beats")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == TERMINATED
    texts.extend(manager.received())
    assert "READY=1" in "\n".join(texts).splitlines()
    assert texts[-1] == "STOPPING=1"
    manager.close()


def test_skipped_frames_do_not_hide_that_inference_hangs(digits_bundle: Bundle) -> None:
    beats, hangs, go_on = KeepsCount(), threading.Event(), threading.Event()

    def hang(message: Message) -> None:
        if isinstance(message, Observation) and beats.count > 0 and not go_on.is_set():
            hangs.set()
            assert go_on.wait(TIMEOUT_S)

    with edge.load(digits_bundle.path, backend="onnxruntime") as classifier:
        stop = threading.Event()
        work = partial(
            run, classifier, ["test://?rate=200"], [beats], new_trigger=lambda: Every(0.05), on_message=hang, stop=stop
        )
        with ThreadPoolExecutor(1) as executor:
            running = executor.submit(work)
            assert hangs.wait(TIMEOUT_S)
            time.sleep(0.2)  # the next frame waits for its result
            count = beats.count
            assert count > 0
            time.sleep(0.3)
            assert beats.count == count
            go_on.set()
            wait_until(lambda: beats.count > count, "a beat")
            stop.set()
            running.result(TIMEOUT_S)


def test_alarms_are_shown_and_audits_are_not(manager: Manager) -> None:
    with opened(Systemd(manager.address), [audit()]) as systemd:
        assert manager.received() == []
        systemd.write([alarm("latency", "9.0% are late"), audit()])
        assert manager.received() == ["STATUS=0 frames; alarm: latency: 9.0% are late"]


@pytest.mark.parametrize("period_s", [0.3, 0.49, 0.6, 0.99, 1.3])
def test_results_within_the_timeout_never_miss_a_beat(
    period_s: float, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = last_s = 0.0
    monkeypatch.setattr(systemd_module, "monotonic", lambda: now_s)
    with opened(Systemd(manager.address, watchdog_s=2.0)) as systemd:
        while now_s < 30:
            now_s += period_s
            systemd.write([observation(now_s)])
            if "WATCHDOG=1" in "".join(manager.received()):
                assert now_s - last_s < 2.0
                last_s = now_s


def test_ready_is_repeated_until_it_arrives(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with opened(Systemd(address)) as systemd:
        with pytest.raises(FileNotFoundError):
            systemd.write([observation(0)])
        manager = Manager(address)
        systemd.write([observation(1)])
        assert "READY=1" in manager.received()[0].splitlines()
    manager.close()


def test_the_status_is_a_short_line(manager: Manager) -> None:
    with opened(Systemd(manager.address), [change("lost", "two\nREADY=1\nlines" + 500 * "x")]):
        (text,) = manager.received()
    assert "\n" not in text
    assert len(text) < 250


@pytest.mark.parametrize(
    ("environment", "beat_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "8000000"}, 2.0),
        ({"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": str(os.getpid())}, 2.0),
        ({"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_environment_decides(environment: dict[str, str], beat_s: float | None) -> None:
    assert systemd_from(environment) is None
    systemd = systemd_from({"NOTIFY_SOCKET": "/run/notify"} | environment)
    assert systemd is not None
    assert systemd._beat_s == (beat_s or 0.0)
    assert (systemd._next_beat_s == float("inf")) == (beat_s is None)


def test_a_socket_of_another_kind_is_refused() -> None:
    with pytest.raises(OutputError, match="NOTIFY_SOCKET is 'vsock:2:1234'; it must be a path"):
        systemd_from({"NOTIFY_SOCKET": "vsock:2:1234"})
