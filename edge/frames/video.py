"""Frames from cameras, streams, video files and GStreamer pipelines, through OpenCV."""

import re
import threading
from pathlib import Path

import cv2

from edge.errors import SourceError
from edge.frames.base import Frame, PixelFormat, frame_from_array
from edge.frames.files import silence_opencv

CAPS_FORMAT = re.compile(r"\bformat\s*=\s*(?:\(string\)\s*)?[\"{\s]*(\w+)")
"""A pixel format in the caps of a GStreamer pipeline; the last one counts."""
PIPELINE_FORMATS = ("NV12", "BGRx", "BGRA", "BGR", "GRAY8")
MIN_COMPLETE_FRACTION = 0.95
"""Share of the announced frames up to which a video counts as cut off."""


class VideoSource:
    """A camera, stream or video file."""

    def __init__(self, address: int | str, name: str, api: int = cv2.CAP_ANY) -> None:
        """Open it; `name` stands for it in messages, `api` selects one of OpenCV's capture backends.

        Raises:
            SourceError: it cannot be opened.
        """
        self._name = name
        self._reading = threading.Lock()
        silence_opencv()
        self._capture = cv2.VideoCapture(address, api)
        if not self._capture.isOpened():
            raise SourceError(f"{name} cannot be opened; {_hint(address)}")
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.is_live = count <= 0 and (api == cv2.CAP_GSTREAMER or not Path(str(address)).is_file())
        self.frames = count if count > 0 else None
        self._frames_read = 0

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame, BGR; None at the end of a file.

        Raises:
            SourceError: a camera stopped, or a file ended before its announced number of frames.
        """
        with self._reading:
            success, pixels = self._capture.read(None if out is None else out.pixels)
        if success:
            self._frames_read += 1
            return Frame(pixels, PixelFormat.BGR)
        if self.is_live:
            raise SourceError(
                f"{self._name} stopped giving frames after {self._frames_read}; check the cable or the stream"
            )
        if self._frames_read <= MIN_COMPLETE_FRACTION * (self.frames or 0):  # containers announce an estimate
            raise SourceError(
                f"{self._name} ended after {self._frames_read} of {self.frames} frames; "
                "the file is damaged or was cut off"
            )
        return None

    def close(self) -> None:
        """Release the device or file. A read that hangs keeps it until the process ends."""
        if self._reading.acquire(timeout=1):
            self._capture.release()
            self._reading.release()


class PipelineSource(VideoSource):
    """A GStreamer pipeline, as for the CSI cameras of a Jetson. Frames pass through unconverted, including NV12."""

    def __init__(self, pipeline: str) -> None:
        """Start it.

        Raises:
            SourceError: it does not start, its last caps name an unsupported format, or OpenCV has no GStreamer.
        """
        self._caps_format = ["BGR", *CAPS_FORMAT.findall(pipeline)][-1]
        if self._caps_format not in PIPELINE_FORMATS:
            raise SourceError(
                f"the last format of the GStreamer pipeline is {self._caps_format}; "
                f"end it in video/x-raw,format={PIPELINE_FORMATS[0]} (or {', '.join(PIPELINE_FORMATS[1:])}) ! appsink"
            )
        super().__init__(pipeline, "the GStreamer pipeline", cv2.CAP_GSTREAMER)

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame in the format of the pipeline's last caps.

        Raises:
            SourceError: the pipeline stopped, or delivers frames of another shape.
        """
        frame = super().read(out)
        if frame is None:
            return None
        with self._reading:
            height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if frame.pixels.shape[0] == height:
            return frame_from_array(frame.pixels, "image")
        if self._caps_format != "NV12":
            raise SourceError(
                f"{self._name} gives frames of shape {frame.pixels.shape} for pictures {height} high; "
                f"end it in video/x-raw,format={self._caps_format} ! appsink"
            )
        return Frame(frame.pixels, PixelFormat.NV12)


def _hint(address: int | str) -> str:
    if isinstance(address, str) and " ! " in address:
        if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            return "does it run with gst-launch-1.0, and does it end in appsink?"
        return "this OpenCV was built without GStreamer; the python3-opencv of JetPack and Debian has it"
    if isinstance(address, int) or address.startswith("/dev/"):
        return "is it plugged in, and is another program using it?"
    return "is the address right, and is the server sending?" if "://" in address else "is it a video?"
