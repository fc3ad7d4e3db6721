"""`python -m tests.fuzz.worker`: read a range of mutated inputs in this process, under limits of time and memory.

The campaign starts it. An input that hangs or crashes ends the process; the file `index` names it.
"""

import contextlib
import dataclasses
import json
import mmap
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from edge.errors import MAX_MESSAGE
from tests.fuzz.base import Input, Reader, reader_named
from tests.fuzz.coverage import ROOT, LineCoverage

HANG_S = 10
MEMORY = 2 << 30
"""Address space that reading may add to that of the imported libraries."""
TRACED_SHARE, MAX_TRACED = 0.1, 3000
"""Share of a range's inputs, its first, whose executed lines are recorded; tracing is slow."""
FILE_SIZE = 256 << 20
"""Largest file that the worker may write, its stderr included: SIGXFSZ ends one that writes for ever."""
MAX_KEPT = 3
"""Inputs that are kept of failures in the same place."""
INDEX, TALLY = "index", "tally.json"


@dataclasses.dataclass
class Range:
    """The part of a campaign that one worker reads."""

    reader: str
    base: str
    seed: int
    start: int
    stop: int
    state: str
    """Folder for `INDEX` and `TALLY`."""
    failures: str
    """Folder for inputs that fail."""
    skip: tuple[int, ...] = ()


@dataclasses.dataclass
class Tally:
    """Counts of the inputs read so far."""

    next: int = 0
    inputs: int = 0
    accepted: int = 0
    failed_first_step: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    messages: Counter[str] = dataclasses.field(default_factory=Counter)
    untidy: Counter[str] = dataclasses.field(default_factory=Counter)
    """Messages of several lines, with control characters, or longer than `MAX_MESSAGE`."""
    failures: Counter[str] = dataclasses.field(default_factory=Counter)
    stalls: int = 0
    """Inputs that took longer than `HANG_S` once and not again, as on a busy machine."""
    lines: dict[str, float] = dataclasses.field(default_factory=dict)
    """Share of each module's executed lines, over the traced inputs."""

    @staticmethod
    def read(folder: Path) -> "Tally":
        data = json.loads((folder / TALLY).read_text())
        counters = {name: Counter(data.pop(name)) for name in ("messages", "untidy", "failures")}
        return Tally(**data, **counters)

    def write(self, folder: Path, coverage: LineCoverage | None) -> None:
        """Write the counts, with the lines that this worker or one before it executed."""
        if coverage is not None:
            shares = coverage.shares()
            self.lines = {name: max(share, self.lines.get(name, 0.0)) for name, share in shares.items()}
        (folder / f"{TALLY}.new").write_text(json.dumps(vars(self)))
        (folder / f"{TALLY}.new").replace(folder / TALLY)


def random_for(work: Range, index: int) -> Random:
    """Return the random numbers of one input, which depend on the seed, the reader and the index only."""
    return Random(f"{work.seed}/{work.reader}/{index}")


def run(work: Range) -> None:
    """Read the range's inputs."""
    state = Path(work.state)
    tally = Tally.read(state) if (state / TALLY).exists() else Tally(next=work.start)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch, open(state / INDEX, "r+b") as file:
        reader = reader_named(work.reader, Path(work.base), Path(scratch))
        coverage = LineCoverage(reader.rooms)
        with mmap.mmap(file.fileno(), 8) as place:
            reader.prepare()
            limit_memory()
            for index in range(tally.next, work.stop):
                traced = tally.inputs < min(MAX_TRACED, TRACED_SHARE * (work.stop - work.start))
                if index not in work.skip:
                    place[:] = index.to_bytes(8, "little")
                    given = reader.generate(random_for(work, index))
                    with coverage.measured() if traced else contextlib.nullcontext():
                        read(reader, given, tally, Path(work.failures) / f"{work.reader}-{work.seed}-{index}")
                tally.next = index + 1
                if tally.inputs % 100 == 0:
                    tally.write(state, coverage if traced else None)
        tally.write(state, coverage)


def read(reader: Reader, given: Input, tally: Tally, kept: Path) -> None:
    """Read one input and count the outcome."""
    tally.inputs += 1
    tally.failed_first_step += not reader.passes_first_step(given)
    started = time.perf_counter()
    signal.alarm(HANG_S)
    try:
        reader.read(given)
        tally.accepted += 1
    except reader.errors as error:
        tally.messages[f"{type(error).__name__}: {general(str(error))}"] += 1
        if why := untidy(str(error)):
            tally.untidy[f"{why}: {general(str(error))}"] += 1
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        signature = describe(error)
        tally.failures[signature] += 1
        if tally.failures[signature] <= MAX_KEPT:
            keep(kept, given, "".join(traceback.format_exception(error)))
    finally:
        signal.alarm(0)
    seconds = time.perf_counter() - started
    tally.seconds += seconds
    tally.slowest_s = max(tally.slowest_s, seconds)


def keep(path: Path, given: Input, story: str) -> None:
    """Write a failing input, and beside it the story of its failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{path}.{given.kind}").write_bytes(given.content)
    command = f"python -m tests.fuzz replay {path.name}.{given.kind}\n"
    Path(f"{path}.txt").write_text(command + story, errors="backslashreplace")


def describe(error: BaseException) -> str:
    """Return an exception's type and the last line of ours that raised it."""
    ours = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(str(ROOT)) and "/tests/" not in frame.filename.removeprefix(str(ROOT))
    ]
    where = f"{Path(ours[-1].filename).relative_to(ROOT)} {ours[-1].name}" if ours else "the fuzzer"
    return f"{type(error).__name__} in {where}"


def general(message: str) -> str:
    """Return a message without its values, to count messages by."""
    text = re.sub(r"/\S+", "/PATH", message[:400])
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'TEXT'", text)
    text = re.sub(r"(manifest|checkpoint)\.\S+", r"\1.FIELD", text)
    return re.sub(r"-?\d[\d.e+-]*", "N", text)[:70]


def untidy(message: str) -> str | None:
    """Return why a message is no single readable line, if it is none."""
    if "\n" in message:
        return "several lines"
    if any(ord(character) < 32 or ord(character) == 127 for character in message):
        return "control characters"
    return "long" if len(message) > MAX_MESSAGE else None


def limit_memory() -> None:
    """Limit this process to `MEMORY` more address space than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    work: dict[str, Any] = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    os.environ["EDGE_CACHE"] = str(Path(work["state"]) / "engines")
    run(Range(**{**work, "skip": tuple(work["skip"])}))


if __name__ == "__main__":
    main()
