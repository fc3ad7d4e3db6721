"""Bundle to classifier: select backend and precision, load the engines."""

from functools import partial
from pathlib import Path

from numpy.typing import ArrayLike

from edge.bundle.bundle import Bundle
from edge.bundle.signing import read_verifying_key
from edge.cuda.base import Sync
from edge.decision import validate_thresholds
from edge.engines.base import Backend
from edge.engines.cache import load_engines
from edge.errors import BundleError, SignatureError
from edge.inference.classifier import Classifier
from edge.inference.selection import Threads, select
from edge.inference.slots import check_device
from edge.progress import OnProgress, ignore_progress


def load(
    bundle: str | Path,
    *,
    backend: str = "auto",
    precision: str = "auto",
    thresholds: ArrayLike | None = None,
    threads: Threads = 1,
    gpu_sync: Sync | None = None,
    require_signature: str | Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Classifier:
    """Load a bundle for this machine. Engines that the cache lacks are built.

    Args:
        bundle: Folder made by `python -m compile`.
        backend: `onnxruntime`, `openvino`, `tensorrt` or `tensorrt-rtx`; `auto` is TensorRT if it is installed and
            there is a GPU, else the fastest that `edge build` measured, else ONNX Runtime.
        precision: A precision of the bundle; `auto` is its mixed precision if it has one, else fp32 on ONNX Runtime
            and int8 on others.
        thresholds: A threshold for each exit but the last; by default the fitted thresholds.
        threads: CPU threads per segment; 0 uses all cores, `auto` the fastest number that `edge build` measured,
            else 1.
        gpu_sync: How threads wait for a GPU: `spin` takes a core, `block` takes longer; by default the better one, by
            timing.
        require_signature: Public key that must have signed the bundle, a file of `edge keygen`; None to load unsigned
            bundles, too.
        on_progress: Receives the progress of building engines.

    Raises:
        BundleError: the bundle is missing, damaged or of another version, or lacks the precision.
        SignatureError: the bundle is not signed by the key.
        EngineError: the backend is not installed, or an engine cannot be built or run on this machine.
        ThresholdError: a threshold is NaN, infinite or negative, or their count is wrong.
    """
    if not isinstance(bundle, str | Path):
        raise BundleError(f"{type(bundle).__name__} is not a path; give a folder made by `python -m compile`")
    if not isinstance(require_signature, str | Path | None):
        raise SignatureError(
            f"{type(require_signature).__name__} is not a path; give public.pem of a folder made by `edge keygen`"
        )
    key = None if require_signature is None else read_verifying_key(Path(require_signature))
    opened = Bundle.open(Path(bundle), key)
    selected = select(opened, backend, precision, threads, gpu_sync=gpu_sync)
    return load_classifier(opened, selected.precision, selected.backend, thresholds, on_progress)


def load_classifier(
    bundle: Bundle,
    precision: str,
    backend: Backend,
    thresholds: ArrayLike | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Classifier:
    """Load the engines of one precision, and build missing engines.

    Raises:
        BundleError: the bundle does not have this precision.
        EngineError: an engine cannot be built or run on this machine.
        ThresholdError: a threshold is NaN, infinite or negative, or their count is wrong.
    """
    spec, files = bundle.precision(precision), bundle.manifest.files
    values = validate_thresholds(spec.thresholds.values if thresholds is None else thresholds, len(spec.segments))
    check_device(backend.device)
    load_chain = partial(load_engines, bundle.path, spec.segments, backend, on_progress=on_progress, files=files)
    return Classifier(
        bundle.chain(precision),
        load_chain(),
        values,
        device=backend.device,
        load_batch_engines=partial(load_chain, batch=None),
    )


def load_whole_network(
    bundle: Bundle, precision: str, backend: Backend, on_progress: OnProgress = ignore_progress
) -> Classifier:
    """Load the network without its early exits as one engine.

    Raises:
        BundleError: the bundle does not have this precision.
        EngineError: the engine cannot be built or run on this machine.
    """
    chain, files = bundle.whole_network(precision), bundle.manifest.files
    check_device(backend.device)
    engines = load_engines(bundle.path, chain.segments, backend, on_progress=on_progress, files=files)
    return Classifier(chain, engines, (), device=backend.device)
