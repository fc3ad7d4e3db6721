"""The guarantee in a manifest against the scores in the bundle."""

import dataclasses
from pathlib import Path

import pytest

from edge.bundle.bundle import Bundle
from edge.bundle.files import file_hashes
from edge.bundle.scores import write_scores
from edge.parity.guarantee import broken_guarantee
from tests.support.follow import variant, with_greedy_thresholds


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_compiled_bundle_keeps_its_guarantee(precision: str, digits_bundle: Bundle) -> None:
    assert broken_guarantee(digits_bundle, precision) is None


def test_thresholds_with_more_risk_than_the_limit_break_it(signed: Path, keys: Path, tmp_path: Path) -> None:
    greedy = Bundle.open(variant(signed, keys, tmp_path / "greedy", with_greedy_thresholds))
    assert "above its limit of 0.001" in (broken_guarantee(greedy, "fp32") or "")


def test_thresholds_fitted_to_other_samples_promise_nothing_about_these(
    signed: Path, keys: Path, tmp_path: Path
) -> None:
    greedy = Bundle.open(variant(signed, keys, tmp_path / "greedy", with_greedy_thresholds))
    spec = greedy.precision("fp32")
    refitted = dataclasses.replace(spec, thresholds=dataclasses.replace(spec.thresholds, split="a device"))
    manifest = dataclasses.replace(greedy.manifest, precisions={**greedy.manifest.precisions, "fp32": refitted})
    assert broken_guarantee(Bundle(greedy.path, manifest), "fp32") is None


def test_scores_of_other_segments_support_no_guarantee(signed: Path) -> None:
    bundle = Bundle.open(signed)
    write_scores(signed / bundle.precision("fp32").scores, bundle.scores("int8"))
    mixed = Bundle(signed, dataclasses.replace(bundle.manifest, files=file_hashes(signed)))
    assert broken_guarantee(mixed, "fp32") == "the recorded scores are those of other segments"
