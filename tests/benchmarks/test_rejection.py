"""The report on rejection counts violated limits, and shows letters to a network for digits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import rejection as benchmark
from benchmarks.letters import FONTS, VARIANTS, letter_frames
from benchmarks.rejection import Fit, Point, judge, summary
from calibration.rejection import Labelled
from edge.bundle.bundle import MANIFEST, Bundle
from edge.decision import Scores
from edge.training.datasets import digits
from tests.support.commands import error_line, run_command


def test_a_fit_is_judged_by_its_worst_candidate_and_by_the_fitted_thresholds() -> None:
    """With thresholds of 2 the last exit is right for half of the samples; with 0 the first exit for none of four."""
    scores = Scores(
        np.array([[0.9] * 4, [0.8, 0.8, 0.8, 0.3]], np.float32), np.array([[1] * 4, [0, 0, 1, 0]], np.int32)
    )
    pool = Labelled(scores, np.zeros(4, np.int64), ("a", "b"))
    unknown = Scores(scores.confidence[:, 2:], scores.label[:, 2:])
    assert judge(Fit([(2.0,)], 0.5), pool, unknown) == pytest.approx(Point(1 / 3, 3 / 4, 1 / 2))
    assert judge(Fit([(0.0,), (2.0,)], 0.5), pool, unknown) == pytest.approx(Point(1.0, 3 / 4, 1 / 2))
    assert judge(Fit([(2.0,), (0.0,)], 0.5), pool, unknown) == pytest.approx(Point(1.0, 1.0, 0.0))


def test_resamples_that_support_no_limit_violate_none() -> None:
    fits = [Point(0.1, 0.9, 0.4), None, Point(0.3, 0.7, 0.6), None]
    assert summary(fits, 0.2) == pytest.approx(
        {"violation_rate": 0.25, "refused_rate": 0.5, "mean_error": 0.2, "mean_coverage": 0.8,
         "mean_unknown_rejected": 0.5}
    )  # fmt: skip


@pytest.mark.parametrize("is_cluttered", [False, True])
def test_letters_look_like_digits(is_cluttered: bool) -> None:
    letters = letter_frames(32, is_cluttered=is_cluttered)
    assert letters.shape == (26 * len(FONTS) * VARIANTS, 32, 32)
    assert letters.dtype == np.uint8
    assert len(np.unique(letters, axis=0)) == len(letters)
    plain, strokes = digits.load(None, 32).frames, letters[letters > 40]
    assert 0.5 < strokes.mean() / plain[plain > 40].mean() < 1.5
    assert 0.4 < (letters > 40).mean() / (plain > 40).mean() < 1.5


def test_the_report_has_a_row_for_each_guarantee(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "RESPLITS", 2)
    monkeypatch.setattr(benchmark, "LIMITS", (0.3,))
    monkeypatch.setattr(benchmark, "GUARANTEE", benchmark.replace(benchmark.GUARANTEE, limit=0.1))
    benchmark.run_rejection(digits_bundle.path, "fp32", tmp_path / "rejection.json")
    result = json.loads((tmp_path / "rejection.json").read_text())
    assert (result["samples"], result["letters"]) == (269, 780)
    assert [(row["epsilon"], row["method"]) for row in result["rows"]] == [
        (guarantee.limit, guarantee.method) for guarantee in benchmark.guarantees()
    ]
    for row in result["rows"]:
        assert row["refused_rate"] == 0
        assert 0 < row["mean_error"] < 0.3
        assert row["mean_coverage"] >= 1 - row["mean_unknown_rejected"]


def test_letters_are_shown_to_networks_for_digits_only(digits_bundle: Bundle, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))
    manifest = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(manifest.replace('"dataset": "digits"', '"dataset": "folder"'))
    message = error_line(run_command("benchmarks", "rejection", bundle, "--precision", "fp32"))
    assert "was trained on folder" in message
