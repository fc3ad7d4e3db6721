"""The short form of the campaigns; `python -m tests.fuzz` is the long one."""

import json
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.base import READERS, reader_named
from tests.fuzz.campaign import fuzz
from tests.fuzz.kills import run_kills
from tests.fuzz.record import add_rows

MAX_FAILED_FIRST_STEP = 0.2
SHORT = {
    "manifest": 600,
    "npz": 600,
    "frames": 1200,
    "checkpoints": 150,
    "segments": 6,
    "signatures": 300,
    "registry": 60,
}


@pytest.mark.parametrize("name", READERS)
def test_mutated_inputs_are_read_or_refused_with_the_right_error(name: str, base: Path, tmp_path: Path) -> None:
    tally = fuzz(name, SHORT[name], base=base, seed=1, failures=tmp_path / "failures")
    assert not tally.failures
    assert tally.inputs == SHORT[name]
    assert tally.messages
    assert not tally.untidy
    assert max(tally.lines.values()) > 0.3, "the reader's code was hardly executed"


@pytest.mark.parametrize("name", READERS)
def test_inputs_depend_on_the_seed_only_and_mostly_pass_the_first_step(name: str, base: Path, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    first, second = (reader_named(name, base, tmp_path / folder) for folder in ("first", "second"))
    inputs = [first.generate(Random(index)) for index in range(100)]
    assert inputs == [second.generate(Random(index)) for index in range(100)]
    assert sum(not first.passes_first_step(given) for given in inputs) <= MAX_FAILED_FIRST_STEP * len(inputs)


@pytest.mark.parametrize("name", ["replace", "calibrate", "sign"])
def test_a_killed_command_loses_nothing_and_the_next_one_works(name: str, base: Path) -> None:
    assert dict(run_kills(base, 3, seed=2, only=name)) == {name: (3, [])}


def test_a_record_counts_each_range_of_inputs_once(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    for first, inputs, failures in ((0, 10, 2), (10, 5, 1), (0, 10, 0)):  # the first range, mended and read again
        row = {"reader": "npz", "seed": 0, "first": first, "inputs": inputs, "failures": failures}
        add_rows(record, "readers", [row])
    add_rows(record, "commands", [{"command": "run", "seed": 0, "kills": 3, "failures": ["killed after 1 s"]}])
    counts = json.loads(record.read_text())
    assert (counts["fuzz_inputs"], counts["kills"], counts["failures"]) == (15, 3, 2)
    assert [row["first"] for row in counts["readers"]] == [0, 10]
