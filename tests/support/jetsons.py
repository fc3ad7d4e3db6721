"""Trees like the file systems of Jetsons, in a folder of a test.

They are written from NVIDIA's documentation and the kernel's sources; none was captured from a board.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from tests.support.boards import write_board, write_thor

ALERTS = {
    "sys/class/thermal/cooling_device10/type": "hot-surface-alert",
    "sys/class/thermal/cooling_device10/cur_state": "1",  # from 70 °C on
    "sys/class/thermal/cooling_device11/type": "cpu-throttle-alert",
    "sys/class/thermal/cooling_device11/cur_state": "0",
}
"""Alerts of a Jetson among its cooling devices: the first warns of a hot surface only, the second limits clocks."""
ORIN_NX = ALERTS | {
    "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "var/lib/nvpmodel/status": "pmode:0000\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n",
    "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 12000000 kB\nSwapTotal: 8000000 kB\nSwapFree: 8000000 kB\n",
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}',
    "usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstnvarguscamerasrc.so": "",
    "sys/class/devfreq/17000000.gpu/cur_freq": "918000000",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000",
    "sys/class/devfreq/17000000.gpu/governor": "nvhost_podgov",
    "dev/nvhost-gpu": "",
    "dev/nvmap": "",
    "dev/video0": "",
    "sys/class/video4linux/video0/name": "vi-output, imx219 10-0010\n",
    "sys/class/video4linux/video0/index": "0\n",
    "dev/video1": "",
    "sys/class/video4linux/video1/name": "HD Pro Webcam C920\n",
    "sys/class/video4linux/video1/index": "0\n",
    "dev/video2": "",  # the webcam's metadata
    "sys/class/video4linux/video2/name": "HD Pro Webcam C920\n",
    "sys/class/video4linux/video2/index": "1\n",
}
"""Orin NX with JetPack 6.2, a CSI camera and a webcam."""
THOR = ORIN_NX | {
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "etc/nv_tegra_release": "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64\n",
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "13.0.48"}}',
}
"""AGX Thor with JetPack 7.0."""


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    """Write files below a folder, and return the folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def write_orin_nx(root: Path) -> Path:
    """Write an Orin NX with its power rails."""
    write_board(root, "Orin NX 16 GB")
    return write_tree(root, ORIN_NX)


def write_agx_thor(root: Path) -> Path:
    """Write an AGX Thor with its power rails."""
    write_thor(root)
    return write_tree(root, THOR)


@contextmanager
def argus(root: Path) -> Iterator[None]:
    """Listen where the daemon of CSI cameras does."""
    (root / "tmp").mkdir(exist_ok=True)
    with closing(socket.socket(socket.AF_UNIX)) as daemon:
        daemon.bind(str(root / "tmp/argus_socket"))
        yield
