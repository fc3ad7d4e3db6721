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
    assert "validation accuracy of 66.7%, and always predicting 'cat' has 66.7%" in warning
    assert remedy in warning


def test_imbalance_and_copies_are_named_before_training() -> None:
    images = labelled([0] * 20 + [1] * 300)
    splits = {purpose: np.arange(0, 0) for purpose in ("test", "thresholds", "calibration", "validation")}
    lines = list(describe_images(images, splits | {"train": np.arange(310)}, balance=False))
    assert "class 0: 20, class 1: 290" in lines[0]
    assert "train 310" in lines[1]
    assert "10 copies of other images are left out" in lines
    assert "'class 1' has 14 times as many images as 'class 0'; --balance" in lines[-1]
