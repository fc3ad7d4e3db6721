"""Ways to run a network on a CPU, timed in turns of a stream of frames."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edge.bundle.bundle import Bundle
from edge.engines import backend_named
from edge.frames.base import Frame, frame_from_array
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier, load_whole_network
from edge.measure.interleave import interleave_streams
from edge.measure.statistics import Quartiles, quartiles
from edge.parity.compare import Parity, verify
from edge.progress import OnProgress, track


class Variant(NamedTuple):
    """A way to run a network."""

    precision: str
    network: str
    """`whole`, or `exits` for the chain with its thresholds."""
    backend: str

    def __str__(self) -> str:
        return " ".join(self)


@dataclass(frozen=True, slots=True)
class Row:
    """Time of a frame, from the frame to the known decision, and the exits and accuracy of all frames."""

    name: str
    precision: str
    network: str
    backend: str
    ms: Quartiles
    """Mean of the frames of a turn, over the turns."""
    accuracy: float | None
    """None for random weights."""
    exit_shares: tuple[float, ...]

    @property
    def variant(self) -> Variant:
        """The way to run the network."""
        return Variant(self.precision, self.network, self.backend)


FP32_WHOLE_ORT = Variant("fp32", "whole", "onnxruntime")
FP32_WHOLE_OV = Variant("fp32", "whole", "openvino")
INT8_WHOLE_OV = Variant("int8", "whole", "openvino")
INT8_EXITS_OV = Variant("int8", "exits", "openvino")
VARIANTS = (
    FP32_WHOLE_ORT,
    Variant("int8", "whole", "onnxruntime"),
    FP32_WHOLE_OV,
    INT8_WHOLE_OV,
    Variant("fp32", "exits", "onnxruntime"),
    INT8_EXITS_OV,
)
RATIOS = {
    "int8 exits openvino / fp32 whole onnxruntime": (INT8_EXITS_OV, FP32_WHOLE_ORT),
    "int8 exits openvino / int8 whole openvino": (INT8_EXITS_OV, INT8_WHOLE_OV),
    "int8 whole / fp32 whole, openvino": (INT8_WHOLE_OV, FP32_WHOLE_OV),
}
"""Speeds of the first over the second: how many times as fast it is."""


def measure_bundle(name: str, bundle: Bundle, frames: int, turns: int, on_progress: OnProgress) -> list[Row]:
    """Time every variant on some of the bundle's reference samples; accuracy and exits are those of all."""
    reference = bundle.reference()
    samples = [frame_from_array(pixels, bundle.manifest.input.kind) for pixels in reference.frames]
    with ExitStack() as stack:
        classifiers = {variant: stack.enter_context(load_variant(bundle, variant, on_progress)) for variant in VARIANTS}
        times = time_streams(classifiers, samples[:: -(-len(samples) // frames)], turns)
        rows = []
        for variant, classifier in track(classifiers.items(), f"classifying with {name}", on_progress):
            predictions = [classifier.predict(sample) for sample in samples]
            right = [p.label_index == label for p, label in zip(predictions, reference.labels, strict=True)]
            exits = np.bincount([p.exit_index for p in predictions], minlength=classifier.chain.exits)
            shares = tuple((exits / len(predictions)).tolist())
            rows.append(Row(name, *variant, times[variant], float(np.mean(right)), shares))
    return rows


def load_variant(bundle: Bundle, variant: Variant, on_progress: OnProgress) -> Classifier:
    """Return a variant as a classifier; the caller closes it."""
    backend = backend_named(variant.backend)
    if variant.network == "whole":
        return load_whole_network(bundle, variant.precision, backend, on_progress)
    return load_classifier(bundle, variant.precision, backend, on_progress=on_progress)


def time_streams(
    classifiers: Mapping[Variant, Classifier], frames: Sequence[Frame], turns: int
) -> dict[Variant, Quartiles]:
    """Return the mean time of a frame in each turn; in a turn, a variant classifies all frames."""
    times_ms = interleave_streams([classifier.predict for classifier in classifiers.values()], frames, turns)
    return dict(zip(classifiers, map(quartiles, times_ms), strict=True))


def speed_ratios(rows: Iterable[Row]) -> dict[str, float]:
    """Return `RATIOS` of each network that has both rows, from the medians."""
    median_ms = {(row.name, row.variant): row.ms.median for row in rows}
    return {
        f"{name}: {ratio}": median_ms[name, slow] / median_ms[name, fast]
        for name in dict.fromkeys(name for name, _ in median_ms)
        for ratio, (fast, slow) in RATIOS.items()
        if (name, fast) in median_ms and (name, slow) in median_ms
    }


def integers_against_emulation(bundle: Bundle, on_progress: OnProgress) -> Parity:
    """Compare int8 on OpenVINO with its emulation by ONNX Runtime, exit by exit."""
    backends = [backend_named("onnxruntime"), backend_named("openvino")]
    return verify(bundle, "int8", backends, on_progress=on_progress)[-1]
