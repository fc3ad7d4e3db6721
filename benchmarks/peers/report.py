"""`python -m benchmarks peers`: early exits beside their peers, by turns in one run, at equal accuracy.

The networks and images are those of a demo: its trained network, its bundle, and the networks truncated at each exit
and trained alone. Each peer has one rival, the early exits that are chosen on the split that fits thresholds.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.choice import EQUAL_ACCURACY, Run, choose, is_ahead
from benchmarks.peers.loops import Predict
from benchmarks.peers.ways import NEEDED, check_peers, early_exits, peers
from benchmarks.results import add_output, command_line, write_result
from compile.trained_model import TrainedModel, load_trained_model
from edge.bundle.bundle import Bundle
from edge.console import PASSED, print_table, track
from edge.measure.bench import TURN_FRAMES, WARM_UP_FRAMES
from edge.measure.interleave import LEADING_ITEMS, interleave
from edge.system import conditions, with_end
from edge.training.checkpoint import read_checkpoint

QUICK_FRAMES, FRAMES = 100, 5_000


@dataclass(frozen=True, slots=True, eq=False)
class Duel:
    """A peer and the early exits chosen beside it, on test images."""

    peer: Run
    ours: Run

    @property
    def is_ahead(self) -> bool:
        """Check that early exits are ahead of the peer."""
        return is_ahead(self.ours, self.peer)

    def as_row(self) -> dict[str, Any]:
        """Return the row of the record."""
        return {
            "name": self.peer.name,
            "ms_mean": self.peer.ms_mean,
            "accuracy": self.peer.accuracy,
            "early_exits": self.ours.name,
            "early_exits_ms_mean": self.ours.ms_mean,
            "early_exits_accuracy": self.ours.accuracy,
            "speedup": self.peer.ms_mean / self.ours.ms_mean,
            "ahead": self.is_ahead,
        }

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        times = f"{self.peer.ms_mean:.3f}", f"{self.ours.ms_mean:.3f}"
        accuracies = f"{self.peer.accuracy:.2%}", f"{self.ours.accuracy:.2%}"
        verdict = "yes" if self.is_ahead else "NO"
        speedup = f"{self.peer.ms_mean / self.ours.ms_mean:.2f}x"
        return self.peer.name, times[0], accuracies[0], self.ours.name, times[1], accuracies[1], speedup, verdict


COLUMNS = ("peer", "ms", "accuracy", "early exits beside it", "ms", "accuracy", "speed-up", "ahead")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the comparison."""
    parser.epilog = f"Needs the compiler g++, {' and '.join(NEEDED.values())}."
    parser.add_argument("demo", type=Path, metavar="DEMO", help="output of `python -m benchmarks demo`")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the dataset's files, if in no usual place")
    parser.add_argument("--quick", action="store_true", help="fewer images, to try the command")
    add_output(parser, "runs/peers.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Measure, print and record.

    Raises:
        EdgeError: the folder is not a demo, a peer is not installed, or a network cannot be loaded.
    """
    check_peers()
    before = conditions()
    torch.set_num_threads(1)
    trained = load_trained_model(read_checkpoint(arguments.demo / "training/checkpoint.pt"), arguments.data)
    ours, others = dict(early_exits(arguments.demo)), dict(peers(arguments.demo, trained.checkpoint.network()))
    images = QUICK_FRAMES if arguments.quick else FRAMES
    duels = compete(ours, others, trained, images)
    result = {
        "network": Bundle.open(arguments.demo / "bundle").manifest.name,
        "images": len(duels[0].peer.correct),
        "equal_accuracy": EQUAL_ACCURACY,
        "rows": [duel.as_row() for duel in duels],
        "ahead_of_all_at_equal_accuracy": all(duel.is_ahead for duel in duels),
        "quick": arguments.quick,
        "command": command_line(),
        "conditions": with_end(before),
    }
    write_result(arguments.output, result)
    draw(arguments.output.with_suffix(".svg"), duels)
    print_table(
        f"mean ms over {result['images']} test images, one thread, by turns", COLUMNS, [duel.cells() for duel in duels]
    )
    print(f"wrote {arguments.output} and {arguments.output.with_suffix('.svg')}")
    return PASSED


def compete(
    ours: Mapping[str, Predict], others: Mapping[str, Predict], trained: TrainedModel, images: int
) -> list[Duel]:
    """Run everything on two splits: on the first, choose early exits beside each peer; on the other, compare them."""
    ways = {**ours, **others}
    fitting, test = (measure(ways, trained, split, images) for split in ("thresholds", "test"))
    choices = [choose(peer, fitting[: len(ours)]) for peer in fitting[len(ours) :]]
    return [Duel(peer, test[choice]) for peer, choice in zip(test[len(ours) :], choices, strict=True)]


def measure(ways: Mapping[str, Predict], trained: TrainedModel, split: str, images: int) -> list[Run]:
    """Classify images of a split in every way, in turns."""
    frames, labels = list(trained.frames(split, images)), trained.labels(split, images)
    interleave(list(ways.values()), frames[:WARM_UP_FRAMES])
    timed = interleave(list(ways.values()), track(frames, f"{split} images"), block=TURN_FRAMES, leading=LEADING_ITEMS)
    return [
        Run(name, series.times_ms, np.array(series.results) == labels) for name, series in zip(ways, timed, strict=True)
    ]


def draw(path: Path, duels: Sequence[Duel]) -> None:
    """Plot the time of each peer as a bar, and that of the early exits beside it as a line across it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.25 * len(duels)), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(duels, key=lambda duel: duel.peer.ms_mean)
    names = [f"{duel.peer.name} ({duel.peer.accuracy:.1%})" for duel in ordered]
    axes.barh(names, [duel.peer.ms_mean for duel in ordered], color="lightgrey", label="peer (its accuracy)")
    ours = [duel.ours.ms_mean for duel in ordered]
    axes.plot(ours, range(len(ordered)), "|", color="C1", markersize=9, markeredgewidth=3,
              label="early exits of its accuracy")  # fmt: skip
    axes.set(xscale="log", xlabel="mean ms per test image, one thread")
    axes.tick_params(axis="y", labelsize=7)
    axes.legend()
    figure.savefig(path, format="svg")
