"""Simulated alarms in a short form, and the shifts planted in images."""

import numpy as np
import pytest

from benchmarks.view import alarms as benchmark
from benchmarks.view.shifts import SHIFTS

DEPENDENT = "autocorrelated_every_frame_false_alarm_rate"


def test_alarms_are_as_rare_and_as_fast_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STREAMS": 200, "FRAMES": 3000, "LATE_FRAMES": 2000, "SHARE_FRAMES": 1000}.items():
        monkeypatch.setattr(benchmark, name, value)
    result = benchmark.alarms()
    assert result["false_alarm_rate"] <= result["false_alarm_rate_stated"] == 0.01
    assert result["exit_shares_false_alarm_rate"] <= result["false_alarm_rate_stated"]
    assert result["detection_rate_at_twice"] >= 0.95
    assert result["detection_frames_p95"] <= result["detection_frames"] < result["late_change_frames_p95"] < 10_000
    assert result[DEPENDENT] > 10 * result["autocorrelated_false_alarm_rate"]  # why audits are sparse


def test_thinned_videos_have_the_stated_mean_and_correlation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "FRAMES", 500)
    share, decay = 0.1, np.exp(-1 / benchmark.SCENE_FRAMES)
    values = np.array(list(benchmark.autocorrelated(0.3, share)), dtype=float)
    assert values.mean() == pytest.approx(0.3, abs=0.005)
    correlation = np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]
    assert correlation == pytest.approx(share * decay / (1 - (1 - share) * decay), abs=0.01)


@pytest.mark.parametrize("shift", [name for name in SHIFTS if name != "none"])
def test_shifts_change_the_images_and_not_their_form(shift: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    shifted = SHIFTS[shift](images)
    assert (shifted.shape, shifted.dtype) == (images.shape, images.dtype)
    assert shifted.std() < 0.8 * images.std()
