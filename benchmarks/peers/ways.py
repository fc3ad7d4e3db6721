"""Ways to classify the images of a demo: early exits, and their peers."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from benchmarks.peers.loops import Predict, compiled_stages, earlyon_staged, session_loop, torch_loop, torch_stages
from benchmarks.truncated import matched_thresholds
from edge.bundle.bundle import Bundle
from edge.engines import CPU_BACKENDS, backend_named
from edge.errors import UnavailableError
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier, load_whole_network
from edge.training.network import MultiExitNetwork

NEEDED = {
    "openvino": "pip install '.[openvino]'",
    "earlyon": "pip install --no-deps earlyon==0.3.0",
}
"""Libraries of peers, and how to install them."""
COMPILER = "g++"
"""`torch.compile` calls it."""


def check_peers() -> None:
    """Check that every peer can run here.

    Raises:
        UnavailableError: a library or the compiler is missing.
    """
    for module, remedy in NEEDED.items():
        if find_spec(module) is None:
            raise UnavailableError(f"{module} is not installed, and early exits are compared with it; {remedy}")
    if shutil.which(COMPILER) is None:
        raise UnavailableError(f"torch.compile needs {COMPILER}, which is not installed; apt-get install {COMPILER}")


def early_exits(demo: Path) -> Iterator[tuple[str, Predict]]:
    """Yield early exits on every backend in every precision, with fitted thresholds and beside each truncation."""
    bundle = Bundle.open(demo / "bundle")
    for backend in CPU_BACKENDS:
        for precision in bundle.manifest.precisions:
            classifier = load_classifier(bundle, precision, backend_named(backend))
            yield f"fitted thresholds, {precision}, {backend}", label_of(classifier)
            for k, rival in enumerate(trained_alone(demo)):
                matched = classifier.with_thresholds(matched_thresholds(bundle, rival, precision))
                yield f"beside truncation {k}, {precision}, {backend}", label_of(matched)


def peers(demo: Path, network: MultiExitNetwork) -> Iterator[tuple[str, Predict]]:
    """Yield all other ways."""
    bundle = Bundle.open(demo / "bundle")
    thresholds, spec = bundle.precision("fp32").thresholds.values, bundle.manifest.input
    stages = torch_stages(network)
    yield "PyTorch eager loop", torch_loop(stages, thresholds, spec)
    yield "torch.compile loop", torch_loop(compiled_stages(stages, spec), thresholds, spec)
    yield "earlyon 0.3.0 StagedModel", earlyon_staged(network, thresholds, bundle)
    for precision in bundle.manifest.precisions:
        yield f"session.run per segment, {precision}", session_loop(bundle, precision)
    for backend in CPU_BACKENDS:
        for precision in bundle.manifest.precisions:
            whole = load_whole_network(bundle, precision, backend_named(backend))
            yield f"whole network, {precision}, {backend}", label_of(whole)
            for k, rival in enumerate(trained_alone(demo)):
                alone = load_classifier(rival, precision, backend_named(backend))
                yield f"truncated at exit {k}, {precision}, {backend}", label_of(alone)


def trained_alone(demo: Path) -> list[Bundle]:
    """Return the networks truncated at each exit and trained alone; the last is the whole one without early exits."""
    exits = len(Bundle.open(demo / "bundle").manifest.exits)
    return [Bundle.open(demo / f"truncated-{k}" / "bundle") for k in range(exits)]


def label_of(classifier: Classifier) -> Predict:
    """Return the classification of a frame as its label's index."""
    return lambda frame: classifier.predict(frame).label_index
