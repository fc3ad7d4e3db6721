"""Annotated video: frames with their label, probability and exit, as H.264 in a file that a kill leaves playable."""

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any, cast

import av
import cv2
from numpy.typing import NDArray

from edge.errors import OutputError, utf8
from edge.frames.base import Frame
from edge.frames.colour import bgr_pixels
from edge.live.messages import Message, Observation
from edge.live.outputs.base import Output
from edge.live.outputs.terminal import describe
from edge.live.timeline import Pace, Timeline

CODEC = "libx264"
CODEC_OPTIONS = {"preset": "superfast", "tune": "zerolatency", "crf": "26", "g": "15"}
CONTAINER_OPTIONS = {
    "movflags": "empty_moov+default_base_moof+skip_trailer",  # the trailer's index would grow in memory
    "frag_duration": "1000000",
    "flush_packets": "1",
}
"""A fragment is written every second, and all before it are playable."""
MAX_RATE = 15
"""Frames a second of the source's time, at most: encoding takes as long as a small network."""
MIN_SIDE, MAX_SIDE = 320, 1280
"""Frames whose longer side is shorter or longer are scaled."""
MAX_OTHER_SIZE = MAX_RATE
"""Consecutive frames of another size that are scaled to the file's; the next begins a new file."""
TIME_BASE = Fraction(1, 1000)
FONT = cv2.FONT_HERSHEY_SIMPLEX

log = logging.getLogger(__name__)


class Video(Output):
    """An output of annotated video: a file for each source, and a new one where the size of its frames changes."""

    wants_frames = True

    def __init__(self, path: Path) -> None:
        """Write to a path that ends in `.mp4`, or where it exists `NAME-2.mp4`, and so on: no file is replaced."""
        self.name = utf8(f"video {path}")
        self._path = path
        self._paces = defaultdict[str, Pace](lambda: Pace(1 / MAX_RATE))
        self._files: dict[str, VideoFile] = {}

    def open(self) -> None:
        """Check that the folder and the encoder are there.

        Raises:
            OutputError: one is missing.
        """
        if not self._path.parent.is_dir():
            raise OutputError(f"there is no folder {self._path.parent}; create it")
        if CODEC not in av.codecs_available:
            raise OutputError(f"PyAV {av.__version__} cannot encode H.264; install it with pip install av")

    def chooses(self, observation: Observation) -> bool:
        """Choose frames of `MAX_RATE`. Called once for each observation."""
        return self._paces[observation.source].takes(observation.result.timeline_s)

    def write(self, messages: Sequence[Message]) -> None:
        """Encode chosen frames."""
        for message in messages:
            if isinstance(message, Observation) and message.frame is not None:
                self._add(message, annotated(message.frame, describe(message)))

    def close(self) -> None:
        """Finish the files. Idempotent."""
        with ExitStack() as closing:
            while self._files:
                closing.callback(self._files.popitem()[1].close)

    def _add(self, observation: Observation, picture: NDArray[Any]) -> None:
        source = observation.source
        file = self._files.get(source)
        if file is not None and file.is_outgrown_by(picture):
            self._files.pop(source).close()
            file = None
        if file is None:
            path = free_path(self._path)
            log.info("%s is recorded to %s", source, path)
            file = self._files[source] = VideoFile(path, picture.shape[:2], source)
        file.write(picture, observation.result.timeline_s)


class VideoFile:
    """A video of pictures of one size."""

    def __init__(self, path: Path, size: tuple[int, ...], title: str) -> None:
        """Create a file.

        Raises:
            OutputError: it cannot be written.
        """
        self._path = path
        self._size, self._others = size, 0
        self._timeline = Timeline()
        self._started_s, self._last_pts = 0.0, -1
        with _output_errors(path):  # a colon in its name starts no scheme
            self._container = av.open(f"file:{path}", "w", format="mp4", options=CONTAINER_OPTIONS)
        self._container.metadata["title"] = title
        self._stream = cast(av.VideoStream, self._container.add_stream(CODEC, rate=MAX_RATE, options=CODEC_OPTIONS))
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = TIME_BASE
        self._stream.codec_context.thread_count = 1

    def is_outgrown_by(self, picture: NDArray[Any]) -> bool:
        """Check that pictures have had another size for so long that they need another file."""
        self._others = self._others + 1 if picture.shape[:2] != self._size else 0
        return self._others > MAX_OTHER_SIZE

    def write(self, picture: NDArray[Any], time_s: float) -> None:
        """Append a picture of a moment.

        Raises:
            OutputError: it cannot be written or encoded.
        """
        if picture.shape[:2] != self._size:
            picture = cv2.resize(picture, self._size[::-1])
        time_s = self._timeline.at(time_s)
        if self._last_pts < 0:
            self._started_s = time_s
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        frame.pts = self._last_pts = max(round((time_s - self._started_s) * 1000), self._last_pts + 1)
        frame.time_base = TIME_BASE
        with _output_errors(self._path):
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file.

        Raises:
            OutputError: it cannot be written.
        """
        with _output_errors(self._path):
            try:
                if self._last_pts >= 0:
                    self._container.mux(self._stream.encode(None))
            finally:
                self._container.close()


def annotated(frame: Frame, text: str) -> NDArray[Any]:
    """Return a new BGR picture of even size, of a frame with a text at the top.

    Raises:
        SourceError: the frame is not a picture.
    """
    pixels = bgr_pixels(frame)
    height, width = frame.size
    scale = min(max(1.0, MIN_SIDE / max(height, width)), MAX_SIDE / max(height, width))
    size = (_even(width * scale), _even(height * scale))
    if scale > 1:
        picture = cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST)
    elif size != (width, height):
        picture = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    else:
        picture = pixels.copy() if pixels is frame.pixels else pixels
    draw(picture, text)
    return picture


def draw(picture: NDArray[Any], text: str) -> None:
    """Write a text at the top of a BGR picture, as large as fits. OpenCV's font has ASCII only."""
    text = unicodedata.normalize("NFKD", text).encode("ascii", "replace").decode()
    (width, height), _ = cv2.getTextSize(text, FONT, 1, 2)
    scale = min((picture.shape[1] - 8) / width, picture.shape[0] / 12 / height)
    place, thickness = (4, 4 + round(height * scale)), max(1, round(2 * scale))
    for colour, extra in (((0, 0, 0), 2), ((255, 255, 255), 0)):
        cv2.putText(picture, text, place, FONT, scale, colour, thickness + extra, cv2.LINE_AA)


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Translate the errors of FFmpeg.

    Raises:
        OutputError: the video cannot be written.
    """
    try:
        yield
    except av.FFmpegError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; check the disk and the folder") from None


def free_path(path: Path) -> Path:
    """Create an empty file under the first free name: that of the path, or with a number."""
    for number in count(1):
        numbered = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            numbered.touch(exist_ok=False)
        except FileExistsError:
            continue
        return numbered
    raise AssertionError("unreachable")


def _even(length: float) -> int:
    return max(16, round(length / 2) * 2)
