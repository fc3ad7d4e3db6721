"""The benchmark of integers on a CPU, on the small digits bundle."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.cpu.throughput import BATCHES, CAMERAS, IN_BATCHES, WITH_CAMERAS
from benchmarks.cpu.variants import RATIOS, VARIANTS
from edge.bundle.bundle import Bundle
from tests.support.commands import call


def test_every_variant_is_measured_and_the_ratios_are_those_of_its_rows(digits_bundle: Bundle, tmp_path: Path) -> None:
    done = call(main, "cpu", f"cnn={digits_bundle.path}", "--quick", "--output", tmp_path / "cpu.json")
    assert done.code == 0, done.stderr
    result = json.loads((tmp_path / "cpu.json").read_text())
    rows = {(row["precision"], row["network"], row["backend"]): row for row in result["rows"]}
    assert list(rows) == list(VARIANTS)
    for name, (fast, slow) in RATIOS.items():
        assert result["ratios"][f"cnn: {name}"] == pytest.approx(
            rows[slow]["ms"]["median"] / rows[fast]["ms"]["median"]
        )
    assert all(len(row["exit_shares"]) == (3 if row["network"] == "exits" else 1) for row in rows.values())
    parity = result["integers_against_emulation"]["cnn"]
    assert (parity["precision"], parity["backend"], parity["reference"]) == ("int8", "openvino", "onnxruntime")
    measured = [(each["quantity"], tuple(each["values"]), len(each["images_per_s"])) for each in result["throughput"]]
    in_batches, with_cameras = ("batch", BATCHES, len(BATCHES)), ("cameras", CAMERAS, len(CAMERAS))
    assert measured == [in_batches] * len(IN_BATCHES) + [with_cameras] * len(WITH_CAMERAS)
    assert (tmp_path / "cpu.svg").read_text().count("cnn") == len(VARIANTS)


@pytest.mark.parametrize("word", ["bundle", "=bundle", "cnn="])
def test_a_bundle_without_a_name_is_refused(word: str) -> None:
    done = call(main, "cpu", word)
    assert done.code == 2
    assert f"{word!r} is not NAME=BUNDLE" in done.stderr
