"""The README's command blocks work: marked ones are run, those that need a device are checked against --help."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"(?:<!-- test: (?P<kind>\w+) -->\n)?```sh\n(?P<lines>.*?)```", re.DOTALL)
PYTHON = re.compile(r"<!-- test: run -->\n```python\n(.*?)```", re.DOTALL)
BLOCKS = [(match["kind"], match["lines"].strip().splitlines()) for match in BLOCK.finditer(README)]


def commands(kind: str | None) -> list[str]:
    return [line for marked, lines in BLOCKS if marked == kind for line in lines]


def run(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(line, comments=True)
    program = {
        "python": [sys.executable],
        "edge": [sys.executable, "-m", "edge"],
        "pytest": [sys.executable, "-m", "pytest"],
    }
    command = [*program[words[0]], *words[1:]]
    env = {**os.environ, "EDGE_CACHE": str(cwd / "engines")} if cwd != ROOT else None
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_blocks_marked_run_do_run_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    for line in commands("run"):
        done = run(line, tmp_path)
        assert done.returncode == 0, f"$ {line}\n{done.stdout}\n{done.stderr}"
    scripts = PYTHON.findall(README)
    assert scripts
    for script in scripts:
        done = run(shlex.join(["python", "-c", script]), tmp_path)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("line", commands("help"))
def test_blocks_for_a_device_name_only_what_help_knows(line: str) -> None:
    words = shlex.split(line)
    verb = words[1:3] if words[0] == "python" else words[1:2]
    verb += words[3:4] if verb[-1] == "benchmarks" else []
    program = "python" if words[0] == "python" else "edge"
    done = run(shlex.join([program, *verb, "--help"]), ROOT)
    assert done.returncode == 0, done.stderr
    for option in (word for word in words if word.startswith("--")):
        assert option in done.stdout, f"{line}: --help does not know {option}"


def test_other_blocks_are_make_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    lines = commands(None)
    assert lines
    for line in lines:
        program, target, *_ = shlex.split(line, comments=True)
        assert program == "make"
        assert target in targets
