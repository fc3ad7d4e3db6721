"""Annotated video."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.errors import OutputError, SourceError
from edge.frames.base import Frame, PixelFormat
from edge.live.messages import Observation
from edge.live.outputs import video as video_module
from edge.live.outputs.video import MAX_OTHER_SIZE, MAX_RATE, MAX_SIDE, Video, annotated
from tests.support.commands import ROOT, full_disk, wait_until
from tests.support.observations import observation
from tests.support.outputs import opened

WRITER = """
import sys, time
from pathlib import Path
from edge.live.outputs.video import Video
from tests.live.test_video import framed
video = Video(Path(sys.argv[1]))
video.open()
for number in range(10**6):
    video.write([framed(number / 10)])
"""


def gray(level: int = 128, height: int = 240, width: int = 320) -> Frame:
    return Frame(np.full((height, width), level, dtype=np.uint8), PixelFormat.GRAY)


def framed(time_s: float, frame: Frame | None = None, **changes: Any) -> Observation:
    return observation(time_s, frame=frame or gray(), **changes)


def pictures(path: Path) -> list[tuple[float, NDArray[Any]]]:
    """Return time and pixels of every frame of a video."""
    with av.open(str(path)) as container:
        return [(float(frame.time or 0), frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]


def times(path: Path) -> list[float]:
    return [time_s for time_s, _ in pictures(path)]


def test_frames_keep_their_times_and_are_annotated(tmp_path: Path) -> None:
    moments = [100.0, 100.1, 100.5, 103.7]
    with opened(Video(tmp_path / "video.mp4")) as video:
        video.write([framed(moment) for moment in moments[:2]])
        video.write([observation(100.3)])  # its frame was not copied
        video.write([framed(moment) for moment in moments[2:]])
    assert times(tmp_path / "video.mp4") == pytest.approx([moment - 100 for moment in moments], abs=1e-3)
    for _, picture in pictures(tmp_path / "video.mp4"):
        assert picture.shape == (240, 320, 3)
        assert picture[:40].max() > 200
        assert picture[:40].min() < 50
        assert np.abs(picture[60:].astype(int) - 128).max() < 8


def test_the_text_is_the_label_with_probability_and_exit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    monkeypatch.setattr(video_module, "draw", lambda picture, text: texts.append(text))
    with opened(Video(tmp_path / "video.mp4"), [framed(0, label="3", probability=0.5, exit_index=2)]):
        assert texts == ["3 50% at exit 2"]


def test_a_source_whose_positions_begin_again_goes_on_at_its_rate(tmp_path: Path) -> None:
    with opened(Video(tmp_path / "video.mp4")) as video:
        video.write([framed(500, position=position) for position in (0.0, 0.5, 1.0, 0.0, 0.5, 1.0)])
    assert times(tmp_path / "video.mp4") == pytest.approx([0, 0.5, 1.0, 1.001, 1.5, 2.0], abs=1e-3)


@pytest.mark.parametrize("text", ["7", "Gänse-Säger 97% at exit 0", "x" * 80, "猫\n1%"])
def test_any_text_fits(text: str) -> None:
    picture = np.full((64, 320, 3), 128, dtype=np.uint8)
    video_module.draw(picture, text)
    assert (picture != 128).any()
    assert (picture[:, -1] == 128).all()


def test_a_rate_above_the_limit_is_thinned_evenly(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for rate, expected in ((10, 10), (25, MAX_RATE), (30, MAX_RATE), (200, MAX_RATE)):
        video = Video(tmp_path / "video.mp4")
        moments = [index / rate + random.uniform(0, 0.2 / rate) for index in range(rate * 20)]
        chosen = [moment for moment in moments if video.chooses(observation(moment))]
        assert len(chosen) == pytest.approx(expected * 20, rel=0.02)
        assert np.diff(chosen).max() < 2.5 / expected


def test_each_source_is_thinned_by_its_own_time_and_goes_on_where_it_went_back() -> None:
    video = Video(Path("video.mp4"))
    for position in (0.0, 10.0, 0.0, 0.1):
        assert video.chooses(observation(500.0, position=position))
        assert video.chooses(observation(500.0, position=position, source="other"))
    assert not video.chooses(observation(500.0, position=0.11))


def test_each_source_has_a_file_and_none_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_text("from yesterday")
    with opened(Video(tmp_path / "video.mp4")) as video:
        for index in range(3):
            video.write([framed(index), framed(index, gray(height=120), source="other")])
    assert (tmp_path / "video.mp4").read_text() == "from yesterday"
    assert [len(times(tmp_path / f"video-{number}.mp4")) for number in (2, 3)] == [3, 3]
    assert len(os.listdir(tmp_path)) == 3


def test_a_size_that_stays_begins_a_new_file_and_one_that_flickers_does_not(tmp_path: Path) -> None:
    small, large = gray(height=120, width=160), gray(height=480, width=640)
    frames = [small, large] * 20 + [large] * (MAX_OTHER_SIZE + 10)
    with opened(Video(tmp_path / "video.mp4")) as video:
        for index, frame in enumerate(frames):
            video.write([framed(index / 10, frame)])
    first, second = (pictures(tmp_path / name) for name in ("video.mp4", "video-2.mp4"))
    assert (first[0][1].shape, second[0][1].shape) == ((240, 320, 3), (480, 640, 3))
    assert len(first) + len(second) == len(frames)
    assert len(second) < 12
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [
        ((2, 2, 3), PixelFormat.BGR, (320, 320)),
        ((1, 1), PixelFormat.GRAY, (320, 320)),
        ((481, 641, 3), PixelFormat.BGR, (480, 640)),
        ((480, 640, 4), PixelFormat.BGRX, (480, 640)),
        ((720, 640), PixelFormat.NV12, (480, 640)),
        ((2000, 4000), PixelFormat.GRAY, (MAX_SIDE // 2, MAX_SIDE)),
        ((1, 16000), PixelFormat.GRAY, (16, MAX_SIDE)),
    ],
)
def test_pictures_of_any_size_and_format_are_recorded(
    shape: Sequence[int], kind: PixelFormat, expected: tuple[int, int], tmp_path: Path
) -> None:
    frame = Frame(np.full(shape, 128, dtype=np.uint8), kind)
    with opened(Video(tmp_path / "video.mp4"), [framed(0, frame), framed(1, frame)]):
        pass
    assert [picture.shape for _, picture in pictures(tmp_path / "video.mp4")] == [(*expected, 3)] * 2


def test_arrays_are_refused() -> None:
    with pytest.raises(SourceError, match="the frames are arrays, not pictures"):
        annotated(Frame(np.zeros((5, 9, 9)), PixelFormat.ARRAY), "7")


def test_a_missing_folder_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"there is no folder {tmp_path}/missing; create it"):
        Video(tmp_path / "missing" / "video.mp4").open()


@pytest.mark.parametrize("name", ["door:1.mp4", "concat:a|b.mp4", "http:door.mp4", "50%d.mp4"])
def test_a_colon_in_the_name_of_a_file_starts_no_protocol(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(Video(Path(name)), [framed(0), framed(1)]):
        pass
    assert os.listdir() == [name]
    assert len(times(tmp_path / name)) == 2


def test_a_full_disk_is_an_error_of_the_output(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    video = Video(tmp_path / "video.mp4")
    with full_disk(10_000), pytest.raises(OutputError, match=f"{tmp_path}/video.mp4 cannot be written: File too large"):
        video.write([framed(index / 10, Frame(noise, PixelFormat.BGR)) for index in range(100)])
    with suppress(OutputError):  # FFmpeg repeats it
        video.close()


def test_a_killed_process_leaves_a_playable_file(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], cwd=ROOT) as process:
        wait_until(lambda: path.exists() and path.stat().st_size > 100_000, "some fragments")
        process.kill()
    found = times(path)
    assert len(found) > 20
    assert found == pytest.approx([index / 10 for index in range(len(found))], abs=1e-3)
