"""Checks that a pipeline's GStreamer elements are installed, and the packages that install them."""

import logging
import subprocess
from functools import cache

import cv2

from edge.errors import UnavailableError
from edge.system import l4t_release, pip_uninstall

PACKAGES = {
    "nv": "nvidia-l4t-gstreamer",
    "rtsp": "gstreamer1.0-plugins-good", "rtp": "gstreamer1.0-plugins-good", "soup": "gstreamer1.0-plugins-good",
    "multipart": "gstreamer1.0-plugins-good", "qt": "gstreamer1.0-plugins-good",
    "matroska": "gstreamer1.0-plugins-good", "avi": "gstreamer1.0-plugins-good",
    "h26": "gstreamer1.0-plugins-bad", "ts": "gstreamer1.0-plugins-bad",
}  # fmt: skip
"""Debian packages by the start of an element's name."""

DEFAULT_PACKAGE = "gstreamer1.0-tools"
INSPECT_TIMEOUT_S = 30.0
"""Time limit of a query; at its first start, GStreamer scans all plugins, which takes seconds."""

log = logging.getLogger(__name__)


def check_available(pipeline: str, name: str) -> None:
    """Check that this machine can run a pipeline; `name` is used in messages.

    Raises:
        UnavailableError: elements are missing; the message names them with the command that installs them.
    """
    reason = _unavailable(pipeline)
    if reason:
        raise UnavailableError(f"{name} cannot be opened: {reason}")


def is_available(pipeline: str) -> bool:
    """Check for the elements of a pipeline; False if this is not a Jetson. Missing elements are logged once."""
    if l4t_release() is None:
        return False
    reason = _unavailable(pipeline)
    if reason:
        _log_once(reason)
    return not reason


def _unavailable(pipeline: str) -> str:
    """Return the reason why a pipeline cannot run, with the remedy; empty if it can."""
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        remedy = f"{pip_uninstall('cv2', 'opencv-python')}; sudo apt install python3-opencv"
        return f"OpenCV {cv2.__version__} has no GStreamer; use JetPack's ({remedy})"
    missing = [element for element in elements_of(pipeline) if not has_element(element)]
    if not missing:
        return ""
    packages = sorted({_package(element) for element in missing})
    return f"GStreamer has no {', '.join(missing)}; sudo apt install {' '.join(packages)}"


def elements_of(pipeline: str) -> list[str]:
    """Return the names of a pipeline's elements, in order."""
    names = [part.split()[0] for part in pipeline.split(" ! ")]
    return [name for name in dict.fromkeys(names) if "/" not in name]


@cache
def has_element(element: str) -> bool:
    """Check for a GStreamer element, once per process."""
    try:
        done = subprocess.run(["gst-inspect-1.0", "--exists", element], capture_output=True, timeout=INSPECT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@cache
def _log_once(reason: str) -> None:
    log.warning("videos are decoded on the CPU: %s", reason)


def _package(element: str) -> str:
    return next((package for start, package in PACKAGES.items() if element.startswith(start)), DEFAULT_PACKAGE)
