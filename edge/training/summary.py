"""Summaries for people: the images before training, and each class after it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.training.datasets.base import LabelledImages
from edge.training.splits import PURPOSES, Splits

MAX_LISTED = 12
"""Largest number of classes in a summary; of more classes, the smallest are listed."""
IMBALANCE = 5.0
"""Ratio of the largest to the smallest class above which a warning is printed."""
CHANCE_MARGIN = 0.02
"""Share by which the mean accuracy over classes must exceed that of a constant prediction."""


def describe_images(images: LabelledImages, splits: Splits, *, balance: bool) -> Iterator[str]:
    """Yield sentences about classes, splits, and images that were left out."""
    used = np.concatenate(list(splits.values()))
    counts = np.bincount(images.labels[used], minlength=len(images.classes))
    order = np.argsort(counts, kind="stable")[:MAX_LISTED] if len(counts) > MAX_LISTED else range(len(counts))
    listed = ", ".join(f"{images.classes[k]}: {counts[k]}" for k in order)
    smallest = "smallest " if len(counts) > MAX_LISTED else ""
    yield f"{len(counts)} classes, {len(used)} images; {smallest}{listed}"
    yield "splits: " + ", ".join(f"{purpose} {len(splits[purpose])}" for purpose in reversed(PURPOSES))
    if copies := len(images.labels) - len(used):
        yield f"{copies} copies of other images are left out"
    yield from images.notes
    if counts.max() > IMBALANCE * counts.min() and not balance:
        yield (
            f"warning: {images.classes[counts.argmax()]!r} has {counts.max() / counts.min():.0f} times as many images "
            f"as {images.classes[counts.argmin()]!r}; --balance makes all classes count the same"
        )


def class_report(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the accuracy of each class at each exit and the last exit's confusion matrix, for JSON.

    Args:
        logits: Logits of every exit, shape (exits, samples, classes).
        labels: True classes, shape (samples,).
        classes: Class names.
    """
    predicted = logits.argmax(axis=-1)
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (labels, predicted[-1]), 1)
    present = [k for k in range(len(classes)) if (labels == k).any()]
    return {
        "classes": list(classes),
        "samples_per_class": np.bincount(labels, minlength=len(classes)).tolist(),
        "accuracy_per_class": {
            classes[k]: [float((row[labels == k] == k).mean()) for row in predicted] for k in present
        },
        "confusion_matrix": confusion.tolist(),
    }


def class_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a table row per class: samples, accuracy at each exit, and the most frequent wrong prediction."""
    rows = []
    for name, accuracy in sorted(report["accuracy_per_class"].items(), key=lambda item: item[1][-1])[:MAX_LISTED]:
        index = report["classes"].index(name)
        others = [0 if k == index else count for k, count in enumerate(report["confusion_matrix"][index])]
        mistaken = f"{report['classes'][int(np.argmax(others))]} ({max(others)})" if any(others) else ""
        samples = str(report["samples_per_class"][index])
        rows.append((name, samples, *(f"{value:.1%}" for value in accuracy), mistaken))
    return rows


def majority_warning(report: Mapping[str, Any], *, balance: bool) -> str:
    """Return a warning if the last exit is no better than always predicting the most frequent class; else empty.

    Compared is the mean accuracy over the classes: a network that finds most of a rare class has learned something,
    even if its accuracy on all images is below the share of the most frequent class.
    """
    counts = np.array(report["samples_per_class"])
    accuracy = np.mean([exits[-1] for exits in report["accuracy_per_class"].values()])
    constant = 1 / np.count_nonzero(counts)
    if constant == 1 or accuracy > (1 + CHANCE_MARGIN) * constant:
        return ""
    remedy = "train longer, or check the labels" if balance else "try --balance, train longer, or add images"
    return (
        f"warning: the last exit's validation accuracy is {accuracy:.1%} as the mean over classes, that of always "
        f"predicting {report['classes'][int(counts.argmax())]!r} is {constant:.1%}: the network has learned nothing "
        f"else; {remedy}"
    )
