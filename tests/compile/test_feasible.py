"""The compile command that training proposes works with the number of images there is."""

import numpy as np
import pytest

from calibration.arguments import guarantee_from_arguments
from calibration.samples import MIN_SAMPLES
from calibration.thresholds import fit_thresholds
from compile.__main__ import argument_parser
from compile.feasible import feasible_options
from edge.bundle.manifest import SplitSpec
from edge.decision import Scores


def splits(*, thresholds: int = 5000, calibration: int = 500) -> dict[str, SplitSpec]:
    return {"thresholds": SplitSpec(thresholds, "t"), "calibration": SplitSpec(calibration, "c")}


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ({}, ""),
        ({"thresholds": 818}, ""),
        ({"thresholds": 817}, "--method expectation --limit 0.005"),
        ({"thresholds": 269}, "--method expectation --limit 0.01"),
        ({"thresholds": 20}, "--method expectation --limit 0.1"),
        ({"thresholds": 19}, "--method none"),
        ({"calibration": MIN_SAMPLES - 1}, "--precision fp32 fp16"),
        ({"thresholds": 3, "calibration": 2}, "--precision fp32 fp16 --method none"),
    ],
    ids=str,
)
def test_options_are_added_only_where_the_defaults_need_more_images(sizes: dict[str, int], options: str) -> None:
    assert " ".join(feasible_options(splits(**sizes), has_early_exits=True)) == options


def test_a_truncated_network_has_no_thresholds_to_guarantee() -> None:
    assert feasible_options(splits(thresholds=3), has_early_exits=False) == []


@pytest.mark.parametrize("samples", [1, 2, 19, 20, 39, 40, 209, 210, 419, 420, 817, 818])
def test_the_proposed_guarantee_can_be_given(samples: int) -> None:
    options = feasible_options(splits(thresholds=samples), has_early_exits=True)
    guarantee = guarantee_from_arguments(argument_parser().parse_args(["checkpoint.pt", "--output", "b", *options]))
    label = np.zeros((2, samples), dtype=np.int32)
    scores = Scores(np.full((2, samples), 0.9, dtype=np.float32), label)
    assert fit_thresholds(scores, label[0].astype(np.int64), [1, 1], guarantee, "split").values[0] < 1
