"""Metrics of the papers' comparison have the values of their definitions."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.attention import agreement_with_gradcam
from benchmarks.papers.metrics import calibration_error, confidence_metrics, decision_metrics, failure_auroc
from edge.decision import Decisions, Scores
from edge.training.network import AttentionHead, MultiExitNetwork, Stages
from tests.support.networks import random_images, seeded_network, tiny_cnn


def float32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def booleans(*values: int) -> np.ndarray:
    return np.array(values, dtype=bool)


# Confidence


def test_calibration_error_is_the_sample_weighted_gap_between_confidence_and_accuracy() -> None:
    """With fifteen bins, 0.90 and 0.92 share a bin, and 0.50 and 0.52 another."""
    confidence = float32(0.90, 0.92, 0.50, 0.52, 1.00)
    correct = booleans(1, 0, 1, 1, 1)
    gaps = [2 * abs(0.91 - 0.5), 2 * abs(0.51 - 1.0), 1 * abs(1.0 - 1.0)]
    assert calibration_error(confidence, correct) == pytest.approx(sum(gaps) / 5, abs=1e-6)


def test_overconfidence_and_underconfidence_cancel_only_within_a_bin() -> None:
    assert calibration_error(float32(0.61, 0.63), booleans(1, 0)) == pytest.approx(0.12, abs=1e-6)
    assert calibration_error(float32(0.2, 0.9), booleans(1, 0)) == pytest.approx(0.85, abs=1e-6)


def test_a_confidence_of_1_belongs_to_the_last_bin() -> None:
    assert calibration_error(float32(1.00, 0.95), booleans(0, 1)) == pytest.approx(0.95 / 2, abs=1e-6)


def test_calibrated_confidence_has_no_calibration_error() -> None:
    assert calibration_error(float32(*[0.75] * 4), booleans(1, 1, 1, 0)) == pytest.approx(0)
    assert calibration_error(float32(1, 1, 1), booleans(1, 1, 1)) == 0


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        ((0.9, 0.8, 0.3, 0.2), (1, 1, 0, 0), 1.0),
        ((0.9, 0.8, 0.3, 0.2), (0, 0, 1, 1), 0.0),
        ((0.9, 0.7, 0.5, 0.3), (1, 0, 0, 1), 0.5),
        ((0.9, 0.7, 0.5, 0.3), (1, 0, 1, 0), 0.75),
        ((0.5, 0.5, 0.5, 0.5), (1, 0, 1, 0), 0.5),
        ((0.9, 0.5, 0.5), (1, 1, 0), 0.75),
        ((0.9, 0.1), (1, 1), 1.0),
        ((0.9, 0.1), (0, 0), 1.0),
    ],
    ids=["correct above wrong", "below", "around", "a pair swapped", "all ties", "a tie", "all correct", "all wrong"],
)
def test_failure_auroc_is_the_share_of_correctly_ranked_pairs(
    confidence: Sequence[float], correct: Sequence[int], expected: float
) -> None:
    assert failure_auroc(float32(*confidence), booleans(*correct)) == pytest.approx(expected)


def test_confidence_metrics_cover_all_samples_at_each_exit() -> None:
    scores = Scores(
        np.stack([float32(0.9, 0.8, 0.6, 0.4), float32(0.9, 0.9, 0.9, 0.9)]),
        np.array([[0, 1, 0, 0], [0, 1, 1, 0]], dtype=np.int32),
    )
    metrics = confidence_metrics(scores, np.array([0, 1, 1, 1]))
    assert metrics["exit_accuracy"] == [0.5, 0.75]
    assert metrics["auroc"] == [1.0, 0.5]
    assert metrics["ece"] == pytest.approx([(0.1 + 0.2 + 0.6 + 0.4) / 4, 0.15], abs=1e-6)


# Decisions


def decisions(labels: Sequence[int], exits: Sequence[int]) -> Decisions:
    return Decisions(np.array(exits), np.ones(len(labels), dtype=np.float32), np.array(labels, dtype=np.int32))


def test_precision_recall_and_f1_are_macro_means() -> None:
    """Of class 0, four of six samples are correct; of class 1, two of two; of class 2, none of one."""
    truth = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])
    predicted = [0, 0, 0, 0, 1, 1, 1, 1, 0]
    metrics = decision_metrics(decisions(predicted, [0] * 9), truth, exits=1)
    precision, recall = (4 / 5, 2 / 4, 0), (4 / 6, 1, 0)
    f1 = [2 * 4 / (5 + 6), 2 * 2 / (4 + 2), 0]
    assert metrics["accuracy"] == pytest.approx(6 / 9)
    assert metrics["precision"] == pytest.approx(sum(precision) / 3)
    assert metrics["recall"] == pytest.approx(sum(recall) / 3)
    assert metrics["macro_f1"] == pytest.approx(sum(f1) / 3)


def test_routed_accuracy_covers_the_samples_of_an_exit_and_is_none_without_any() -> None:
    truth = np.array([0, 1, 1, 0])
    metrics = decision_metrics(decisions([0, 1, 0, 1], exits=[0, 0, 0, 2]), truth, exits=3)
    assert metrics["exit_shares"] == [0.75, 0, 0.25]
    assert metrics["routed_accuracy"] == [pytest.approx(2 / 3), None, 0]
    assert json.loads(json.dumps(metrics)) == metrics


def test_correct_predictions_have_perfect_metrics() -> None:
    metrics = decision_metrics(decisions([2, 0, 1], exits=[0, 1, 1]), np.array([2, 0, 1]), exits=2)
    assert [metrics[name] for name in ("accuracy", "precision", "recall", "macro_f1")] == [1, 1, 1, 1]


# Grad-CAM


def attending(weight: float) -> MultiExitNetwork:
    """Return a network whose only feature, the image, is evidence for class 0 and attended to, or avoided."""
    heads = [AttentionHead(1, 2) for _ in range(2)]
    with torch.no_grad():
        for head in heads:
            head.attention.weight.fill_(weight)
            head.classify.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            head.classify.bias.zero_()
    return MultiExitNetwork(Stages([nn.Identity(), nn.Identity()]), heads)


@pytest.mark.parametrize(("weight", "low", "high"), [(0.5, 0.9, 1.0), (-0.5, -1.0, -0.9)])
def test_attention_agrees_with_gradcam_if_it_follows_the_features_of_the_predicted_class(
    weight: float, low: float, high: float
) -> None:
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    agreement = agreement_with_gradcam(attending(weight), images)
    assert len(agreement) == 2
    assert all(low <= cosine <= high + 1e-6 for cosine in agreement)


def test_gradcam_does_not_change_the_network() -> None:
    network = seeded_network(tiny_cnn)
    images = torch.from_numpy(random_images(4))
    before = [output.logits.detach().clone() for output in network(images)]
    agreement = agreement_with_gradcam(network, images)
    assert len(agreement) == 3
    assert all(-1 <= cosine <= 1 for cosine in agreement)
    assert all(torch.equal(output.logits, logits) for output, logits in zip(network(images), before, strict=True))
    assert all(weight.grad is None for weight in network.parameters())
