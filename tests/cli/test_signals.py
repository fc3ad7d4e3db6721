"""Commands that a signal stops: during imports, while they run, while they open a source, and as PID 1."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.bundle.bundle import Bundle
from edge.console import INTERRUPTED, TERMINATED
from tests.support.commands import (
    ROOT,
    can_unshare,
    json_lines,
    random_frames,
    start_command,
    wait_until,
    write_video,
)

FRAMES = 20_000
CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
each_signal = pytest.mark.parametrize("number", CODES)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = random_frames(20)
    return write_video(tmp_path_factory.mktemp("video") / "long.avi", [frames[index % 20] for index in range(FRAMES)])


def handles_signals(pid: int) -> bool:
    """Check whether a process handles SIGTERM, which Python itself does not."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def shows_emulator() -> bool:
    """Check whether /proc shows the handlers of an emulator instead of the program's."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print("running", file=process.stdin, flush=True)
        process.stdout.readline()
        return handles_signals(process.pid)


when_handlers_show = pytest.mark.skipif(shows_emulator(), reason="when a program handles signals is hidden")


@when_handlers_show
@each_signal
@pytest.mark.parametrize(
    "words",
    [("edge", "bench", "nothing"), ("edge.training", "--help"), ("compile", "--help"),
     ("compile.sensitivity", "nothing"), ("compile.torch_tensorrt", "nothing"), ("calibration", "nothing"),
     ("benchmarks", "demo", "--data", "nothing")],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_signal_during_imports_ends_a_command_in_one_word(words: tuple[str, ...], number: signal.Signals) -> None:
    for delay_s in (0, 0.01, 0.03, 0.06):
        with start_command(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            wait_until(lambda: handles_signals(process.pid), "its handlers")
            time.sleep(delay_s)
            process.send_signal(number)
            stderr = process.communicate()[1]
        assert (process.returncode, len(stderr.splitlines())) == (CODES[number], 1), stderr


@each_signal
@pytest.mark.parametrize("sent", [1, 2])
def test_a_run_that_a_signal_stops_prints_its_summary(
    sent: int, number: signal.Signals, digits_bundle: Bundle, long_video: Path, tmp_path: Path
) -> None:
    """`timeout` sends a signal twice: to the process and to its group."""
    lines = tmp_path / "lines"
    words = ("edge", "run", digits_bundle.path, "--source", long_video, "--output", lines)
    with start_command(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_until(lambda: lines.exists() and lines.stat().st_size, "the first line")
        for _ in range(sent):
            process.send_signal(number)
        stdout, stderr = process.communicate()
    assert process.returncode == CODES[number], stderr
    assert stderr.splitlines()[-1].endswith("; no partial file was left behind")
    written = len(json_lines(lines.read_text()))
    assert 0 < written < FRAMES
    shown = int(" ".join(stdout.split()).partition(" frames, ")[0].split()[-1])
    assert shown in (written, written + 1)


@when_handlers_show
def test_an_ignored_signal_stays_ignored(digits_bundle: Bundle) -> None:
    """As in the background of a shell script."""
    script = f"trap '' INT; exec {sys.executable} -m edge run {digits_bundle.path} --source docs/digits.mp4"
    with subprocess.Popen(["sh", "-c", script], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: handles_signals(process.pid), "its handlers")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0


@pytest.fixture
def silent_server() -> Iterator[int]:
    """Return the port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections: list[socket.socket] = []
        threading.Thread(target=lambda: connections.append(server.accept()[0]), daemon=True).start()
        yield server.getsockname()[1]
        for connection in connections:
            connection.close()


@each_signal
def test_a_signal_ends_the_wait_for_a_silent_server(
    number: signal.Signals, silent_server: int, digits_bundle: Bundle
) -> None:
    words = ("edge", "run", digits_bundle.path, "--source", f"rtsp://127.0.0.1:{silent_server}/stream")
    with start_command(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_until(lambda: connected(silent_server), "its connection")
        time.sleep(0.3)
        process.send_signal(number)
        started = time.monotonic()
        stderr = process.communicate()[1]
        assert time.monotonic() - started < 5
    assert process.returncode == CODES[number], stderr
    assert len(stderr.splitlines()) == 1


def connected(port: int) -> bool:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@pytest.mark.skipif(not can_unshare(), reason="a PID namespace needs a privilege")
@each_signal
def test_pid_1_of_a_container_is_stopped_too(
    number: signal.Signals, digits_bundle: Bundle, long_video: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "lines"
    words = ["edge", "run", digits_bundle.path, "--source", long_video, "--output", lines]
    command = ["unshare", "-pf", "--mount-proc", sys.executable, "-m", *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_until(lambda: lines.exists() and lines.stat().st_size, "the first line")
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), number)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == CODES[number], stderr
    assert " frames, " in " ".join(stdout.split())


def test_a_repeated_signal_ends_a_command_that_does_not_stop(tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(
        "import time\n"
        "from edge.entry import start_process\n"
        "start_process(__name__)\n"
        "from edge.console import run_main\n"
        "def main():\n"
        "    try:\n"
        "        print('started', flush=True)\n"
        "        time.sleep(100)\n"
        "    finally:\n"
        "        time.sleep(100)\n"
        "run_main(main)\n"
    )
    with subprocess.Popen(
        [sys.executable, script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        time.sleep(1.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == INTERRUPTED
