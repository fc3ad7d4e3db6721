"""Collecting frames to label: which are kept, how many, and who reads them."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from edge.errors import DataError, OutputError
from edge.frames.base import Frame, PixelFormat
from edge.frames.files import read_frame
from edge.frames.labelled import labelled_files
from edge.live import reservoir
from edge.live.messages import Observation
from edge.live.outputs.base import OutputQueue
from edge.live.outputs.collect import Collector
from edge.training.datasets.layout import images_by_split
from tests.support.observations import LABELS, observation

THRESHOLDS = (0.8, 0.6)
RNG = np.random.default_rng(0)


def picture(captured_s: float, confidence: float, label: str = "7", **changes: Any) -> Observation:
    """Return an observation with a frame of noise, which compresses badly."""
    frame = Frame(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8), PixelFormat.BGR)
    return observation(
        captured_s, label, confidence=confidence, **({"frame": frame, "thresholds": THRESHOLDS} | changes)
    )


def opened(folder: Path, **limits: Any) -> Collector:
    collector = Collector(folder, **limits)
    collector.open()
    return collector


def collect(folder: Path, observations: Sequence[Observation], **limits: Any) -> None:
    """Collect as the pipeline does: only chosen observations come with their frames."""
    collector = opened(folder, **limits)
    for each in observations:
        if collector.chooses(each):
            collector.write([each])
    collector.close()


def margins(folder: Path) -> list[str]:
    return sorted(path.name.split("_")[1] for path in folder.glob("*.png"))


def every_minute(confidences: Sequence[float], start_s: float = 0, **changes: Any) -> list[Observation]:
    return [picture(start_s + 60 * index, confidence, **changes) for index, confidence in enumerate(confidences)]


def test_the_nearest_frame_of_an_interval_is_kept_without_loss(tmp_path: Path) -> None:
    observations = [picture(second, confidence) for second, confidence in enumerate((0.9, 0.83, 0.79, 0.85, 0.99))]
    collect(tmp_path, observations)
    [path] = tmp_path.glob("*.png")
    assert path.name == "7_0.0100_20261127T180407000Z.png"
    assert (read_frame(path).pixels == observations[2].frame.pixels).all()


def test_each_interval_of_each_source_gives_one_frame(tmp_path: Path) -> None:
    observations = [picture(second, 0.9 - second / 1000, source=source) for second in range(95) for source in "ab"]
    collect(tmp_path, observations, interval_s=30)
    lines = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines].count("a") == [line["source"] for line in lines].count("b") == 4


def test_a_full_folder_keeps_the_nearest_frames(tmp_path: Path) -> None:
    confidences = RNG.uniform(0.8, 1.0, 50).round(4)
    collect(tmp_path, every_minute(confidences.tolist()), max_files=8)
    assert margins(tmp_path) == [f"{margin:.4f}" for margin in np.sort(confidences - 0.8)[:8]]


def test_the_folder_stays_below_its_bytes(tmp_path: Path) -> None:
    limit = 20_000
    collect(tmp_path, every_minute([0.9, 0.88, 0.86, 0.84, 0.82, 0.8, 0.81, 0.83, 0.85, 0.87]), max_bytes=limit)
    sizes = [path.stat().st_size for path in tmp_path.glob("*.png")]
    assert limit - max(sizes) < sum(sizes) <= limit
    assert "0.0000" in margins(tmp_path)


def test_frames_that_are_too_far_are_not_chosen(tmp_path: Path) -> None:
    collector = opened(tmp_path, max_files=2)
    collector.write(every_minute([0.85, 0.84, 0.83]))
    assert not collector.chooses(picture(500, 0.86))
    assert collector.chooses(picture(500, 0.81))
    collector.close()


def test_the_next_run_goes_on_with_the_folder(tmp_path: Path) -> None:
    collect(tmp_path, every_minute([0.85, 0.84, 0.83, 0.82]), max_files=3)
    collect(tmp_path, every_minute([0.835, 0.801, 0.9], start_s=5000), max_files=3)
    assert margins(tmp_path) == ["0.0010", "0.0200", "0.0300"]


def test_the_last_exit_is_compared_with_the_threshold_that_was_missed(tmp_path: Path) -> None:
    collect(tmp_path, [picture(0, 0.65, exit_index=1), picture(60, 0.58, exit_index=2), picture(120, 0.8)])
    assert margins(tmp_path) == ["0.0000", "0.0200", "0.0500"]


def test_without_early_exits_the_least_confident_frames_are_kept(tmp_path: Path) -> None:
    collector = opened(tmp_path, max_files=1)
    collector.write(every_minute([0.9, 0.3, 0.6], thresholds=()))
    collector.close()
    assert margins(tmp_path) == ["0.3000"]


@pytest.mark.parametrize(
    ("thresholds", "exit_index", "nearest"),
    [((2.0, 2.0), 2, "0.3000"), ((0.5, 2.0), 2, "0.1000"), ((2.0, 0.8), 1, "0.1000"), ((0.0, 2.0), 0, "0.3000")],
)
def test_thresholds_that_never_exit_do_not_count(
    thresholds: tuple[float, ...], exit_index: int, nearest: str, tmp_path: Path
) -> None:
    collect(tmp_path, every_minute([0.9, 0.3, 0.6], thresholds=thresholds, exit_index=exit_index), max_files=1)
    assert margins(tmp_path) == [nearest]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0, 2.0])
def test_every_frame_is_collected_while_there_is_room(threshold: float, tmp_path: Path) -> None:
    for run in (1, 2):
        observations = every_minute([0.0, 0.5, 1.0], start_s=500 * run, thresholds=(threshold,), exit_index=1)
        collect(tmp_path, observations, max_files=6)
        assert len(margins(tmp_path)) == 3 * run


def test_a_frame_without_a_confidence_is_not_chosen(tmp_path: Path) -> None:
    collector = opened(tmp_path)
    assert not collector.chooses(picture(0, float("nan")))
    collector.close()


def test_images_of_a_folder_are_all_collected(tmp_path: Path) -> None:
    collect(tmp_path, [picture(0.001 * n, 0.8 + n / 100, position=f"{n}.png") for n in range(5)])
    assert len(margins(tmp_path)) == 5


def test_intervals_of_a_video_are_seconds_of_the_video(tmp_path: Path) -> None:
    collect(tmp_path, [picture(0.001 * n, 0.9 - n / 1000, position=10.0 * n) for n in range(9)], interval_s=30)
    assert len(margins(tmp_path)) == 3


def test_nobody_reads_a_frame_before_it_is_sorted(tmp_path: Path) -> None:
    collect(tmp_path, every_minute([0.81, 0.82, 0.83, 0.84]))
    with pytest.raises(DataError, match="has no images; add some in subfolders"):
        labelled_files(tmp_path, LABELS)
    with pytest.raises(DataError, match="no subfolders"):
        images_by_split(tmp_path)
    first, second, *_ = sorted(tmp_path.glob("*.png"))
    for path, label in ((first, "1"), (second, "7")):
        (tmp_path / label).mkdir()
        shutil.move(path, tmp_path / label)
    assert labelled_files(tmp_path, LABELS)[1] == [1, 7]
    assert [len(files) for files in images_by_split(tmp_path)["train"].values()] == [1, 1]


def test_sorted_frames_stay_and_leave_room_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservoir, "RESCAN_S", 0.0)
    collector = opened(tmp_path, max_files=2)
    collector.write(every_minute([0.81, 0.82, 0.83]))
    (tmp_path / "7").mkdir()
    for path in tmp_path.glob("*.png"):
        shutil.move(path, tmp_path / "7")
    collector.write([observation(200)])
    assert collector.chooses(picture(300, 0.99))
    collector.write(every_minute([0.99, 0.98, 0.97], start_s=300))
    collector.close()
    assert len(margins(tmp_path / "7")) == 2
    assert margins(tmp_path) == ["0.1700", "0.1800"]


def test_copies_of_a_frame_are_kept_once_also_when_it_was_sorted(tmp_path: Path) -> None:
    [still, other] = every_minute([0.85, 0.81], label="[7]*")
    again = replace(still, result=replace(still.result, captured_s=200.0, time=other.time))
    collect(tmp_path, [still, again, other])
    assert margins(tmp_path) == ["0.0100", "0.0500"]
    (tmp_path / "7").mkdir()
    for path in tmp_path.glob("*.png"):
        shutil.move(path, tmp_path / "7")
    collect(tmp_path, [again])
    assert margins(tmp_path) == []


def test_the_index_describes_every_frame(tmp_path: Path) -> None:
    collect(tmp_path, every_minute([0.85, 0.81], probability=0.7, exit_index=0, source="rtsp://camera/…"))
    lines = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [(line["label"], line["probability"], line["exit_index"], line["margin"]) for line in lines] == [
        ("7", 0.7, 0, 0.05),
        ("7", 0.7, 0, 0.01),
    ]
    assert all((tmp_path / line["collected"]).is_file() for line in lines)
    assert lines[0]["source"] == "rtsp://camera/…"
    assert lines[1]["time"] == "2026-11-27T18:05:05.000Z"


@pytest.mark.parametrize("label", ["left/right", "../..", ".hidden", "Schäferhund, ältere", "x" * 300])
def test_labels_of_any_kind_make_names_in_the_folder(tmp_path: Path, label: str) -> None:
    folder = tmp_path / "collected"
    collect(folder, every_minute([0.85, 0.81], label=label), max_files=1)
    assert margins(folder) == ["0.0100"]
    assert [path.name for path in tmp_path.iterdir()] == ["collected"]


class Picture(NamedTuple):
    format: PixelFormat
    shape: tuple[int, ...]
    code: int | None
    """Conversion that reads such a frame as BGR."""


@pytest.mark.parametrize(
    "kind",
    [
        Picture(PixelFormat.GRAY, (6, 8), cv2.COLOR_GRAY2BGR),
        Picture(PixelFormat.BGR, (6, 8, 3), None),
        Picture(PixelFormat.BGRX, (6, 8, 4), cv2.COLOR_BGRA2BGR),
        Picture(PixelFormat.NV12, (9, 8), cv2.COLOR_YUV2BGR_NV12),
    ],
    ids=lambda kind: kind.format.name,
)
def test_frames_of_any_format_are_read_as_they_were_seen(tmp_path: Path, kind: Picture) -> None:
    pixels = RNG.integers(0, 256, kind.shape, dtype=np.uint8)
    collect(tmp_path, [picture(0, 0.81, frame=Frame(pixels, kind.format))])
    [path] = tmp_path.glob("*.png")
    assert (read_frame(path).pixels == (pixels if kind.code is None else cv2.cvtColor(pixels, kind.code))).all()


def test_arrays_are_kept_as_arrays(tmp_path: Path) -> None:
    array = RNG.normal(size=(5, 3, 3)).astype(np.float32)
    collect(tmp_path, [picture(0, 0.81, position="a.npy", frame=Frame(array, PixelFormat.ARRAY))])
    [path] = tmp_path.glob("*.npy")
    assert (read_frame(path).pixels == array).all()


def test_folders_with_other_content_are_refused_and_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(OutputError, match="is not a folder"):
        opened(tmp_path / "notes.txt")


def test_other_files_in_a_collected_folder_are_left_alone(tmp_path: Path) -> None:
    collect(tmp_path, every_minute([0.81]))
    (tmp_path / "mine.png").write_bytes(b"mine")
    collect(tmp_path, every_minute([0.82, 0.83], start_s=500), max_files=1)
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


def test_two_runs_do_not_collect_in_the_same_folder(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(OutputError, match="another process"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    collect(tmp_path, every_minute([0.81]))
    leftover = tmp_path / ".7_0.0500_20261127T180405000Z.png.0123abcd.partial"
    leftover.write_bytes(b"\x89PNG")
    opened(tmp_path).close()
    assert not leftover.exists()


def test_a_nearly_full_disk_is_left_alone_and_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(reservoir.shutil, "disk_usage", lambda path: usage._replace(free=reservoir.MIN_FREE_BYTES - 1))
    collect(tmp_path, every_minute([0.81, 0.82, 0.83]))
    assert margins(tmp_path) == []
    assert caplog.text.count("remove files") == 1


def test_a_failed_write_leaves_no_file_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    collector = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(reservoir, "write_file", full)
        with pytest.raises(OSError, match="No space"):
            collector.write(every_minute([0.81, 0.82]))
    assert (tmp_path / "index.jsonl").read_text() == ""
    collector.write(every_minute([0.83, 0.84], start_s=500))
    collector.close()
    assert "0.0300" in margins(tmp_path)


def test_behind_a_queue_frames_are_requested_only_where_they_are_needed(tmp_path: Path) -> None:
    queue = OutputQueue(Collector(tmp_path))
    assert queue.wants_frame(picture(0, 0.85))
    assert not queue.wants_frame(picture(0, float("nan")))
    queue.put(picture(0, 0.85))
    queue.close()
    assert margins(tmp_path) == ["0.0500"]
