"""`python -m benchmarks trust` in short."""

import json
from pathlib import Path

import pytest

from benchmarks import trust
from benchmarks.__main__ import main
from edge.bundle.bundle import Bundle
from tests.support.commands import call


def test_verification_and_doctor_are_timed_and_the_bundle_stays_unsigned(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "ROUNDS", 3)
    monkeypatch.setattr(trust, "DOCTORS", 1)
    files = sorted(digits_bundle.path.rglob("*"))
    done = call(main, "trust", digits_bundle.path, "--output", tmp_path / "trust.json")
    recorded = json.loads((tmp_path / "trust.json").read_text())
    within = all(recorded[name] <= target for name, target in trust.TARGETS.items())
    assert done.code == (0 if within else 1), done.stderr
    assert recorded["bytes"] > sum(file.stat().st_size for file in files if file.is_file())  # with its signature
    assert recorded["read_s"] > 0
    assert sorted(digits_bundle.path.rglob("*")) == files
