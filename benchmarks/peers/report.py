"""Early exits beside every other way to run the same network on a CPU: by turns in one run, at equal accuracy.

The networks and test images are those of a demo: its trained network, its bundle, and the networks truncated at each
exit and trained alone, which are the smaller static networks.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peer_loops import Predict, earlyon_staged, session_loop, torch_loop, torch_stages
from benchmarks.results import add_output, command_line, write_result
from benchmarks.truncated import matched_thresholds
from compile.trained_model import TrainedModel, load_trained_model
from edge.bundle.bundle import Bundle
from edge.console import PASSED, log, print_table, track
from edge.engines import backend_named
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier, load_whole_network
from edge.measure.interleave import interleave
from edge.system import conditions, with_end
from edge.training.checkpoint import read_checkpoint

EQUAL_ACCURACY = 0.005
"""Accuracy that early exits may lose to a peer, the limit of the demo's guarantee."""
QUICK_FRAMES, FRAMES = 100, 5_000
CPU_BACKENDS = ("onnxruntime", "openvino")
OURS = "early exits"
VERDICTS = {True: "yes", False: "NO", None: ""}


@dataclass(frozen=True, slots=True)
class Row:
    """One way to classify the test images."""

    name: str
    is_ours: bool
    ms_mean: float
    accuracy: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the comparison."""
    parser.add_argument("demo", type=Path, metavar="DEMO", help="output of `python -m benchmarks demo`")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the dataset's files, if in no usual place")
    parser.add_argument("--quick", action="store_true", help="fewer images, to try the command")
    add_output(parser, "runs/peers.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Measure, print and record.

    Raises:
        EdgeError: the folder is not a demo, or a network cannot be loaded.
    """
    before = conditions()
    torch.set_num_threads(1)
    trained = load_trained_model(read_checkpoint(arguments.demo / "training/checkpoint.pt"), arguments.data)
    count = QUICK_FRAMES if arguments.quick else FRAMES
    frames, labels = list(trained.frames("test", count)), trained.labels("test", count)
    ways = {**dict(own_ways(arguments.demo)), **dict(peers(arguments.demo, trained))}
    rows = measure(ways, frames, labels)
    ahead = {row.name: is_ahead(row, rows) for row in rows if not row.is_ours}
    result = {
        "network": Bundle.open(arguments.demo / "bundle").manifest.name,
        "images": len(frames),
        "equal_accuracy": EQUAL_ACCURACY,
        "rows": [asdict(row) | {"ahead_of_it": ahead.get(row.name)} for row in rows],
        "ahead_of_all_at_equal_accuracy": all(ahead.values()),
        "quick": arguments.quick,
        "command": command_line(),
        "conditions": with_end(before),
    }
    write_result(arguments.output, result)
    draw(arguments.output.with_suffix(".svg"), rows)
    title, columns = f"{len(frames)} test images, one thread, by turns", ("way", "mean ms", "accuracy", "ahead of it")
    print_table(title, columns, [(*cells(row), VERDICTS[ahead.get(row.name)]) for row in rows])
    print(f"wrote {arguments.output}")
    return PASSED


def is_ahead(peer: Row, rows: Sequence[Row]) -> bool:
    """Check for early exits that are faster than a peer at equal accuracy."""
    return any(
        row.is_ours and row.ms_mean < peer.ms_mean and row.accuracy >= peer.accuracy - EQUAL_ACCURACY for row in rows
    )


def measure(ways: Mapping[str, Predict], frames: Sequence[Frame], labels: NDArray[np.int64]) -> list[Row]:
    """Classify every frame in every way, in turns."""
    interleave(list(ways.values()), frames[:20])
    timed = interleave(list(ways.values()), track(frames, "peers"))
    accuracies = [float((np.array(series.results) == labels).mean()) for series in timed]
    return [
        Row(name, name.startswith(OURS), float(series.times_ms.mean()), accuracy)
        for name, series, accuracy in zip(ways, timed, accuracies, strict=True)
    ]


def cells(row: Row) -> tuple[str, str, str]:
    """Return the table cells of a row."""
    return row.name, f"{row.ms_mean:.3f}", f"{row.accuracy:.2%}"


def own_ways(demo: Path) -> Iterator[tuple[str, Predict]]:
    """Yield early exits, with fitted thresholds and with those that match the accuracy of each smaller network."""
    bundle = Bundle.open(demo / "bundle")
    for backend in installed_backends():
        for precision in bundle.manifest.precisions:
            classifier = load_classifier(bundle, precision, backend_named(backend))
            yield f"{OURS}, {precision} on {backend}", label_of(classifier)
            for k, rival in enumerate(smaller_networks(demo)):
                thresholds = matched_thresholds(bundle, rival, k, precision)
                matched = classifier.with_thresholds(thresholds)
                yield f"{OURS} beside truncation {k}, {precision} on {backend}", label_of(matched)


def peers(demo: Path, trained: TrainedModel) -> Iterator[tuple[str, Predict]]:
    """Yield all other ways."""
    bundle, network = Bundle.open(demo / "bundle"), trained.checkpoint.network()
    thresholds, spec = bundle.precision("fp32").thresholds.values, bundle.manifest.input
    stages = torch_stages(network)
    yield "PyTorch eager loop", torch_loop(stages, thresholds, spec)
    yield "torch.compile loop", torch_loop([torch.compile(stage) for stage in stages], thresholds, spec)
    for precision in bundle.manifest.precisions:
        yield f"session.run per segment, {precision}", session_loop(bundle, precision)
    if staged := earlyon_staged(network, thresholds, bundle):
        yield "earlyon 0.3.0 StagedModel", staged
    else:
        log("earlyon is not installed and has no row; pip install earlyon==0.3.0")
    for backend in installed_backends():
        for precision in bundle.manifest.precisions:
            whole = load_whole_network(bundle, precision, backend_named(backend))
            yield f"whole network, {precision} on {backend}", label_of(whole)
            for k, rival in enumerate(smaller_networks(demo)):
                small = load_classifier(rival, precision, backend_named(backend))
                yield f"truncated at exit {k}, trained alone, {precision} on {backend}", label_of(small)


def installed_backends() -> list[str]:
    """Return the backends for CPUs that this machine can import."""
    return [name for name in CPU_BACKENDS if find_spec(name)]


def smaller_networks(demo: Path) -> list[Bundle]:
    """Return the networks truncated at each exit but the last, trained alone."""
    exits = len(Bundle.open(demo / "bundle").manifest.exits)
    return [Bundle.open(demo / f"truncated-{k}" / "bundle") for k in range(exits - 1)]


def label_of(classifier: Classifier) -> Predict:
    """Return the classification of a frame as its label's index."""
    return lambda frame: classifier.predict(frame).label_index


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Plot accuracy over mean time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        marker, colour = ("*", "C1") if row.is_ours else ("o", "grey")
        axes.plot(row.ms_mean, 100 * row.accuracy, marker, color=colour)
        axes.annotate(row.name, (row.ms_mean, 100 * row.accuracy), fontsize=6)
    axes.set(xscale="log", xlabel="mean ms per image, one thread", ylabel="accuracy on test images, %")
    axes.grid(alpha=0.3)
    figure.savefig(path, format="svg")
