"""The guarantee in a manifest against the scores in the bundle."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

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

SAMPLES, SEEDS = 600, 6
Method = Literal["none", "expectation", "exact", "betting", "hoeffding-bentkus"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_compiled_bundle_keeps_its_guarantee(precision: str, digits_bundle: Bundle) -> None:
    assert broken_guarantee(digits_bundle, precision) is None


METHODS: tuple[Method, ...] = ("none", "expectation", "exact", "betting", "hoeffding-bentkus")


def fitted_bundles(signed: Path, guarantee: RiskGuarantee, reject: RejectGuarantee | None = None) -> Iterator[Bundle]:
    """Yield bundles with random scores in fp32, and thresholds fitted to them."""
    bundle = Bundle.open(signed)
    exits, labels, split = len(bundle.manifest.exits), bundle.manifest.labels, bundle.manifest.splits["thresholds"]
    fit = partial(fit_all_precisions, costs=segment_costs(exits), guarantee=guarantee, split=split.fingerprint)
    for seed in range(SEEDS):
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
        manifest = dataclasses.replace(bundle.manifest, files=file_hashes(signed))
        yield with_spec(Bundle(signed, manifest), **fitted._asdict())


def with_spec(bundle: Bundle, **fields: Any) -> Bundle:
    """Return a bundle with other fields of its fp32."""
    spec = dataclasses.replace(bundle.precision("fp32"), **fields)
    manifest = dataclasses.replace(bundle.manifest, precisions={**bundle.manifest.precisions, "fp32": spec})
    return Bundle(bundle.path, manifest)


def claiming(bundle: Bundle, **fields: Any) -> Bundle:
    """Return a bundle that claims another guarantee for its fp32."""
    return with_spec(bundle, thresholds=dataclasses.replace(bundle.precision("fp32").thresholds, **fields))


@pytest.mark.parametrize("reject", [None, RejectGuarantee(0.4)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_fitted_thresholds_keep_it_whichever_part_of_the_samples_they_were_fitted_to(
    method: Method, shared: bool, reject: RejectGuarantee | None, signed: Path
) -> None:
    for bundle in fitted_bundles(signed, RiskGuarantee("disagreement", 0.05, method, shared=shared), reject):
        assert broken_guarantee(bundle, "fp32") is None


@pytest.mark.parametrize("method", ["exact", "hoeffding-bentkus"])
def test_thresholds_within_the_limit_only_on_the_samples_support_no_claim_of_a_method(
    method: Method, signed: Path
) -> None:
    for bundle in fitted_bundles(signed, RiskGuarantee("disagreement", 0.05, "none")):
        claim = claiming(bundle, method=method, confidence_level=0.95)
        assert f"the method {method!r} does not certify" in (broken_guarantee(claim, "fp32") or "")


def test_a_rejection_with_more_errors_than_its_limit_is_broken(signed: Path) -> None:
    for bundle in fitted_bundles(signed, RiskGuarantee("disagreement", 0.05, "none"), RejectGuarantee(0.4)):
        rejection = bundle.precision("fp32").rejection
        assert rejection is not None
        stricter = with_spec(bundle, rejection=dataclasses.replace(rejection, limit=0.01))
        assert "among the accepted is within its limit of 0.01" in (broken_guarantee(stricter, "fp32") or "")
        on_a_device = dataclasses.replace(rejection, limit=0.01, split="a device")
        assert broken_guarantee(with_spec(bundle, rejection=on_a_device), "fp32") is None


@pytest.mark.parametrize(
    "claim",
    [
        {"method": "betting", "confidence_level": None},
        {"method": "exact", "confidence_level": None},
        {"method": "hoeffding-bentkus", "confidence_level": 0.95, "limit": 0.0},
        {"method": "hoeffding-bentkus", "confidence_level": 0.95, "limit": 1.0},
        {"method": "exact", "confidence_level": 1.0},
        {"method": "assertion"},
    ],
)
def test_a_claim_that_no_method_can_test_is_broken(claim: dict[str, Any], signed: Path) -> None:
    assert "does not certify" in (broken_guarantee(claiming(Bundle.open(signed), **claim), "fp32") or "")


def test_thresholds_with_more_risk_than_the_limit_break_it(signed: Path, keys: Path, tmp_path: Path) -> None:
    greedy = Bundle.open(variant(signed, keys, tmp_path / "greedy", with_greedy_thresholds))
    assert "within its limit of 0.001" in (broken_guarantee(greedy, "fp32") or "")


def test_thresholds_fitted_to_other_samples_promise_nothing_about_these(
    signed: Path, keys: Path, tmp_path: Path
) -> None:
    greedy = Bundle.open(variant(signed, keys, tmp_path / "greedy", with_greedy_thresholds))
    assert broken_guarantee(claiming(greedy, split="a device"), "fp32") is None


def test_scores_of_other_segments_support_no_guarantee(signed: Path) -> None:
    bundle = Bundle.open(signed)
    write_scores(signed / bundle.precision("fp32").scores, bundle.scores("int8"))
    mixed = Bundle(signed, dataclasses.replace(bundle.manifest, files=file_hashes(signed)))
    assert broken_guarantee(mixed, "fp32") == "the recorded scores are those of other segments"
