"""The runtime in a Debian for arm64 under qemu-user, with the libraries' own wheels: its tests, and 2,000 frames."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edge.bundle.bundle import Bundle
from edge.decision import Scores, decide
from tests.machines import record
from tests.machines.suite import REQUIREMENTS, TEST_LIBRARIES, counts, digits_bundle, pytest_words, run, uv
from tests.machines.userland import CHECKOUT, SHARED, emulate_arm64, enter, make_system

LIBRARIES = "/usr/local/lib/python3.11/dist-packages"
"""Where Debian's Python finds them without `PYTHONPATH`, which tests set for the commands that they start."""
ENVIRONMENT = (
    f"PYTHONPATH={CHECKOUT}", "PYTHONDONTWRITEBYTECODE=1", "OMP_NUM_THREADS=1", "EDGE_TEST_PATIENCE=10"
)  # fmt: skip
WHEELS = ("--python-platform", "aarch64-manylinux_2_28", "--python-version", "3.11", "--only-binary", ":all:")
CPUINFO = """\
processor\t: {0}
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1

"""
"""A core of an Orin, a Cortex-A78AE: qemu-user shows the host's cores, of which ONNX Runtime warns on every start."""
FRAMES = 2000
MIN_AGREEMENT = 0.999
MAX_DISTANCE = {"fp32": 1e-4, "int8": 1e-2}
"""Largest distance of a confidence from its threshold where both machines may decide differently."""
TRAINING = (
    "--dataset", "cluttered-digits", "--backbone", "cnn-deep", "--distillation-weight", "1", "--epochs", "6",
    "--batch-size", "64",
)  # fmt: skip
COMPILING = ("--precision", "fp32", "int8", "--method", "expectation", "--limit", "0.01")


def arm64(folder: Path, rooms: list[str]) -> dict[str, Any]:
    """Make the system and run the tests; if those of all rooms, also compare frames with this machine."""
    emulate_arm64()
    system = make_system(folder / "arm64", "arm64", ("python3", "g++", "git"))
    (system / "cpuinfo").write_text("".join(map(CPUINFO.format, range(os.cpu_count() or 1))))
    install = ("pip", "install", "--target", system / LIBRARIES.strip("/"))
    pins = ("--constraint", "constraints.txt")
    uv(*install, *WHEELS, *pins, *REQUIREMENTS, *TEST_LIBRARIES, "opencv-python-headless")
    uv(*install, "--no-deps", "--reinstall", ".")  # for its entry points
    compared = {} if rooms else compare_frames(system, folder)
    words = pytest_words(f"{SHARED}/arm64.xml", rooms, timeout_s=3600)
    enter(system, *ENVIRONMENT, f"EDGE_TEST_BUNDLE={SHARED}/{digits_bundle(folder).name}", "python3", *words)
    result = counts(folder / "arm64.xml")
    result["failed"] += [f"frames in {name}" for name, figures in compared.items() if not figures["passed"]]
    return {"compared_with": platform.machine(), "frames": compared, **result}


def compare_frames(system: Path, folder: Path) -> dict[str, Any]:
    """Record the frames on both machines, and compare each precision."""
    bundle, references = frames_bundle(folder), folder / "references.npz"
    paths = [f"{SHARED}/{name}" for name in ("frames", "references.npz", "arm64.npz")]
    if enter(system, *ENVIRONMENT, "python3", "-m", "tests.machines.record", *paths).returncode:
        raise RuntimeError("the frames could not be recorded in the system; its messages are above")
    record.main(bundle, references, folder / "here.npz")
    precisions = Bundle.open(bundle).manifest.precisions
    return {name: compare(folder, name, spec.thresholds.values) for name, spec in precisions.items()}


def frames_bundle(folder: Path) -> Path:
    """Train and compile a network once, and write 2,000 reference samples beside its bundle."""
    if not (folder / "frames").exists():
        training, bundle = folder / "frames-training", folder / "frames"
        run([sys.executable, "-m", "edge.training", *TRAINING, "--output", training])
        references = ("--references", folder / "references.npz", "--output", bundle)
        run([sys.executable, "-m", "compile", training / "checkpoint.pt", *COMPILING, *references])
    return folder / "frames"


def compare(folder: Path, precision: str, thresholds: tuple[float, ...]) -> dict[str, Any]:
    """Compare the exits of both machines, frame by frame."""
    limits = np.asarray(thresholds, dtype=np.float32)
    here, there = (read_scores(folder / f"{name}.npz", precision) for name in ("here", "arm64"))
    exits, other_exits = (decide(scores, limits).exit_index for scores in (here, there))
    differing = np.flatnonzero(exits != other_exits)
    first = np.minimum(exits, other_exits)[differing]
    distances = np.abs(here.confidence[first, differing] - limits[first]) if len(first) else np.zeros(1)
    agreement, distance = float((exits == other_exits).mean()), float(distances.max())
    return {
        "frames": len(exits),
        "same_exit": agreement,
        "same_label": float((decide(here, limits).label == decide(there, limits).label).mean()),
        "early_exits": float((exits < len(limits)).mean()),
        "largest_confidence_difference": float(np.abs(here.confidence - there.confidence).max()),
        "largest_distance_from_threshold": distance,
        "passed": len(exits) >= FRAMES and agreement >= MIN_AGREEMENT and distance <= MAX_DISTANCE[precision],
    }


def read_scores(path: Path, precision: str) -> Scores:
    """Read the scores that a machine recorded."""
    with np.load(path) as arrays:
        return Scores(*(arrays[f"{precision}.{name}"] for name in Scores._fields))
