"""What every exit says of every frame: all segments run, one frame after the other, on the engines as built."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.classifier import Classifier
from edge.decision import NEVER, Scores
from edge.preprocess import Frame
from edge.protocols import Slot


class Recording(NamedTuple):
    """Every exit's output for every frame."""

    logits: NDArray[np.float32]
    """Shape (exits, samples, classes)."""
    scores: Scores


def record_side_by_side(classifier: Classifier, parts: Sequence[Iterable[Frame]]) -> Recording:
    """Record parts of the frames in a thread each: the same numbers as one after the other, on more cores."""
    with ThreadPoolExecutor(len(parts)) as threads:
        found = list(threads.map(partial(record, classifier), parts))
    scores = Scores(*(np.concatenate(arrays, axis=1) for arrays in zip(*(one.scores for one in found), strict=True)))
    return Recording(np.concatenate([one.logits for one in found], axis=1), scores)


def record(classifier: Classifier, frames: Iterable[Frame]) -> Recording:
    """Run all exits on each frame, on the classifier's engines but with thresholds that are never reached."""
    exits = range(len(classifier.segments))
    slot = classifier.with_thresholds([NEVER] * (len(exits) - 1)).new_slot()
    try:
        logits, confidence, label = _said(slot, frames, exits)
    finally:
        slot.close()
    scores = Scores(np.array(confidence, dtype=np.float32).T, np.array(label, dtype=np.int32).T)
    return Recording(np.array(logits, dtype=np.float32).swapaxes(0, 1), scores)


def _said(slot: Slot, frames: Iterable[Frame], exits: range) -> tuple[list[Any], list[Any], list[Any]]:
    """Return logits, confidences and labels, frame by frame and exit by exit."""
    logits, confidence, label = [], [], []
    for frame in frames:
        slot.frame = frame
        slot.load()
        slot.infer()
        tensors = slot.tensors
        logits.append([tensors[f"logits_{k}"][0].copy() for k in exits])
        confidence.append([tensors[f"confidence_{k}"][0] for k in exits])
        label.append([tensors[f"label_{k}"][0] for k in exits])
    return logits, confidence, label
