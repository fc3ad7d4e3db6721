"""Releases of JetPack, and the versions of the libraries that belong to each."""

import re
from pathlib import Path
from typing import NamedTuple

from edge.machine_state import ROOT
from edge.system import board_model, l4t_release

L4T = re.compile(r"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)")
MIN_TENSORRT = "10.3"
"""The first TensorRT that runs bundles."""


class JetPack(NamedTuple):
    """A release of JetPack."""

    version: str
    l4t: str
    """Release of Linux for Tegra, or its beginning."""
    python: str
    cuda: str
    tensorrt: str

    @property
    def is_supported(self) -> bool:
        """True if its TensorRT can run bundles."""
        return is_recent_tensorrt(self.tensorrt)

    @property
    def cuda_extra(self) -> str:
        """The extra of this project for its CUDA."""
        return f"cuda{self.cuda.partition('.')[0]}"


RELEASES = (
    JetPack("5", "35", "3.8", "11.4", "8.5"),
    JetPack("6.0", "36.3", "3.10", "12.2", "8.6"),
    JetPack("6.1", "36.4.0", "3.10", "12.6", "10.3"),
    JetPack("6.1", "36.4.2", "3.10", "12.6", "10.3"),
    JetPack("6.2", "36.4.3", "3.10", "12.6", "10.3"),
    JetPack("6.2.1", "36.4", "3.10", "12.6", "10.3"),
    JetPack("6.2.2", "36.5.0", "3.10", "12.6", "10.3"),
    JetPack("6.2.3", "36.5", "3.10", "12.6", "10.3"),
    JetPack("7.0", "38.2", "3.12", "13.0", "10.13"),
    JetPack("7.1", "38.4", "3.12", "13.0", "10.13"),
    JetPack("7.2", "39.2.0", "3.12", "13.2", "10.16"),
    JetPack("7.2.1", "39.2", "3.12", "13.2", "10.16"),
)
"""Known releases; of those with the same beginning, the longest comes first."""
RECOMMENDED = "JetPack 6.2 or 7.2"


def is_recent_tensorrt(version: str) -> bool:
    """Check that a version of TensorRT can run bundles."""
    return _major_minor(version) >= _major_minor(MIN_TENSORRT)


def _major_minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def is_jetson(root: Path = ROOT) -> bool:
    """Check that this machine is a Jetson."""
    return l4t_release(root) is not None or "Jetson" in (board_model(root) or "")


def l4t_version(root: Path = ROOT) -> str | None:
    """Return the release of Linux for Tegra, such as `36.4.3`; None elsewhere."""
    match = L4T.match(l4t_release(root) or "")
    return f"{match[1]}.{match[2]}" if match else None


def jetpack_release(root: Path = ROOT) -> JetPack | None:
    """Return the release of JetPack that this machine's Linux for Tegra belongs to; None for an unknown one."""
    l4t = l4t_version(root) or ""
    return next((release for release in RELEASES if f"{l4t}.".startswith(f"{release.l4t}.")), None)
