"""Throughput of a bundle in batches of preprocessed images, and with several cameras on one classifier."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.cpu.variants import INT8_EXITS_OV, INT8_WHOLE_OV, Variant
from edge.bundle.bundle import Bundle
from edge.engines import backend_named
from edge.engines.cache import load_engines
from edge.frames.base import Frame, frame_from_array
from edge.frames.preprocess import preprocess_batch
from edge.inference.base import Batch
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier
from edge.inference.slots import new_batch
from edge.measure.interleave import interleave
from edge.progress import OnProgress, track

FP32_EXITS_ORT = Variant("fp32", "exits", "onnxruntime")
IN_BATCHES = (INT8_EXITS_OV, INT8_WHOLE_OV, FP32_EXITS_ORT, Variant("fp32", "whole", "onnxruntime"))
WITH_CAMERAS = (INT8_EXITS_OV, FP32_EXITS_ORT)
BATCHES, CAMERAS = (1, 4, 16, 64), (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Throughput:
    """Images a second over a quantity, the median of the turns."""

    name: str
    precision: str
    network: str
    backend: str
    quantity: str
    """`batch` or `cameras`."""
    values: tuple[int, ...]
    images_per_s: tuple[float, ...]


def over_batches(name: str, bundle: Bundle, images: int, turns: int, on_progress: OnProgress) -> list[Throughput]:
    """Classify the same images, preprocessed, in batches of each size."""
    reference = bundle.reference().frames[:images]
    inputs = preprocess_batch(
        [frame_from_array(p, bundle.manifest.input.kind) for p in reference], bundle.manifest.input
    )
    with ExitStack() as stack:
        calls = []
        for variant in IN_BATCHES:
            batch = open_batch(bundle, variant, on_progress)
            stack.callback(batch.close)
            early = bundle.precision(variant.precision).thresholds.values if variant.network == "exits" else ()
            thresholds = np.array(early, dtype=np.float32)
            calls += [partial(_classify_in_batches, batch, inputs, thresholds, size) for size in BATCHES]
        timed = interleave(calls, track(range(turns + 1), f"batches of {name}", on_progress))
    rates = [len(inputs) / float(np.median(series.times_ms[1:])) * 1e3 for series in timed]
    rows = zip(IN_BATCHES, np.reshape(rates, (-1, len(BATCHES))).tolist(), strict=True)
    return [Throughput(name, *variant, "batch", BATCHES, tuple(row)) for variant, row in rows]


def open_batch(bundle: Bundle, variant: Variant, on_progress: OnProgress) -> Batch:
    """Return batched inference with a variant."""
    is_whole = variant.network == "whole"
    chain = bundle.whole_network(variant.precision) if is_whole else bundle.chain(variant.precision)
    backend, files = backend_named(variant.backend), bundle.manifest.files
    engines = load_engines(bundle.path, chain.segments, backend, batch=None, on_progress=on_progress, files=files)
    return new_batch("cpu", chain, engines)


def _classify_in_batches(
    batch: Batch, inputs: NDArray[np.float32], thresholds: NDArray[np.float32], size: int, _: int
) -> None:
    for start in range(0, len(inputs), size):
        batch.classify(inputs[start : start + size], thresholds)


def over_cameras(name: str, bundle: Bundle, frames: int, turns: int, on_progress: OnProgress) -> list[Throughput]:
    """Classify the same frames with one classifier, shared among as many threads as there are cameras."""
    samples = [frame_from_array(pixels, bundle.manifest.input.kind) for pixels in bundle.reference().frames[:frames]]
    with ExitStack() as stack:
        calls = []
        for variant in WITH_CAMERAS:
            backend = backend_named(variant.backend)
            classifier = stack.enter_context(
                load_classifier(bundle, variant.precision, backend, on_progress=on_progress)
            )
            for cameras in CAMERAS:
                threads = stack.enter_context(ThreadPoolExecutor(cameras))
                calls.append(partial(_classify_in_threads, threads, classifier, samples, cameras))
        timed = interleave(calls, track(range(turns + 1), f"cameras of {name}", on_progress))
    rates = [len(samples) / float(np.median(series.times_ms[1:])) * 1e3 for series in timed]
    rows = zip(WITH_CAMERAS, np.reshape(rates, (-1, len(CAMERAS))).tolist(), strict=True)
    return [Throughput(name, *variant, "cameras", CAMERAS, tuple(row)) for variant, row in rows]


def _classify_in_threads(
    threads: ThreadPoolExecutor, classifier: Classifier, frames: Sequence[Frame], cameras: int, _: int
) -> None:
    def watch(camera: int) -> None:
        for frame in frames[camera::cameras]:
            classifier.predict(frame)

    list(threads.map(watch, range(cameras)))
