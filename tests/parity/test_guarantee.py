"""The guarantee in a manifest against the scores in the bundle."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from calibration.rejection import RejectGuarantee, fit_with_rejection
from calibration.thresholds import RiskGuarantee, fit_all_precisions
from edge.bundle.bundle import Bundle
from edge.bundle.files import file_hashes
from edge.bundle.scores import LabelledScores, write_scores
from edge.parity.guarantee import broken_guarantee
from tests.support.follow import variant, with_greedy_thresholds
from tests.support.scores import random_scores, segment_costs

SAMPLES = 600


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_compiled_bundle_keeps_its_guarantee(precision: str, digits_bundle: Bundle) -> None:
    assert broken_guarantee(digits_bundle, precision) is None


@pytest.mark.parametrize("reject", [None, RejectGuarantee(0.4)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("method", ["none", "expectation", "exact"])
def test_fitted_thresholds_keep_it_whichever_part_of_the_samples_they_were_fitted_to(
    method: Literal["none", "expectation", "exact"], shared: bool, reject: RejectGuarantee | None, signed: Path
) -> None:
    bundle = Bundle.open(signed)
    exits, labels, split = len(bundle.manifest.exits), bundle.manifest.labels, bundle.manifest.splits["thresholds"]
    guarantee = RiskGuarantee("disagreement", 0.05, method, shared=shared)
    fit = partial(fit_all_precisions, costs=segment_costs(exits), guarantee=guarantee, split=split.fingerprint)
    for seed in range(6):
        scores, truth = random_scores(exits, SAMPLES, seed)
        recorded = LabelledScores(
            np.zeros((exits, SAMPLES, len(labels)), np.float32),
            scores,
            truth,
            np.zeros((SAMPLES, 2), np.uint64),
            bundle.segments_digest("fp32"),
        )
        write_scores(signed / bundle.precision("fp32").scores, recorded)
        fitted = fit_with_rejection(fit, {"fp32": scores}, truth, labels, reject, split.fingerprint)["fp32"]
        spec = dataclasses.replace(bundle.precision("fp32"), **fitted._asdict())
        precisions = {**bundle.manifest.precisions, "fp32": spec}
        manifest = dataclasses.replace(bundle.manifest, precisions=precisions, files=file_hashes(signed))
        assert broken_guarantee(Bundle(signed, manifest), "fp32") is None


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
