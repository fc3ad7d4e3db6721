"""Recording of every exit's outputs for every frame: all segments run."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.bundle import tensors
from edge.decision import NEVER, Scores
from edge.frames.base import Frame
from edge.inference.classifier import Classifier


class Recording(NamedTuple):
    """Every exit's outputs for every frame."""

    logits: NDArray[np.float32]
    """Shape (exits, samples, classes)."""
    scores: Scores


def record_parallel(classifier: Classifier, parts: Sequence[Iterable[Frame]]) -> Recording:
    """Record each part of the frames in its own thread; the result is the same as in sequence."""
    with ThreadPoolExecutor(len(parts)) as threads:
        recordings = list(threads.map(partial(record, classifier), parts))
    pairs = zip(*(recording.scores for recording in recordings), strict=True)
    scores = Scores(*(np.concatenate(arrays, axis=1) for arrays in pairs))
    return Recording(np.concatenate([recording.logits for recording in recordings], axis=1), scores)


def record(classifier: Classifier, frames: Iterable[Frame]) -> Recording:
    """Record every exit's outputs for each frame, with thresholds that are never reached."""
    exits = range(classifier.chain.exits)
    never = np.full(len(exits) - 1, NEVER, dtype=np.float32)
    logits, confidence, label = [], [], []
    slot = classifier.new_slot()
    try:
        for frame in frames:
            slot.start(frame, never)
            slot.result()
            outputs = slot.tensors()
            logits.append([outputs[tensors.logits(k)][0].copy() for k in exits])
            confidence.append([outputs[tensors.confidence(k)][0] for k in exits])
            label.append([outputs[tensors.label(k)][0] for k in exits])
    finally:
        slot.close()
    shape = (len(logits), len(exits))  # kept also where there are no frames
    scores = Scores(
        np.array(confidence, dtype=np.float32).reshape(shape).T, np.array(label, dtype=np.int32).reshape(shape).T
    )
    [classes] = [spec.shape[-1] for spec in classifier.chain.segments[0].outputs if spec.name == tensors.logits(0)]
    by_frame = np.array(logits, dtype=np.float32).reshape(*shape, classes or 0)
    return Recording(by_frame.swapaxes(0, 1), scores)
