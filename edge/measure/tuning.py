"""Times of a bundle in every way that it can run on this CPU, for `edge.inference.selection`."""

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import product

from edge.bundle.bundle import Bundle
from edge.engines import backend_named
from edge.frames.base import frame_from_array
from edge.inference.load import load_classifier
from edge.inference.selection import Timing
from edge.measure.interleave import interleave, interleave_streams
from edge.progress import OnProgress, Progress, ignore_progress

FRAMES, TURNS = (10, 50), (3, 25)
"""Fewest and most frames of a turn, and turns. Large networks take few."""
MEASURING_S = 5.0
"""Time to spend where these limits allow it."""


def tune(
    bundle: Bundle,
    backends: Iterable[str],
    precisions: Iterable[str],
    threads: Iterable[int],
    on_progress: OnProgress = ignore_progress,
) -> list[Timing]:
    """Measure every combination on the bundle's reference samples with its thresholds, in turns.

    The mean of the fastest turn counts, which other processes disturb least.

    Args:
        bundle: The bundle.
        backends: Backends on the CPU.
        precisions: Precisions of the bundle.
        threads: Numbers of threads per segment; 0 uses all cores.
        on_progress: Receives the progress of building engines and of measuring.

    Raises:
        BundleError: the bundle does not have a precision.
        EngineError: an engine cannot be built or run here.
    """
    combinations = list(product(backends, precisions, threads))
    pixels = bundle.reference().frames
    frames = [frame_from_array(pixel, bundle.manifest.input.kind) for pixel in pixels[:: -(-len(pixels) // FRAMES[1])]]
    with ExitStack() as stack:
        classifiers = [
            load_classifier(bundle, precision, backend_named(backend, threads=count), on_progress=on_progress)
            for backend, precision, count in combinations
        ]
        for classifier in classifiers:
            stack.callback(classifier.close)
        calls = [classifier.predict for classifier in classifiers]
        interleave(calls, frames[:1])  # the first prediction takes longer
        frame_s = sum(float(timed.times_ms.mean()) for timed in interleave(calls, frames[:2])) / 1e3
        measured = frames[: _within(FRAMES, MEASURING_S / TURNS[0] / frame_s)]
        turns = _within(TURNS, MEASURING_S / len(measured) / frame_s)
        on_progress(Progress(f"measuring {bundle.manifest.name}"))
        means_ms = interleave_streams(calls, measured, turns).min(axis=1).tolist()
    return [Timing(*combination, mean_ms) for combination, mean_ms in zip(combinations, means_ms, strict=True)]


def _within(limits: tuple[int, int], value: float) -> int:
    least, most = limits
    return max(least, min(most, int(value)))
