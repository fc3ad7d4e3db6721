"""Files of lines: kills, logrotate, full disks, pipes, and rotation."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edge.errors import OutputError
from edge.live.messages import iso_time
from edge.live.outputs.lines_file import KEPT_FILES, PAGE_BYTES, LinesFile, Rotation, align, parse_rotation
from tests.support.commands import ROOT, TIMEOUT_S, can_unshare, full_disk, json_lines, wait_until

WRITER = """
import sys
from pathlib import Path
from edge.live.outputs.lines_file import LinesFile
with LinesFile(Path(sys.argv[1])) as file:
    for number in range(10**9):
        file.write([b'{"text": "%s"}\\n' % (b"x" * (300 + number % 70))] * 50)
"""


ROTATING_WRITER = """
import sys
from pathlib import Path
from edge.live.outputs.lines_file import LinesFile, Rotation
from tests.live.test_lines_file import write
with LinesFile(Path(sys.argv[1]), rotation=Rotation(max_bytes=100)) as file:
    for number in range(20):
        write(file, number)
"""


def line(number: int, length: int = 30) -> bytes:
    text = json.dumps({"number": number})
    return (text[:-1] + " " * (length - len(text)) + "}\n").encode()


def numbers(path: Path) -> list[int]:
    return [record["number"] for record in json_lines(path.read_text())]


def write(file: LinesFile, *values: int) -> None:
    file.write([line(value) for value in values])


@pytest.mark.parametrize("lengths", [[300] * 60, [1, 4096, 4095, 2], [5000, 100, 9000], list(range(1, 400))])
@pytest.mark.parametrize("start", [0, 1, 4000, 4095, 4096, 123_456])
def test_no_line_crosses_a_page_unless_it_is_longer(lengths: Sequence[int], start: int) -> None:
    lines = [b"x" * (length - 1) + b"\n" for length in lengths]
    data = align(lines, start)
    written = data.splitlines(keepends=True)
    assert [part.strip(b" \n") + b"\n" for part in written] == lines
    position = start
    for part, text in zip(written, lines, strict=True):
        first = (position + len(part) - len(part.lstrip(b" "))) // PAGE_BYTES
        position += len(part)
        assert first == (position - 1) // PAGE_BYTES or len(text) > PAGE_BYTES


def test_a_killed_process_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for _ in range(5):
        size = path.stat().st_size if path.exists() else 0
        with subprocess.Popen([sys.executable, "-c", WRITER, path], cwd=ROOT) as process:
            wait_until(lambda size=size: path.exists() and path.stat().st_size > size + (1 << 20), "lines")
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert all(record["text"].strip("x") == "" for record in json_lines(path.read_text()))


def test_an_unfinished_line_is_ended_and_blanks_are_continued(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for before, expected in ((b'{"number": 0, "te', b'{"number": 0, "te\n'), (line(0) + b"   ", line(0) + b"   ")):
        path.write_bytes(before)
        with LinesFile(path) as file:
            write(file, 1)
        assert path.read_bytes() == expected + line(1)


# logrotate


def test_a_renamed_file_is_created_again(tmp_path: Path) -> None:
    """As by logrotate's `create`, which may or may not create the new file itself."""
    path = tmp_path / "lines"
    with LinesFile(path) as file:
        write(file, 0)
        path.rename(tmp_path / "first")
        write(file, 1)
        path.rename(tmp_path / "second")
        path.touch()
        write(file, 2)
        path.unlink()
        write(file, 3)
    assert [numbers(tmp_path / name) for name in ("first", "second", "lines")] == [[0], [1], [3]]


def test_a_truncated_file_has_no_hole(tmp_path: Path) -> None:
    """As by logrotate's `copytruncate`."""
    path = tmp_path / "lines"
    with LinesFile(path) as file:
        write(file, *range(1000))
        os.truncate(path, 0)
        write(file, 1000)
    assert numbers(path) == [1000]
    assert b"\0" not in path.read_bytes()


def test_lines_follow_once_a_removed_folder_is_back(tmp_path: Path) -> None:
    path = tmp_path / "disk" / "lines"
    path.parent.mkdir()
    with LinesFile(path) as file:
        write(file, 0)
        path.unlink()
        path.parent.rmdir()
        for _ in range(2):
            with pytest.raises(FileNotFoundError, match=str(path)):
                write(file, 1)
        path.parent.mkdir()
        write(file, 2)
    assert numbers(path) == [2]


# A full disk


