"""Frames from local cameras (V4L2), through OpenCV."""

import os
import threading
from pathlib import Path

import cv2

from edge.errors import AddressError, SourceError, SourceLostError, UnavailableError
from edge.frames.base import Frame, PixelFormat
from edge.frames.blocking import call_interruptibly
from edge.frames.files import silence_opencv
from edge.frames.options import DEFAULTS, SourceOptions

MAX_INDEX_DIGITS = 9
"""OpenCV's indices have 32 bits."""
FOURCC = cv2.VideoWriter.fourcc(*"MJPG")
"""FourCC of the only compressed format that OpenCV decodes itself."""
MAX_RATE_DIFFERENCE = 0.05
"""Tolerated relative difference of the frame rate: cameras report 29.97 for 30."""


class CameraSource:
    """A local camera."""

    is_live = True
    frames: int | None = None
    damaged = 0

    def __init__(self, camera: str, options: SourceOptions = DEFAULTS) -> None:
        """Open a camera by its index (`0`) or device (`/dev/video0`).

        Raises:
            AddressError: the camera has no mode with the size, rate or codec of the options.
            SourceError: there is no such camera, or another program uses it.
            UnavailableError: this user may not read it.
        """
        is_index = camera.isdigit()
        self._name = f"camera {camera}" if is_index else camera
        device = Path(f"/dev/video{camera}" if is_index else camera)
        silence_opencv()
        address = int(camera) if is_index and len(camera) <= MAX_INDEX_DIGITS else str(device)
        self._capture = call_interruptibly(lambda: cv2.VideoCapture(address, cv2.CAP_V4L2), cv2.VideoCapture.release)
        self._reading = threading.Lock()
        self._frames_read = 0
        if not self._capture.isOpened():
            raise self._refusal(device)
        try:
            self._select(options)
        except AddressError:
            self._capture.release()
            raise

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame, BGR.

        Raises:
            SourceError: the camera gives no frames.
            SourceLostError: the camera gave frames and stopped.
        """
        with self._reading:
            success, pixels = self._capture.read(None if out is None else out.pixels)
        if success:
            self._frames_read += 1
            return Frame(pixels, PixelFormat.BGR)
        kind = SourceLostError if self._frames_read else SourceError
        raise kind(f"{self._name} stopped giving frames after {self._frames_read}; check the cable")

    def close(self) -> None:
        """Release the device; a hanging read keeps it open until the process ends."""
        if self._reading.acquire(timeout=1):
            self._capture.release()
            self._reading.release()

    def _select(self, options: SourceOptions) -> None:
        """Select the mode, and check it: drivers silently choose another mode if they lack it."""
        if options.codec not in (None, "mjpeg"):
            raise AddressError(
                f"{self._name} cannot be read in {options.codec}; choose codec=mjpeg, or a GStreamer pipeline with "
                "v4l2src and a decoder"
            )
        width, height = options.size or (None, None)
        wanted: dict[str, tuple[int, float | None]] = {
            "codec": (cv2.CAP_PROP_FOURCC, FOURCC if options.codec else None),
            "width": (cv2.CAP_PROP_FRAME_WIDTH, width),
            "height": (cv2.CAP_PROP_FRAME_HEIGHT, height),
            "rate": (cv2.CAP_PROP_FPS, options.rate),
        }
        selected = {name: (key, value) for name, (key, value) in wanted.items() if value is not None}
        for key, value in selected.values():
            self._capture.set(key, value)
        for name, (key, value) in selected.items():
            actual = self._capture.get(key)
            tolerance = MAX_RATE_DIFFERENCE * value if name == "rate" else 0
            if abs(actual - value) > tolerance:
                shown = ("mjpeg", "another") if name == "codec" else (f"{value:g}", f"{actual:g}")
                raise AddressError(
                    f"{self._name} has no mode of {name} {shown[0]} (it selects {shown[1]}); choose one of those that "
                    "`v4l2-ctl --list-formats-ext` lists"
                )

    def _refusal(self, device: Path) -> Exception:
        """Return the error of a device that OpenCV cannot open, with the system's reason."""
        try:
            os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK))
        except PermissionError as error:
            return UnavailableError(
                f"{self._name} cannot be opened: {device}: {error.strerror}; add this user to the device's group "
                "(sudo usermod -aG video $USER) and log in again"
            )
        except OSError as error:
            return SourceError(
                f"{self._name} cannot be opened: {device}: {error.strerror}; check that it is plugged in and that no "
                "other program uses it; `edge doctor` lists the cameras"
            )
        return SourceError(
            f"{self._name} cannot be opened: {device} is not a camera that OpenCV can read; `edge doctor` lists the "
            "cameras"
        )
