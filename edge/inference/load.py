"""Bundle to classifier: choose backend and precision, load the engines."""

from functools import partial
from pathlib import Path

from numpy.typing import ArrayLike

from edge.bundle.bundle import Bundle
from edge.engines import backend_named
from edge.engines.base import Backend
from edge.engines.cache import load_engines
from edge.inference.classifier import Classifier
from edge.progress import OnProgress, ignore_progress

MIXED_PRECISION = "auto"
"""Name of the precision in which every segment has the fastest that keeps the answers."""


def load(
    bundle: str | Path,
    *,
    backend: str = "auto",
    precision: str = "auto",
    thresholds: ArrayLike | None = None,
    threads: int = 1,
    on_progress: OnProgress = ignore_progress,
) -> Classifier:
    """Load a bundle for this machine. Engines missing in the cache are built.

    Args:
        bundle: Folder made by `python -m compile`.
        backend: `onnxruntime`, `tensorrt` or `tensorrt-rtx`; `auto` is TensorRT where it and a GPU are present, else
            ONNX Runtime.
        precision: One of the bundle's; `auto` is its mixed precision where it has one, else int8 on GPUs and fp32 on
            CPUs.
        thresholds: One for each exit but the last; by default the fitted ones.
        threads: CPU threads per segment; 0 uses all cores.
        on_progress: Receives the progress of building engines.

    Raises:
        BundleError: the bundle is missing, damaged or of another version, or lacks the precision.
        EngineError: the backend is not installed, or an engine cannot be built or run here.
        ThresholdError: thresholds are NaN, infinite, negative or of the wrong number.
    """
    opened, library = Bundle.open(Path(bundle)), backend_named(backend, threads=threads)
    selected = default_precision(opened, library) if precision == "auto" else precision
    return load_classifier(opened, selected, library, thresholds, on_progress)


def load_classifier(
    bundle: Bundle,
    precision: str,
    backend: Backend,
    thresholds: ArrayLike | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Classifier:
    """Load, and where needed build, the engines of one precision.

    Raises:
        BundleError: the bundle does not have this precision.
        EngineError: an engine cannot be built or run here.
        ThresholdError: thresholds are NaN, infinite, negative or of the wrong number.
    """
    spec, files = bundle.precision(precision), bundle.manifest.files
    load_chain = partial(load_engines, bundle.path, spec.segments, backend, on_progress=on_progress, files=files)
    return Classifier(
        bundle.chain(precision),
        load_chain(),
        spec.thresholds.values if thresholds is None else thresholds,
        device=backend.device,
        load_batch_engines=partial(load_chain, batch=None),
    )


def load_whole_network(
    bundle: Bundle, precision: str, backend: Backend, on_progress: OnProgress = ignore_progress
) -> Classifier:
    """Load the network without its early exits as one engine.

    Raises:
        BundleError: the bundle does not have this precision.
        EngineError: the engine cannot be built or run here.
    """
    chain = bundle.whole_network(precision)
    files = bundle.manifest.files
    engines = load_engines(bundle.path, chain.segments, backend, on_progress=on_progress, files=files)
    return Classifier(chain, engines, (), device=backend.device)


def default_precision(bundle: Bundle, backend: Backend) -> str:
    """Return the fastest precision on a backend that the bundle has; ONNX Runtime emulates int8 in float."""
    fastest = "fp32" if backend.device == "cpu" else "int8"
    available = bundle.manifest.precisions
    return next((name for name in (MIXED_PRECISION, fastest) if name in available), next(iter(available)))
