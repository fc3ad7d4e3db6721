"""Tiny networks on the stand-in for a GPU, and the same on the host."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edge.bundle.manifest import InputSpec, PrecisionSpec, Thresholds
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.inference.classifier import Classifier
from tests.support.cuda_stand_in import SessionEngine, World
from tests.support.networks import INPUT, compiled, random_images, written

PICTURES = InputSpec("image", "rgb", 3, 12, 12, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


class Network:
    """One of `networks`, on the host and on the stand-in."""

    def __init__(
        self,
        name: str,
        world: World,
        folder: Path,
        spec: InputSpec = INPUT,
        precision: str = "fp32",
        *,
        is_whole: bool = False,
    ) -> None:
        """Take its segments, or the network without early exits as the only one."""
        self.precision: PrecisionSpec = written(folder / name, compiled(name, precision), precision)
        if is_whole:
            self.precision = replace(self.precision, segments=(self.precision.whole,))
        exits = len(self.precision.segments)
        temperatures = tuple(0.5 + k for k in range(exits))
        values = tuple(0.3 + 0.05 * k for k in range(exits - 1))
        thresholds = Thresholds(values, "accuracy_gap", 0.0, "none", None, samples=1, split="")
        self.precision = replace(self.precision, temperatures=temperatures, thresholds=thresholds)
        self.spec, self.world, self.exits = spec, world, exits
        self.engines = [
            SessionEngine(world, onnxruntime.InferenceSession(folder / name / segment.file), f"segment {k}")
            for k, segment in enumerate(self.precision.segments)
        ]
        self.host = self._classifier(load_engines(folder / name, self.precision.segments, OnnxRuntime()), None)

    def on_gpu(self, level: str) -> Classifier:
        from edge.cuda import get_runtime
        from edge.cuda.slot import CudaSlot

        runtime = replace(get_runtime(), level=level)
        return self._classifier(self.engines, lambda one: CudaSlot(one, runtime))

    def _classifier(self, engines: Sequence[Any], make_slot: Callable[[Classifier], Any] | None) -> Classifier:
        return Classifier(input_spec=self.spec, precision=self.precision, engines=engines, make_slot=make_slot)


Networks = Callable[..., Network]
"""A name, and what `Network` takes by name, to one on the stand-in."""


def frames(count: int) -> list[np.ndarray]:
    """Arrays for networks that read arrays, quiet and loud."""
    return [image * np.float32(10.0 ** (index % 3 - 1)) for index, image in enumerate(random_images(count))]


def answers(classifier: Classifier, given: Sequence[np.ndarray]) -> list[tuple[int, int, float, float]]:
    found = [classifier.classify(frame) for frame in given]
    return [(one.label, one.exit_index, one.confidence, round(one.probability, 5)) for one in found]
