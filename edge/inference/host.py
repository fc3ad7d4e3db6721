"""Chains in host memory: one frame in a slot, or batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle import tensors
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import SegmentSpec
from edge.decision import Prediction, Predictions, allocate_predictions, softmax_maximum
from edge.engines.base import Engine
from edge.frames.base import Frame
from edge.frames.preprocess import preprocess_for


class HostSlot:
    """Buffers of one in-flight frame in host memory, and the segments bound to them."""

    buffer: Frame | None = None
    tuning = None

    def __init__(self, chain: ChainSpec, engines: Sequence[Engine]) -> None:
        """Allocate all buffers and bind all segments."""
        self._buffers = allocate_tensors(chain.segments)
        self._preprocess = preprocess_for(chain.input)
        self._image = self._buffers[tensors.IMAGE][0]
        exits = [segment.exit_index for segment in chain.segments]
        self._thresholds = [self._buffers[tensors.threshold(k)] for k in exits[:-1]]
        self._steps = [engine.bind(self._buffers) for engine in engines]
        self._exits = [self._buffers[tensors.exit_flag(k)] for k in exits[:-1]] + [np.ones(1, dtype=bool)]
        self._labels = [self._buffers[tensors.label(k)] for k in exits]
        self._confidences = [self._buffers[tensors.confidence(k)] for k in exits]
        self._logits = [self._buffers[tensors.logits(k)][0] for k in exits]
        self._inverse_temperature = [1 / temperature for temperature in chain.temperatures]
        self._prediction = chain.prediction

    def prepare(self, frame: Frame) -> None:
        """Do nothing: frames of all sizes use the same memory."""

    def start(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        """Preprocess a frame into the chain's input and set the thresholds."""
        self._preprocess(frame, self._image)
        for buffer, value in zip(self._thresholds, thresholds, strict=True):
            buffer[0] = value

    def result(self) -> Prediction:
        """Run segments until one exits; later segments do not run."""
        for index, step in enumerate(self._steps):
            step()
            if self._exits[index][0]:
                break
        label = int(self._labels[index][0])
        confidence = float(self._confidences[index][0])
        probability = softmax_maximum(self._logits[index], self._inverse_temperature[index])
        return self._prediction(label, probability, index, confidence)

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Return the buffers, without copies: the next frame overwrites them."""
        return self._buffers

    def close(self) -> None:
        """Do nothing: host memory is freed with its last reference."""


class HostBatch:
    """Batched inference in host memory, with engines whose batch is not pinned."""

    def __init__(self, chain: ChainSpec, engines: Sequence[Engine]) -> None:
        """Use the engines of a chain."""
        self._chain, self._engines = chain, engines

    def classify(self, images: NDArray[np.float32], thresholds: NDArray[np.float32]) -> Predictions:
        """Classify preprocessed images; see `edge.inference.base.Batch`."""
        predictions = allocate_predictions(len(images))
        active = np.arange(len(images))
        known: dict[str, NDArray[Any]] = {tensors.IMAGE: images}
        known |= {tensors.threshold(k): thresholds[k : k + 1] for k in range(len(thresholds))}
        for index, (segment, engine) in enumerate(zip(self._chain.segments, self._engines, strict=True)):
            if not len(active):
                break
            k = segment.exit_index
            outputs = engine.run({spec.name: known[spec.name] for spec in segment.inputs})
            exits = outputs.get(tensors.exit_flag(k), np.ones(len(active), dtype=bool))
            leaving = active[exits]
            predictions.exit_index[leaving] = index
            predictions.confidence[leaving] = outputs[tensors.confidence(k)][exits]
            predictions.label_index[leaving] = outputs[tensors.label(k)][exits]
            predictions.probability[leaving] = calibrated_probability(
                outputs[tensors.logits(k)][exits], self._chain.temperatures[index]
            )
            active = active[~exits]
            known |= {name: outputs[name][~exits] for name in segment.cuts_out}
        return predictions

    def close(self) -> None:
        """Do nothing: the engines are freed with their last reference."""


def calibrated_probability(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return the maximum of `softmax(logits / temperature)` for logits of shape (samples, classes)."""
    scaled = logits.astype(np.float64) / temperature
    with np.errstate(invalid="ignore"):  # infinite logits make NaN, as they do in a slot
        shifted = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probability: NDArray[np.float32] = (1 / shifted.sum(axis=-1)).astype(np.float32)
    return probability


def allocate_tensors(segments: Sequence[SegmentSpec]) -> dict[str, NDArray[Any]]:
    """Return a zeroed array for each tensor of the segments, batch 1; consecutive segments share the cut's arrays."""
    return {
        spec.name: np.zeros(spec.sample_shape, dtype=spec.dtype)
        for segment in segments
        for spec in (*segment.inputs, *segment.outputs)
    }
