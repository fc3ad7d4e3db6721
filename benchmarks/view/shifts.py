"""Shifts planted in real images: alarms of the tests on audited frames drawn from them."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.view.streams import first_alarms
from edge.bundle.bundle import Bundle
from edge.decision import Decisions, Scores, decide
from edge.engines import backend_named
from edge.errors import ThresholdError
from edge.frames.base import frame_from_array
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier
from edge.inference.record import record
from edge.live.drift import exit_bounds, exit_values, expectations
from edge.training.datasets import fashion_mnist

STREAMS, FRAMES = 200, 10_000
DEFOCUS_RADIUS, MOTION_LENGTH, FOG_DENSITY = 2, 7, 0.5

Images = NDArray[np.uint8]


def defocus(images: Images) -> Images:
    """Blur with a disk, as a lens out of focus does."""
    size = 2 * DEFOCUS_RADIUS + 1
    return _filtered(images, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))


def motion_blur(images: Images) -> Images:
    """Blur along a diagonal, as a moving camera does."""
    return _filtered(images, np.eye(MOTION_LENGTH))


def fog(images: Images) -> Images:
    """Mix with white clouds: random values at a quarter of the resolution, enlarged smoothly."""
    generator, (height, width) = np.random.default_rng(0), images.shape[1:]
    foggy = np.empty_like(images)
    for index, image in enumerate(images):
        coarse = generator.uniform(0.5, 1.0, (-(-height // 4), -(-width // 4))).astype(np.float32)
        density = FOG_DENSITY * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        foggy[index] = np.clip(image + density * (255.0 - image), 0, 255)
    return foggy


SHIFTS: dict[str, Callable[[Images], Images]] = {
    "none": lambda images: images,
    "defocus": defocus,
    "motion blur": motion_blur,
    "fog": fog,
}


def planted_shifts(bundle: Bundle, precision: str) -> list[dict[str, Any]]:
    """Return for each shift its effect on the test images, and the alarms of streams that are drawn from them.

    Raises:
        EdgeError: the bundle cannot be used or has no bound, or Fashion-MNIST is missing.
    """
    dataset = fashion_mnist.load(None, None)
    test = dataset.fixed_splits["test"]
    images, truth = np.asarray(dataset.frames)[test].reshape(-1, 28, 28), dataset.labels[test]
    with load_classifier(bundle, precision, backend_named("onnxruntime")) as classifier:
        expected = expectations(bundle, precision).get(classifier.thresholds)
        if expected is None or expected.exit_shares is None:
            raise ThresholdError(f"{bundle.path} has no bound on disagreement; compile it with --method exact")
        return [
            {"shift": name, **_effect(scores, decisions, truth)}
            | _alarms(scores, decisions, expected.disagreement, expected.exit_shares)
            for name, shift in SHIFTS.items()
            for scores, decisions in [_decided(classifier, shift(images))]
        ]


def _decided(classifier: Classifier, images: Images) -> tuple[Scores, Decisions]:
    scores = record(classifier, (frame_from_array(image, "image") for image in images)).scores
    return scores, decide(scores, np.array(classifier.thresholds, dtype=np.float32))


def _effect(scores: Scores, decisions: Decisions, truth: NDArray[np.int64]) -> dict[str, float]:
    return {
        "accuracy": float((decisions.label == truth).mean()),
        "last_exit_accuracy": float((scores.label[-1] == truth).mean()),
        "disagreement": float((decisions.label != scores.label[-1]).mean()),
        "exit_0_share": float((decisions.exit_index == 0).mean()),
    }


def _alarms(scores: Scores, decisions: Decisions, bound: float, shares: tuple[float, ...]) -> dict[str, Any]:
    """Return the share of streams with an alarm of each test, and the audited frames until the first of them."""
    differs, exits = decisions.label != scores.label[-1], exit_values(decisions.exit_index, len(shares))
    by_disagreement = first_alarms(_drawn(differs), bound)
    by_exits = first_alarms(_drawn(exits), exit_bounds(shares))
    p50, p95 = np.quantile(np.minimum(by_disagreement, by_exits), [0.5, 0.95], method="higher").tolist()
    return {
        "bound": bound,
        "disagreement_alarms": float(np.isfinite(by_disagreement).mean()),
        "exit_shares_alarms": float(np.isfinite(by_exits).mean()),
        "first_alarm_frames_p50": p50 if math.isfinite(p50) else None,
        "first_alarm_frames_p95": p95 if math.isfinite(p95) else None,
    }


def _drawn(values: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """Yield the values of images that each stream draws at random, the same for every test."""
    generator = np.random.default_rng(0)
    for _ in range(FRAMES):
        yield values[generator.integers(0, len(values), STREAMS)]


def _filtered(images: Images, weights: NDArray[Any]) -> Images:
    kernel = weights / weights.sum()
    return np.stack([cv2.filter2D(image, -1, kernel) for image in images]).astype(np.uint8)
