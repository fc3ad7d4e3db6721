"""The report on each class after training, and the warning of a network that answers the majority."""

import numpy as np
import pytest

from edge.training.summary import class_report, class_rows, describe_images, majority_warning
from tests.training.test_splits import labelled

NAMES = ("cat", "cow", "dog")
LABELS = np.array([0] * 8 + [1] * 2 + [2] * 2)


def logits(*answers: list[int]) -> np.ndarray:
    """Return logits of exits that give these answers."""
    return np.eye(len(NAMES), dtype=np.float32)[np.array(answers)]


def test_each_class_has_its_accuracy_at_every_exit_and_its_mistakes() -> None:
    report = class_report(logits([0] * 12, [0] * 6 + [1, 2] + [1, 1] + [0, 2]), LABELS, NAMES)
    assert report["accuracy_per_class"] == {"cat": [1, 0.75], "cow": [0, 1], "dog": [0, 0.5]}
    assert report["confusion_matrix"] == [[6, 1, 1], [0, 2, 0], [1, 0, 1]]
    assert class_rows(report)[0] == ("dog", "2", "0.0%", "50.0%", "cat (1)")
    assert majority_warning(report, balance=False) == ""


@pytest.mark.parametrize(("balance", "remedy"), [(False, "try --balance"), (True, "check the labels")])
def test_a_network_that_predicts_the_majority_gets_a_warning(balance: bool, remedy: str) -> None:
    warning = majority_warning(class_report(logits([0] * 12), LABELS, NAMES), balance=balance)
    assert "is 33.3% as the mean over classes, that of always predicting 'cat' is 33.3%" in warning
    assert remedy in warning


@pytest.mark.parametrize(
    ("frequent", "correct", "rare", "found", "is_warned"),
    [
        (950, 890, 50, 45, False),  # 93.5 % correct, the frequent class alone has 95 %
        (1980, 1978, 20, 18, False),
        (1980, 1980, 20, 1, False),
        (1980, 1980, 20, 0, True),
        (950, 760, 50, 10, True),  # independent of the image
    ],
)
def test_a_network_that_finds_a_rare_class_gets_no_warning(
    frequent: int, correct: int, rare: int, found: int, is_warned: bool
) -> None:
    labels = np.repeat([0, 2], [frequent, rare])
    answers = [0] * correct + [2] * (frequent - correct) + [2] * found + [0] * (rare - found)
    report = class_report(logits(answers), labels, NAMES)
    assert bool(majority_warning(report, balance=True)) == is_warned


def test_a_single_class_gives_no_reason_for_a_warning() -> None:
    assert majority_warning(class_report(logits([0] * 5), np.zeros(5, dtype=np.int64), NAMES), balance=False) == ""


def test_imbalance_and_copies_are_named_before_training() -> None:
    images = labelled([0] * 20 + [1] * 300)
    splits = {purpose: np.arange(0, 0) for purpose in ("test", "thresholds", "calibration", "validation")}
    lines = list(describe_images(images, splits | {"train": np.arange(310)}, balance=False))
    assert "class 0: 20, class 1: 290" in lines[0]
    assert "train 310" in lines[1]
    assert "10 copies of other images are left out" in lines
    assert "'class 1' has 14 times as many images as 'class 0'; --balance" in lines[-1]
