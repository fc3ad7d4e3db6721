"""The time to verify a signed bundle, beyond reading its files, and the time of `edge doctor`."""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.results import add_output, command_line, write_result
from edge.bundle.bundle import Bundle
from edge.bundle.signing import PRIVATE_KEY, PUBLIC_KEY, generate_keys, read_signing_key, read_verifying_key
from edge.console import FAILED, PASSED, print_table, track
from edge.measure.interleave import interleave
from edge.system import conditions, with_end

ROUNDS = 21
DOCTORS = 5
TARGETS = {"verification_s": 0.2, "doctor_s": 2.0}
"""Largest medians, in seconds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the measurement."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle that is copied, signed and verified")
    add_output(parser, "runs/trust.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Measure, print and record."""
    before = conditions()
    result = verification(Bundle.open(arguments.bundle)) | {"doctor_s": doctor()}
    write_result(arguments.output, result | {"command": command_line(), "conditions": with_end(before)})
    rows = [(name, f"{result[name]:.3f}", f"<= {target:g}") for name, target in TARGETS.items()]
    print_table("trust", ("figure", "median", "target"), rows)
    print(f"wrote {arguments.output}")
    return PASSED if all(result[name] <= target for name, target in TARGETS.items()) else FAILED


def verification(bundle: Bundle) -> dict[str, Any]:
    """Return the times of reading a bundle's files, opening it, and opening it by its signature, which take turns.

    The files are in the page cache. Opening hashes them, so it is part of the verification.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, keys = Path(folder) / "bundle", Path(folder) / "keys"
        shutil.copytree(bundle.path, path)
        generate_keys(keys)
        Bundle.open(path).sign(read_signing_key(keys / PRIVATE_KEY))
        files = [file for file in path.rglob("*") if file.is_file()]
        key = read_verifying_key(keys / PUBLIC_KEY)
        calls = (
            lambda _: sum(len(file.read_bytes()) for file in files),
            lambda _: Bundle.open(path),
            lambda _: Bundle.open(path, key),
        )
        read, opened, verified = interleave(calls, track(range(ROUNDS), "verifying"))
    return {
        "bytes": read.results[0],
        "verification_s": statistics.median((verified.times_ms - read.times_ms).tolist()) / 1e3,
        "signature_s": statistics.median((verified.times_ms - opened.times_ms).tolist()) / 1e3,
        "read_s": statistics.median(read.times_ms.tolist()) / 1e3,
    }


def doctor() -> float:
    """Return the median time of `edge doctor` in a process of its own, in seconds."""
    times = []
    for _ in track(range(DOCTORS), "edge doctor"):
        started = perf_counter()
        subprocess.run([sys.executable, "-m", "edge", "doctor"], capture_output=True, check=True)
        times.append(perf_counter() - started)
    return statistics.median(times)
