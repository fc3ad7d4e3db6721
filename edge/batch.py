"""Many images at once: after each exit only those go on that did not leave."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.classifier import Classifier
from edge.decision import Decisions
from edge.errors import EngineError, SourceError
from edge.manifest import InputSpec


class HostBatch:
    """A chain of engines in host memory whose batch is not pinned."""

    def __init__(self, classifier: Classifier) -> None:
        """Take a classifier's engines, and its thresholds as they are at each call."""
        self._classifier: Classifier | None = classifier

    def classify(self, images: NDArray[np.float32]) -> Decisions:
        """Classify preprocessed images; see `edge.protocols.Batch`."""
        if (classifier := self._classifier) is None:
            raise closed_error()
        decisions = undecided(len(checked_images(images, classifier.input_spec)))
        going_on = np.arange(len(images))
        thresholds = {f"threshold_{k}": value for k, value in enumerate(classifier.thresholds[:, None])}
        tensors: Mapping[str, NDArray[Any]] = {"image": images}
        for index, (segment, engine) in enumerate(zip(classifier.segments, classifier.engines, strict=True)):
            if not len(going_on):
                break
            k = segment.exit_index
            known = {**tensors, **thresholds}
            said = engine.run({spec.name: known[spec.name] for spec in segment.inputs})
            leaves = said.get(f"exit_{k}", np.ones(len(going_on), dtype=bool))
            decisions.exit_index[going_on[leaves]] = index
            decisions.confidence[going_on[leaves]] = said[f"confidence_{k}"][leaves]
            decisions.label[going_on[leaves]] = said[f"label_{k}"][leaves]
            going_on = going_on[~leaves]
            tensors = {name: array[~leaves] for name, array in said.items() if name.startswith("cut_")}
        return decisions

    def close(self) -> None:
        """Let go of the engines; may be called twice."""
        self._classifier = None


def closed_error() -> EngineError:
    """Return what to say where a batch is used after it was closed."""
    return EngineError("this batch was closed; make another with `Backend.make_batch`")


def undecided(samples: int) -> Decisions:
    """Return room for decisions on so many images."""
    return Decisions(
        np.zeros(samples, dtype=np.intp), np.zeros(samples, dtype=np.float32), np.zeros(samples, dtype=np.int32)
    )


def checked_images(images: NDArray[np.float32], spec: InputSpec) -> NDArray[np.float32]:
    """Return preprocessed images as they are.

    Raises:
        SourceError: they are of another shape or type than the network reads, or hold NaN or infinite numbers.
    """
    wanted = f"this network reads preprocessed images, float32 of shape (images, {', '.join(map(str, spec.shape))})"
    if not isinstance(images, np.ndarray):
        raise SourceError(f"a batch is no array but {type(images).__name__}; {wanted}")
    if images.shape[1:] != spec.shape or images.dtype != np.float32:
        raise SourceError(f"a batch has shape {images.shape} and type {images.dtype}; {wanted}")
    if not np.isfinite(np.asarray(images)).all():
        raise SourceError("a batch holds NaN or infinite numbers, of which a network would make an answer")
    return images