def test_a_full_disk_leaves_whole_lines_and_lines_follow_once_there_is_space(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with LinesFile(path) as file:
        with full_disk(1000), pytest.raises(OSError, match=str(path)):
            write(file, *range(100))
        kept = numbers(path)
        assert kept == list(range(len(kept)))
        assert 0 < len(kept) < 100
        write(file, 100)
    assert numbers(path) == [*kept, 100]


# Rotation


def test_a_file_is_rotated_before_it_exceeds_its_size(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    last = 3 * (KEPT_FILES + 2)
    with LinesFile(path, rotation=Rotation(max_bytes=3 * len(line(0)))) as file:
        for number in range(last + 2):
            write(file, number)
    names = sorted(os.listdir(tmp_path))
    assert names == ["lines", *(f"lines.{number}" for number in range(1, KEPT_FILES + 1))]
    assert numbers(path) == [last, last + 1]
    for number in range(1, KEPT_FILES + 1):
        first = last - 3 * number
        assert numbers(tmp_path / f"lines.{number}") == [first, first + 1, first + 2]


def test_a_file_that_cannot_be_renamed_grows_on_and_keeps_every_line_and_former_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lines"
    (tmp_path / f"lines.{KEPT_FILES}").mkdir()
    for number in range(1, KEPT_FILES):
        (tmp_path / f"lines.{number}").write_text(str(number))
    with LinesFile(path, rotation=Rotation(max_bytes=100)) as file:
        for number in range(20):
            write(file, number)
        assert numbers(path) == list(range(20))
        assert [(tmp_path / f"lines.{number}").read_text() for number in range(1, KEPT_FILES)] == list("123456")
        assert caplog.text.count(f"{path} cannot be rotated, and grows on") == 1
        (tmp_path / f"lines.{KEPT_FILES}").rmdir()
        write(file, 20)
    assert numbers(path) == [20]
    assert numbers(tmp_path / "lines.1") == list(range(20))


@pytest.mark.skipif(not can_unshare(), reason="a mount needs a privilege")
def test_a_file_mounted_into_a_container_grows_on(tmp_path: Path) -> None:
    """Such a file may be written, and not renamed."""
    path = tmp_path / "lines"
    path.touch()
    (tmp_path / "lines.1").write_text("from before")
    words = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" "$0" && exec "$1" -c "$2" "$0"', path, sys.executable]
    result = subprocess.run([*words, ROTATING_WRITER], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert result.returncode == 0, result.stderr
    assert numbers(path) == list(range(20))
    assert sorted(os.listdir(tmp_path)) == ["lines", "lines.2"]
    assert (tmp_path / "lines.2").read_text() == "from before"


def test_a_file_is_rotated_by_the_age_of_its_first_record(tmp_path: Path) -> None:
    path, now = tmp_path / "lines", datetime.now(timezone.utc)
    for age, rotated in ((timedelta(hours=23), False), (timedelta(hours=25), True), (timedelta(days=-400), False)):
        path.write_text(json.dumps({"time": iso_time(now - age), "number": 0}) + "\n")
        with LinesFile(path, rotation=Rotation(max_age_s=86400)) as file:
            write(file, 1)
        assert numbers(path) == ([1] if rotated else [0, 1])


def test_an_empty_file_is_not_rotated(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with LinesFile(path, rotation=Rotation(max_bytes=10)) as file:
        write(file, 1)
    assert os.listdir(tmp_path) == ["lines"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100MB", Rotation(max_bytes=100e6)),
        ("1.5 GB", Rotation(max_bytes=1.5e9)),
        ("1d", Rotation(max_age_s=86400)),
        ("90m", Rotation(max_age_s=5400)),
    ],
)
def test_limits_are_parsed(text: str, expected: Rotation) -> None:
    assert parse_rotation(text) == expected


@pytest.mark.parametrize("text", ["", "100", "MB", "0MB", "-1d", "1 week", "1e9kB", "1d2h"])
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(OutputError, match="100MB or 1d"):
        parse_rotation(text)


# Pipes


def test_a_pipe_waits_for_each_reader(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    file = LinesFile(path)
    file.open()  # waits for nobody
    received: list[bytes] = []

    def read_a_line() -> None:
        with path.open("rb", buffering=0) as pipe:
            received.append(pipe.read(len(line(0))))

    for number in range(2):
        reader = threading.Thread(target=read_a_line)
        reader.start()
        write(file, number)
        reader.join(TIMEOUT_S)
        with pytest.raises(BrokenPipeError, match=str(path)):
            write(file, number)
    file.close()
    assert received == [line(0), line(1)]


def test_overwrite_empties_a_file_once(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("notes")
    with LinesFile(path, overwrite=True) as file:
        write(file, 0)
        path.rename(tmp_path / "former")
        path.write_bytes(line(1))
        write(file, 2)
    assert numbers(path) == [1, 2]
