"""The user's jobs, and whether this machine is ready for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge.doctor.board import check_board, check_clocks, check_disk
from edge.doctor.cameras import check_argus, check_cameras, check_gstreamer, find_cameras
from edge.doctor.check import Check
from edge.doctor.jetpack import is_jetson
from edge.doctor.libraries import (
    check_jpeg_decoder,
    check_modules,
    check_numpy,
    check_onnxruntime,
    check_opencv,
    check_video_decoder,
)
from edge.doctor.nvidia import (
    check_cuda_libraries,
    check_driver,
    check_graph_mode,
    check_tensorrt,
    check_tensorrt_rtx,
    check_toolkit,
)
from edge.errors import UnavailableError
from edge.machine_state import ROOT
from edge.measure.power.base import Unavailable
from edge.measure.power.find import find_meters

JOBS = {
    "cpu": "run on the CPU",
    "gpu": "run on the GPU",
    "camera": "classify cameras live",
    "energy": "measure energy",
    "compile": "train and compile",
}
"""Descriptions of the jobs by name."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job with the capabilities that it needs, and those that it profits from."""

    name: str
    needs: tuple[Check, ...]
    profits: tuple[Check, ...]

    @property
    def description(self) -> str:
        """The job in words."""
        return JOBS[self.name]

    @property
    def missing(self) -> list[Check]:
        """The needed capabilities that cannot be used."""
        return [check for check in self.needs if not check.is_usable]

    @property
    def is_ready(self) -> bool:
        """True if nothing needed is missing."""
        return not self.missing


class Diagnosis(NamedTuple):
    """A machine and the jobs that it can do."""

    machine: Sequence[Check]
    jobs: Sequence[Job]

    def checks(self) -> list[Check]:
        """Return every check once."""
        in_jobs = (check for job in self.jobs for check in (*job.needs, *job.profits))
        return list(dict.fromkeys([*self.machine, *in_jobs]))


def examine(names: Sequence[str] = tuple(JOBS), root: Path = ROOT) -> Diagnosis:
    """Check this machine for jobs.

    Args:
        names: The jobs, from `JOBS`.
        root: Folder with the system's files, for facts that are read from files.
    """
    examinations = {"cpu": _cpu, "gpu": _gpu, "camera": _camera, "energy": _energy, "compile": _compile}
    return Diagnosis(check_board(root), [examinations[name](root) for name in names])


def check_meters(root: Path = ROOT) -> Check:
    """Check the meters of power and energy, and their rails."""
    try:
        meters = find_meters(root)
    except UnavailableError as error:
        return Check("meters", "absent", str(error), "measure on a Jetson, on an NVIDIA GPU, or as root on x86")
    named = []
    for meter in meters.readable:
        total = "no total" if isinstance(meter.total, Unavailable) else f"total: {meter.total.scope}"
        named.append(f"{meter.name} ({', '.join(meter.rails)}; {total})")
    return Check("meters", "ok", ", ".join(named))


def _cpu(root: Path) -> Job:
    needs = (check_numpy(), check_opencv(root), check_onnxruntime(), check_disk())
    return Job("cpu", needs, (check_video_decoder(), check_jpeg_decoder()))


def _gpu(root: Path) -> Job:
    """Return the job of running on the GPU: with TensorRT, or with TensorRT for RTX where only that is there."""
    tensorrt, rtx = check_tensorrt(root), check_tensorrt_rtx(root)
    library, other = (rtx, tensorrt) if rtx.is_usable and not tensorrt.is_usable else (tensorrt, rtx)
    others = () if is_jetson(root) and not other.is_usable else (other,)
    libraries = (library, *check_cuda_libraries(root))
    needs = (check_numpy(), check_opencv(root), check_disk(), check_driver(root), *libraries)
    return Job("gpu", needs, (check_graph_mode(), check_toolkit(root), *others))


def _camera(root: Path) -> Job:
    """Return the job of classifying cameras; those of the board's own connector need GStreamer and argus."""
    needs, for_csi = (check_opencv(root), check_cameras(root)), (check_gstreamer(root), *check_argus(root))
    profits = (check_video_decoder(), check_modules("view, metrics and MQTT"))
    if any(camera.is_csi for camera in find_cameras(root)):
        return Job("camera", (*needs, *for_csi), profits)
    return Job("camera", needs, (*for_csi, *profits))


def _energy(root: Path) -> Job:
    return Job("energy", (check_meters(root),), tuple(check_clocks(root)))


def _compile(root: Path) -> Job:
    needs = (check_numpy(), check_opencv(root), check_modules("training"), check_modules("compiling"))
    return Job("compile", needs, ())
