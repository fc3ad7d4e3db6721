"""The cost of viewers, in short."""

import numpy as np
import pytest

import benchmarks.live.outputs
import edge
from benchmarks.view.viewers import page_readable_s, viewers_cost
from edge.bundle.bundle import Bundle
from edge.frames.base import Frame, PixelFormat
from edge.live.deployment import Deployment

PICTURES = [Frame(pixels, PixelFormat.GRAY) for pixels in np.zeros((2, 32, 32), np.uint8)]


def test_viewers_receive_ten_pictures_a_second_and_the_baseline_none(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.live.outputs, "ROUNDS", 1)
    with edge.load(digits_bundle.path, backend="onnxruntime", precision="fp32") as classifier:
        deployment = Deployment(digits_bundle, "fp32", classifier)
        result = viewers_cost("cost", deployment, PICTURES, viewers=3, total=60, rate=30.0)
        assert result["viewers"] == 3
        assert -1 < result["cost"] < 1
        assert 0 < result["pictures_per_viewer_s"] < 13
        assert page_readable_s(deployment, PICTURES) > 0
