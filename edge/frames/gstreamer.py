"""Frames from GStreamer pipelines, such as those of a Jetson's CSI cameras, through OpenCV.

A caps filter before `appsink` fixes the pixel format, which cannot be guessed from a frame's shape; sizes may change
while the pipeline runs. OpenCV does not report why a pipeline ends. A pipeline of known length just ends, with a
warning if it ends far too early; the end of any other pipeline is an error.
"""

import logging
import re
import threading

import cv2

from edge.errors import SourceError, SourceLostError, UnavailableError
from edge.frames.base import Frame, PixelFormat
from edge.frames.blocking import call_interruptibly
from edge.frames.files import silence_opencv

DEFAULT_NAME = "the GStreamer pipeline"
RAW_CAPS = re.compile(r"(?:^|!|\bcaps\s*=)\s*[\"']?\s*(video/x-raw[^!]*)")
"""Caps of raw video, as a link or a property of a pipeline."""
CAPS_FORMAT = re.compile(r"(?<![\w-])format\s*=\s*(?:\(string\)\s*)?[\"{\s]*(\w+)")
"""A pixel format in caps."""
FORMATS = {
    "NV12": PixelFormat.NV12,
    "BGRx": PixelFormat.BGRX,
    "BGRA": PixelFormat.BGRX,
    "BGR": PixelFormat.BGR,
    "GRAY8": PixelFormat.GRAY,
}
APPSINK = re.compile(r"!(?=\s*appsink\b(?!.*!\s*appsink\b))", re.DOTALL)
"""The link to the last `appsink`."""
LIVE_ELEMENTS = re.compile(r"\b(rtsps?://|rtspsrc|udpsrc|srtsrc|rtmp2?src|v4l2src|nvarguscamerasrc|is-live=true)(?!\w)")
"""Elements of live pipelines: OpenCV reports the same for an unknown length as for a pipeline that has just begun."""
START_TIMEOUT_S = 10.0
"""Seconds for a pipeline to start. OpenCV waits forever if an element does not exist."""
MIN_ANNOUNCED_FRACTION = 0.9
"""Share of the announced length below which the end causes a warning."""

log = logging.getLogger(__name__)


class GStreamerSource:
    """A GStreamer pipeline that ends in `appsink`. Frames pass through unconverted, including NV12."""

    frames: int | None = None
    damaged = 0

    def __init__(self, pipeline: str, name: str = DEFAULT_NAME) -> None:
        """Start the pipeline; `name` is used in messages.

        Raises:
            SourceError: it does not start.
            UnavailableError: OpenCV has no GStreamer.
        """
        self._name = name
        pipeline, self._format = with_fixed_format(pipeline)
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise UnavailableError(
                f"{name} cannot be opened: this OpenCV was built without GStreamer; use the python3-opencv of JetPack "
                "or Debian, and remove the OpenCV of pip"
            )
        silence_opencv()
        self._capture = _start(pipeline, name)
        self._reading = threading.Lock()
        self._frames_read = 0
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frames = count if count > 0 else None
        self.is_live = count <= 0 and (self._played_fraction() < 0 or LIVE_ELEMENTS.search(pipeline) is not None)

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame in the pipeline's format; None at the end of a finite pipeline.

        Raises:
            SourceError: the pipeline gives no frames.
            SourceLostError: the pipeline gave frames and stopped.
        """
        with self._reading:
            success, pixels = self._capture.read(None if out is None else out.pixels)
        if success:
            self._frames_read += 1
            return Frame(pixels, self._format)
        if self.is_live or not self._frames_read:
            kind = SourceLostError if self._frames_read else SourceError
            raise kind(f"{self._name} stopped giving frames after {self._frames_read}; check the cable or the stream")
        played = self._frames_read / self.frames if self.frames else self._played_fraction()
        if played < MIN_ANNOUNCED_FRACTION:
            log.warning(
                "%s ended after %d frames, at %.0f %% of its announced length; check that the file is complete",
                self._name, self._frames_read, 100 * played,
            )  # fmt: skip
        return None

    def close(self) -> None:
        """Stop the pipeline; a hanging read keeps it running until the process ends."""
        if self._reading.acquire(timeout=1):
            self._capture.release()
            self._reading.release()

    def _played_fraction(self) -> float:
        """Return the played share of the pipeline's duration; negative if it has no duration."""
        return float(self._capture.get(cv2.CAP_PROP_POS_AVI_RATIO))


def _start(pipeline: str, name: str) -> cv2.VideoCapture:
    check = "check that it runs with gst-launch-1.0 and passes video/x-raw frames to appsink"
    try:
        capture = call_interruptibly(
            lambda: cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER), cv2.VideoCapture.release, START_TIMEOUT_S
        )
    except TimeoutError:
        raise SourceError(f"{name} cannot be opened: it has not started in {START_TIMEOUT_S:.0f} s; {check}") from None
    if not capture.isOpened():
        raise SourceError(f"{name} cannot be opened; {check}")
    return capture


def with_fixed_format(pipeline: str) -> tuple[str, PixelFormat]:
    """Return a pipeline whose `appsink` accepts a single pixel format, and that format.

    It is the last format in caps of raw video if that is in `FORMATS`; all else is converted to BGR.

    Raises:
        SourceError: there is no `appsink`.
    """
    named = [name for caps in RAW_CAPS.findall(pipeline) for name in CAPS_FORMAT.findall(caps)]
    name, conversion = (named[-1], "") if named and named[-1] in FORMATS else ("BGR", "! videoconvert ")
    fixed, links = APPSINK.subn(f"{conversion}! capsfilter caps=video/x-raw,format={name} !", pipeline, count=1)
    if not links:
        raise SourceError(f'{DEFAULT_NAME} has no appsink; end it in "! appsink"')
    return fixed, FORMATS[name]
