"""A campaign: the inputs of each reader in worker processes that may hang or crash."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.fuzz.base import reader_named
from tests.fuzz.coverage import ROOT
from tests.fuzz.worker import INDEX, Range, Tally, describe, keep, random_for, read

HANG = "hang"
MAX_CRASHES = 200
"""Inputs that may end the worker before a reader's campaign is given up."""


class TooManyCrashesError(Exception):
    """A reader crashes so often that its campaign does not end."""


def fuzz(name: str, count: int, *, base: Path, seed: int, failures: Path, first: int = 0) -> Tally:
    """Read `count` mutated inputs of a reader and return their tally.

    Args:
        name: One of `tests.fuzz.base.READERS`.
        count: Number of inputs.
        base: Folder of `make_base`.
        seed: Seed of all choices; the same seed gives the same inputs.
        failures: Folder for inputs that fail.
        first: Index of the first input.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-state-") as state:
        (Path(state) / INDEX).write_bytes(bytes(8))
        work = Range(name, str(base), seed, first, first + count, state, str(failures))
        crashes: dict[int, str] = {}
        slow: set[int] = set()
        while (ending := run_worker(work)) is not None:
            index = int.from_bytes((Path(state) / INDEX).read_bytes(), "little")
            if ending == HANG and index not in slow:
                slow.add(index)
                continue
            if index in crashes or len(crashes) == MAX_CRASHES:
                raise TooManyCrashesError(f"{name}, input {index} of seed {seed}: {ending}; before: {crashes}")
            crashes[index] = ending
            keep_crash(work, index, ending)
            work = dataclasses.replace(work, skip=(*work.skip, index))
        tally = Tally.read(Path(state))
    tally.stalls = len(slow - crashes.keys())
    tally.inputs += len(crashes)
    tally.failures.update(crashes.values())
    return tally


def run_worker(work: Range) -> str | None:
    """Run a worker to its end; return the cause of an early end, else None."""
    command = [sys.executable, "-m", "tests.fuzz.worker", json.dumps(dataclasses.asdict(work))]
    with (Path(work.state) / "stderr").open(
        "w"
    ) as stderr:  # a pipe's reader would keep what a library repeats for ever
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True)
        try:
            process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):  # children of a worker that was killed
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode == 0:
        return None
    if process.returncode < 0:
        number = signal.Signals(-process.returncode)
        return HANG if number is signal.SIGALRM else f"crash by {number.name}"
    raise RuntimeError(f"the fuzzer itself failed:\n{(Path(work.state) / 'stderr').read_text(errors='replace')}")


def keep_crash(work: Range, index: int, ending: str) -> None:
    """Keep an input that ended its worker."""
    with scratch_folder() as scratch:
        given = reader_named(work.reader, Path(work.base), scratch).generate(random_for(work, index))
    keep(Path(work.failures) / f"{work.reader}-{work.seed}-{index}", given, f"{ending}\n")


def replay(file: Path, base: Path) -> str:
    """Read one kept input in this process, and return the outcome."""
    from tests.fuzz.base import Input

    name = file.name.split("-")[0]
    with scratch_folder() as scratch:
        reader = reader_named(name, base, scratch)
        reader.prepare()
        try:
            reader.read(Input(file.suffix[1:], file.read_bytes()))
        except reader.errors as error:
            return f"refused: {type(error).__name__}: {error}"
    return "accepted"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder, with a cache of engines in it."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    before = os.environ.get("EDGE_CACHE")
    os.environ["EDGE_CACHE"] = str(folder / "engines")
    try:
        yield folder
    finally:
        os.environ.pop("EDGE_CACHE")
        if before is not None:
            os.environ["EDGE_CACHE"] = before
        shutil.rmtree(folder)


def row(tally: Tally) -> dict[str, Any]:
    """Return a reader's row of the recorded result."""
    return {
        "inputs": tally.inputs,
        "accepted": tally.accepted,
        "failed_first_step": round(tally.failed_first_step / tally.inputs, 3),
        "failures": sum(tally.failures.values()),
        "failures_by_place": dict(tally.failures.most_common()),
        "messages": len(tally.messages),
        "untidy_messages": sum(tally.untidy.values()),
        "stalls": tally.stalls,
        "slowest_s": round(tally.slowest_s, 3),
        "inputs_per_s": round(tally.inputs / tally.seconds) if tally.seconds else None,
        "lines_executed": tally.lines,
    }


def summary(counts: Mapping[str, Any]) -> str:
    """Return a line for a row, and one for each place of failure."""
    line = (
        f"{counts['reader']}: {counts['inputs']} inputs, {counts['accepted']} accepted, {counts['messages']} kinds of"
        f" messages, {counts['failed_first_step']:.1%} fail the first step, {counts['failures']} failures,"
        f" slowest {counts['slowest_s']} s, {counts['inputs_per_s']} a second"
    )
    return "\n  ".join([line, *(f"{count} x {place}" for place, count in counts["failures_by_place"].items())])


__all__ = ["Tally", "describe", "fuzz", "read", "replay", "row", "summary"]
