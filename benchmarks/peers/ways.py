"""Ways to classify the images of a demo: early exits, and their peers."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.peers.loops import Predict, compiled_stages, earlyon_staged, session_loop, torch_loop, torch_stages
from calibration.operating_points import OperatingPoint, within_budget
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
BUDGETS = 24
"""Operating points of each precision."""
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
    """Yield early exits on every backend, in every precision and at each budget."""
    bundle = Bundle.open(demo / "bundle")
    for precision in bundle.manifest.precisions:
        points = budgeted(bundle, precision)
        for backend in CPU_BACKENDS:
            classifier = load_classifier(bundle, precision, backend_named(backend))
            for point in points:
                name = f"{point.cost_ratio:.0%} of the MACs, {precision}, {backend}"
                yield name, label_of(classifier.with_thresholds(point.thresholds))


def budgeted(bundle: Bundle, precision: str) -> list[OperatingPoint]:
    """Return the operating points of evenly spaced budgets, from the first exit's cost to the whole chain's."""
    fitting, macs = bundle.scores(precision), [exit_.macs for exit_ in bundle.manifest.exits]
    budgets = np.linspace(macs[0] / sum(macs), 1.0, BUDGETS).tolist()
    points = [within_budget(fitting.scores, fitting.truth, macs, budget) for budget in budgets]
    return list({f"{point.cost_ratio:.0%}": point for point in points}.values())


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
