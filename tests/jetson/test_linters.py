"""Files for a Jetson under the tools that know their formats."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT

JETSON = ROOT / "jetson"
UNIT = JETSON / "early-exit.service"
MAX_EXPOSURE = 25
"""In tenths, of `systemd-analyze security`: below 3 it says OK. The camera's devices and socket take the rest."""
NOT_FOLLOWED = ("DL3008", "DL3066")
"""Rules of hadolint: versions of Debian's packages, which the base image fixes, and a user by number."""

pytestmark = pytest.mark.services


def passes(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout if "security" not in words else "", done.stderr) == (0, "", "")


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    passes("shellcheck", *JETSON.glob("*.sh"), ROOT / ".ci" / "run")


def test_the_unit_is_valid(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/early-exit/bin/edge", sys.executable))
    passes("systemd-analyze", "verify", unit)


def test_the_unit_exposes_little_of_the_system() -> None:
    passes("systemd-analyze", "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", UNIT)


def test_hadolint_finds_nothing_in_the_container_file() -> None:
    ignored = [word for rule in NOT_FOLLOWED for word in ("--ignore", rule)]
    passes(Path(sys.executable).with_name("hadolint"), *ignored, JETSON / "Dockerfile")
