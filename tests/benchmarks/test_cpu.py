"""The benchmark of integers on a CPU, on the small digits bundle."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.cpu import RATIOS, VARIANTS
from edge.bundle.bundle import Bundle
from tests.support.commands import call


def test_every_variant_is_measured_and_the_ratios_are_those_of_its_rows(digits_bundle: Bundle, tmp_path: Path) -> None:
    done = call(main, "cpu", f"cnn={digits_bundle.path}", "--output", tmp_path / "cpu.json")
    assert done.code == 0, done.stderr
    result = json.loads((tmp_path / "cpu.json").read_text())
    mean_ms = {(r["precision"], r["network"], r["backend"]): r["latency_ms"]["mean"] for r in result["rows"]}
    assert list(mean_ms) == list(VARIANTS)
    for name, (fast, slow) in RATIOS.items():
        assert result["ratios"][f"cnn: {name}"] == pytest.approx(mean_ms[slow] / mean_ms[fast])
    parity = result["integers_against_emulation"]["cnn"]
    assert (parity["precision"], parity["backend"], parity["reference"]) == ("int8", "openvino", "onnxruntime")


@pytest.mark.parametrize("word", ["bundle", "=bundle", "cnn="])
def test_a_bundle_without_a_name_is_refused(word: str) -> None:
    done = call(main, "cpu", word)
    assert done.code == 2
    assert f"{word!r} is not NAME=BUNDLE" in done.stderr
