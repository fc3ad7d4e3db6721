"""Video files: sizes, rates and containers as they are; damage reported where container or codec tells; pipes."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from edge.errors import SourceError
from edge.frames.base import Frame
from edge.frames.containers import missing_bytes
from edge.frames.open import open_source
from tests.support.commands import ROOT, TIMEOUT_S
from tests.support.videos import PIXEL_FORMATS, RATE, jpegs, pictures, write_encoded, zeros_inside

FRAMES = pictures(40)


def read_frames(path: Path, *, skip_bad: bool = False) -> list[Frame]:
    source = open_source(path, skip_bad=skip_bad)
    try:
        return list(iter(lambda: source.read(None), None))
    finally:
        source.close()


def joined(folder: Path) -> Path:
    parts = [write_encoded(folder / f"{size[0]}.ts", pictures(10, *size)).read_bytes() for size in SIZES]
    (folder / "joined.ts").write_bytes(b"".join(parts))
    return folder / "joined.ts"


SIZES = ((96, 128), (144, 256))


def trimmed(folder: Path, suffix: str) -> Path:
    """Copy a video from the middle on, without encoding it again."""
    whole, part = write_encoded(folder / "whole.mp4", FRAMES, key_every=250), folder / f"part{suffix}"
    with av.open(str(whole)) as source, av.open(str(part), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts -= 20 * packet.duration  # before 0: an edit list leaves them out
                packet.dts -= 20 * packet.duration
                packet.stream = copy
                target.mux(packet)
    return part


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".ts", ".mp4"])
def test_a_video_of_variable_rate_is_read_to_its_end(suffix: str, tmp_path: Path) -> None:
    """Duration times rate, 599 frames where there are 450, is an estimate."""
    times = [index / RATE for index in range(20)] + [20 / RATE + index / 2 for index in range(20)]
    codec = "libvpx" if suffix == ".webm" else "libx264"
    frames = read_frames(write_encoded(tmp_path / f"video{suffix}", FRAMES, codec, times))
    assert len(frames) == 40
    positions = [float(frame.position or 0) for frame in frames]
    assert positions == pytest.approx(times, abs=0.002)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg2video", "ffv1", "mjpeg"])
def test_frames_of_an_avi_file_with_b_frames_have_ascending_positions(codec: str, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "video.avi"), "w") as file:
        stream = file.add_stream(codec, rate=RATE, width=128, height=96, pix_fmt=PIXEL_FORMATS.get(codec, "yuv420p"))
        if codec in ("libx264", "mpeg4", "mpeg2video"):
            stream.codec_context.max_b_frames = 2
        for pixels in pictures(35):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
        file.mux(stream.encode(None))
    positions = [frame.position for frame in read_frames(tmp_path / "video.avi")]
    assert positions == pytest.approx([index / RATE for index in range(35)])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_trimmed_video_is_read_to_its_end(suffix: str, tmp_path: Path) -> None:
    assert 0 < len(read_frames(trimmed(tmp_path, suffix))) <= 40


def test_every_frame_has_its_own_size(tmp_path: Path) -> None:
    assert [frame.pixels.shape[:2] for frame in read_frames(joined(tmp_path))] == [SIZES[0]] * 10 + [SIZES[1]] * 10


def test_frames_have_the_pixels_of_opencv(tmp_path: Path) -> None:
    path = write_encoded(tmp_path / "video.mp4", FRAMES)
    capture = cv2.VideoCapture(str(path))
    for frame in read_frames(path):
        assert (frame.pixels == capture.read()[1]).all()


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_video_is_turned_as_its_metadata_say(turn: int, tmp_path: Path) -> None:
    path = write_encoded(tmp_path / "video.mp4", FRAMES[:3])
    content = path.read_bytes()
    start = content.index(b"tkhd") + 44  # the matrix in the header of the track
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turn]
    matrix = [cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30]
    replaced = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(content[:start] + replaced + content[start + 36 :])
    expected = cv2.VideoCapture(str(path)).read()[1]
    assert expected.shape == ((128, 96, 3) if turn != 180 else (96, 128, 3))
    assert (read_frames(path)[0].pixels == expected).all()


CUT = [
    (".mp4", "libx264", {"movflags": "faststart"}), (".mkv", "libx264", {}), (".mkv", "ffv1", {}),
    (".avi", "mjpeg", {}), (".avi", "ffv1", {}), (".ts", "libx264", {}), (".mjpeg", "mjpeg", {}),
]  # fmt: skip


@pytest.mark.parametrize("share", [0.41, 0.83])
@pytest.mark.parametrize(("suffix", "codec", "container"), CUT)
def test_a_truncated_video_gives_its_complete_frames_and_then_an_error(
    suffix: str, codec: str, container: dict[str, str], share: float, tmp_path: Path
) -> None:
    path = write_encoded(tmp_path / f"video{suffix}", FRAMES, codec, container=container)
    whole = {frame.position: frame.pixels for frame in read_frames(path)}
    assert len(whole) == 40
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    source, complete = open_source(path), []

    def read_to_the_end() -> None:
        while (frame := source.read(None)) is not None:
            complete.append(frame)

    with pytest.raises(SourceError, match=r"cut off after \d+ frames"):
        read_to_the_end()
    source.close()
    assert 0 < len(complete) <= 40  # an AVI file may have lost no more than its index
    assert all((frame.pixels == whole[frame.position]).all() for frame in complete)


def test_a_video_without_its_index_is_refused(tmp_path: Path) -> None:
    path = write_encoded(tmp_path / "video.mp4", FRAMES)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(SourceError, match=r"video\.mp4 cannot be opened: .*; give a video"):
        open_source(path)


def damaged_mjpeg(folder: Path, bad: tuple[int, ...]) -> Path:
    """Write a stream of JPEGs of which some hold zeros, their markers intact."""
    encoded = jpegs(FRAMES[:10])
    for index in bad:
        encoded[index] = zeros_inside(encoded[index])
    (folder / "video.mjpeg").write_bytes(b"".join(encoded))
    return folder / "video.mjpeg"


def test_a_damaged_jpeg_in_a_video_is_an_error_or_left_out_on_request(tmp_path: Path) -> None:
    path = damaged_mjpeg(tmp_path, (3, 7))
    with pytest.raises(
        SourceError, match=r"video\.mjpeg is damaged or was cut off after 3 frames; repair it, or leave out"
    ):
        read_frames(path)
    source = open_source(path, skip_bad=True)
    assert len(list(iter(lambda: source.read(None), None))) == 8
    assert source.damaged == 2


def test_frames_between_damage_and_the_next_key_frame_are_left_out(tmp_path: Path) -> None:
    """They are decoded from the damaged one."""
    path = write_encoded(tmp_path / "video.mkv", FRAMES, key_every=10)
    whole = {frame.position: frame.pixels for frame in read_frames(path)}
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 1500] = bytes(1500)
    path.write_bytes(content)
    frames = read_frames(path, skip_bad=True)
    assert 20 <= len(frames) < 40
    wrong = [frame.position for frame in frames if np.abs(frame.pixels.astype(int) - whole[frame.position]).mean() > 1]
    assert len(wrong) <= 1, wrong


def test_a_recording_that_starts_between_key_frames_is_read_from_the_next_on(tmp_path: Path) -> None:
    path = write_encoded(tmp_path / "video.ts", FRAMES, key_every=10)
    path.write_bytes(path.read_bytes()[188 * 40 :])
    assert 10 <= len(read_frames(path)) < 40


@pytest.mark.parametrize("name", ["a:b.mp4", "rtsp:x.mp4", "100%d.mp4", "a b?c#d.mp4", "@:x@y.mp4"])
def test_any_file_name_is_a_file_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_encoded(tmp_path / "video.mp4", FRAMES[:3]).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read_frames(Path(name))) == 3


READ_STDIN = "import sys; from edge.frames.open import open_source; s = open_source(sys.argv[1]); print(s.is_live, sum(1 for _ in iter(lambda: s.read(None), None)))"  # noqa: E501


@pytest.mark.parametrize("name", ["/dev/stdin", "/dev/fd/0"])
@pytest.mark.parametrize("way", ["pipe", "file"])
def test_standard_input_is_a_finite_video(name: str, way: str, tmp_path: Path) -> None:
    path = write_encoded(tmp_path / "video.mkv", FRAMES)
    with path.open("rb") as file:
        streams = {"stdin": file} if way == "file" else {"input": path.read_bytes()}
        command = [sys.executable, "-c", READ_STDIN, name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=TIMEOUT_S, **streams)
    assert (done.stdout.decode().split(), done.stderr) == (["False", "40"], b"")


def test_a_named_pipe_is_a_finite_video(tmp_path: Path) -> None:
    content = write_encoded(tmp_path / "video.mkv", FRAMES).read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    assert len(read_frames(tmp_path / "pipe")) == 40
    writer.join()


def test_transparent_pixels_of_a_video_lie_on_white(tmp_path: Path) -> None:
    from PIL import Image

    ink = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    ink.paste((255, 0, 0, 255), (0, 0, 16, 32))
    ink.save(tmp_path / "video.gif", save_all=True, append_images=[ink.rotate(90)], disposal=2)
    pixels = read_frames(tmp_path / "video.gif")[0].pixels
    assert pixels[16, 8].tolist() == [0, 0, 255]
    assert pixels[16, 24].tolist() == [255, 255, 255]


SEGMENT = b"\x1a\x45\xdf\xa3\x84abcd\x18\x53\x80\x67"
FTYP = b"\0\0\0\x0cftypisom"


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (b"", 0),
        (SEGMENT + b"\x88" + bytes(8), 0),
        (SEGMENT + b"\x88" + bytes(4), 4),
        (SEGMENT + b"\x01\xff\xff\xff\xff\xff\xff\xff" + bytes(8), 0),
        (SEGMENT[:9] + b"\0\x53\x80\x67\x88" + bytes(4), 0),
        (b"\x1a\x45\xdf\xa3\0" + bytes(20), 0),
        (b"\x1a\x45\xdf\xa3", 0),
        (b"RIFF\x10\0\0\0AVI " + bytes(12), 0),
        (b"RIFF\x10\0\0\0AVI " + bytes(10), 2),
        (b"RIFF\0\0\0\0AVI " + bytes(10), 0),
        (FTYP + b"\0\0\0\x10mdat" + bytes(8), 0),
        (FTYP + b"\0\0\0\x10mdat" + bytes(5), 3),
        (FTYP + b"\0\0\0\0mdat" + bytes(5), 0),
        (FTYP + b"\0\0\0\x01mdat" + (20).to_bytes(8, "big") + bytes(3), 1),
        (FTYP + b"\0\0\0\x02junk" + bytes(9), 0),
        ((b"\x47" + bytes(187)) * 3, 0),
        ((b"\x47" + bytes(187)) * 2 + b"\x47", 187),
    ],
)
def test_headers_tell_whether_bytes_are_missing(content: bytes, missing: int, tmp_path: Path) -> None:
    (tmp_path / "video").write_bytes(content)
    assert missing_bytes(tmp_path / "video") == missing
