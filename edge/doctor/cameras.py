"""Checks of cameras, and of the libraries that read them."""

import os
from pathlib import Path
from typing import NamedTuple

from edge.doctor.check import Check
from edge.doctor.jetpack import is_jetson
from edge.doctor.libraries import system_package
from edge.machine_state import ROOT, first_line
from edge.system import pip_uninstall

CSI_DRIVER = "vi-output"
"""Beginning of the names of CSI cameras; the rest is the sensor."""
ARGUS_SOCKET = "tmp/argus_socket"
ARGUS_PLUGIN = "usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstnvarguscamerasrc.so"


class Camera(NamedTuple):
    """A device that captures video."""

    device: Path
    name: str

    @property
    def is_csi(self) -> bool:
        """True for a camera at the board's own connector, which the daemon of argus reads."""
        return self.name.startswith(CSI_DRIVER)


def find_cameras(root: Path = ROOT) -> list[Camera]:
    """Return the devices for video, without those for a camera's metadata."""
    cameras = []
    for device in sorted((root / "dev").glob("video*"), key=lambda path: (len(path.name), path.name)):
        facts = root / "sys/class/video4linux" / device.name
        if (first_line(facts / "index") or "0") == "0":
            cameras.append(Camera(device, first_line(facts / "name") or "unknown camera"))
    return cameras


def check_cameras(root: Path = ROOT) -> Check:
    """Check that there is a camera that this user may open."""
    cameras = find_cameras(root)
    if not cameras:
        return Check("cameras", "absent", "none", "plug in a camera, or use a network stream")
    if closed := [str(camera.device) for camera in cameras if not os.access(camera.device, os.R_OK | os.W_OK)]:
        return Check("cameras", "problem", f"no permission for {', '.join(closed)}", join_groups("video"))
    return Check("cameras", "ok", ", ".join(f"{camera.device} ({camera.name})" for camera in cameras))


def check_gstreamer(root: Path = ROOT) -> Check:
    """Check that OpenCV has GStreamer, which CSI cameras need; the OpenCV of pip has none and hides the system's."""
    name = "GStreamer"
    try:
        import cv2

        has_gstreamer = cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER)
    except Exception:  # the check of cv2 reports it
        return Check(name, "absent", "unknown without cv2", "sudo apt-get install python3-opencv")
    if has_gstreamer:
        return Check(name, "ok", "in OpenCV")
    value = "not in this OpenCV, which cannot read CSI cameras and pipelines"
    remedy = pip_uninstall("cv2", "opencv-python")
    if system_package("cv2", root) is not None:
        return Check(name, "absent", f"{value}; it hides the system's", remedy)
    return Check(name, "absent", value, f"sudo apt-get install python3-opencv && {remedy}")


def check_argus(root: Path = ROOT) -> list[Check]:
    """Check the daemon that reads CSI cameras, and its GStreamer plugin; an empty list where this is no Jetson."""
    if not is_jetson(root):
        return []
    if not (root / ARGUS_PLUGIN).exists():
        remedy = "sudo apt-get install nvidia-l4t-gstreamer nvidia-l4t-camera"
        return [Check("argus", "absent", "GStreamer has no nvarguscamerasrc", remedy)]
    if not (root / ARGUS_SOCKET).exists():
        remedy = "sudo systemctl restart nvargus-daemon (in a container: mount /tmp/argus_socket)"
        return [Check("argus", "problem", f"nvargus-daemon does not listen on /{ARGUS_SOCKET}", remedy)]
    return [Check("argus", "ok", "nvargus-daemon listens")]


def join_groups(groups: str) -> str:
    """Return the command that adds this user to groups."""
    return f"sudo usermod -aG {groups} $USER, and log in again"
