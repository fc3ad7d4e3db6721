"""Times of a bundle in every way that it can run on this CPU, for `edge.inference.selection`."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import product

from edge.bundle.bundle import Bundle
from edge.decision import Prediction
from edge.engines import backend_named, default_backend
from edge.errors import EdgeError, EngineError
from edge.frames.base import Frame, frame_from_array
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier
from edge.inference.selection import Timing, Way
from edge.measure.interleave import interleave, interleave_streams
from edge.parity.compare import verify_classifier
from edge.progress import OnProgress, Progress, ignore_progress

MIN_FRAMES, MAX_FRAMES = 10, 50
MIN_TURNS, MAX_TURNS = 3, 25
"""Frames of a turn, and turns. Large networks take few."""
MEASURING_S = 5.0
"""Time to spend where these limits allow it."""

log = logging.getLogger(__name__)


def tune(
    bundle: Bundle,
    backends: Iterable[str],
    precisions: Sequence[str],
    threads: Iterable[int],
    on_progress: OnProgress = ignore_progress,
) -> list[Timing]:
    """Measure every combination on the bundle's reference samples with its thresholds, one precision after the other.

    A combination that cannot be loaded or run, or that matches neither the trained network nor the default library, is
    left out, with a warning.

    Args:
        bundle: The bundle.
        backends: Backends on the CPU.
        precisions: Precisions of the bundle.
        threads: Numbers of threads per segment; 0 uses all cores.
        on_progress: Receives the progress of building engines and of measuring.
    """
    pixels = bundle.reference().frames
    frames = [frame_from_array(pixel, bundle.manifest.input.kind) for pixel in pixels[:: -(-len(pixels) // MAX_FRAMES)]]
    combinations = list(product(backends, threads))
    timings = []
    for precision in precisions:  # the engines of all would take much memory
        ways = [Way(backend, precision, count) for backend, count in combinations]
        timings += _measure(bundle, ways, frames, MEASURING_S / len(precisions), on_progress)
    return timings


def _measure(
    bundle: Bundle, ways: Iterable[Way], frames: Sequence[Frame], limit_s: float, on_progress: OnProgress
) -> list[Timing]:
    """Measure ways in turns. The mean of the fastest turn counts, which other processes disturb least."""
    calls: dict[Way, Callable[[Frame], Prediction]] = {}
    with ExitStack() as stack:
        for way in ways:
            try:
                backend = backend_named(way.backend, threads=way.threads)
                classifier = stack.enter_context(load_classifier(bundle, way.precision, backend, None, on_progress))
                classifier.predict(frames[0])  # the first prediction takes longer
                if way.backend != default_backend():  # which also runs where nothing was measured
                    on_progress(Progress(f"verifying {way}"))
                    _check_parity(bundle, way, classifier)
            except EdgeError as error:
                log.warning("auto leaves out %s: %s", way, error)
            else:
                calls[way] = classifier.predict
        if not calls:
            return []
        on_progress(Progress(f"measuring {bundle.manifest.name}"))
        predicts = list(calls.values())
        frame_s = sum(float(timed.times_ms.mean()) for timed in interleave(predicts, frames[:2])) / 1e3
        measured = frames[: _within(MIN_FRAMES, MAX_FRAMES, limit_s / MIN_TURNS / frame_s)]
        turns = _within(MIN_TURNS, MAX_TURNS, limit_s / len(measured) / frame_s)
        means_ms = interleave_streams(predicts, measured, turns).min(axis=1).tolist()
    return [Timing(*way, mean_ms) for way, mean_ms in zip(calls, means_ms, strict=True)]


def _check_parity(bundle: Bundle, way: Way, classifier: Classifier) -> None:
    """Check a way on the reference samples, as `edge verify` does.

    Of the deviations from the trained network, those are the library's that the default library does not have.

    Raises:
        EngineError: it is beyond tolerance.
    """
    if not verify_classifier(bundle, way.precision, classifier, way.backend).failures:
        return
    default = default_backend()
    with load_classifier(bundle, way.precision, backend_named(default)) as reference:
        failures = verify_classifier(bundle, way.precision, classifier, way.backend, reference).failures
    if failures:
        raise EngineError(
            f"it matches neither the trained network nor {default} ({failures[0]}); see "
            f"`edge verify {bundle.path} --backend {default} --backend {way.backend}`"
        )


def _within(least: int, most: int, value: float) -> int:
    return max(least, min(most, int(value)))
