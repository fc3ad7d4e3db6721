"""`python -m benchmarks cpu`: tables and a picture of bundles and random networks on a CPU."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.cpu.networks import NETWORKS, measure_random
from benchmarks.cpu.throughput import Throughput, over_batches, over_cameras
from benchmarks.cpu.variants import Row, integers_against_emulation, measure_bundle, speed_ratios
from benchmarks.results import add_output, command_line, write_result
from edge.bundle.bundle import Bundle
from edge.console import PASSED, ProgressDisplay, print_table, track
from edge.parity.compare import Parity
from edge.system import conditions, with_end

FRAMES, TURNS = 200, 7
QUICK_FRAMES, QUICK_TURNS = 10, 2
RANDOM_FRAMES = 20
"""Frames of a turn of the networks with random weights, whose time hardly varies."""
BATCH_IMAGES = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the benchmark."""
    parser.add_argument(
        "bundles",
        nargs="+",
        type=named_bundle,
        metavar="NAME=BUNDLE",
        help="bundle in fp32 and int8, with the name of its network: cnn=runs/demo-fashion-mnist/bundle",
    )
    parser.add_argument(
        "--random",
        nargs="*",
        choices=tuple(NETWORKS),
        default=[],
        metavar="NAME",
        help=f"whole networks with random weights: {', '.join(NETWORKS)}",
    )
    parser.add_argument("--quick", action="store_true", help="fewer frames and turns, to try the command")
    add_output(parser, "runs/cpu.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Measure, print, draw and record.

    Raises:
        EdgeError: a bundle lacks a precision, or an engine cannot be built or run here.
    """
    before = conditions()
    frames, turns = (QUICK_FRAMES, QUICK_TURNS) if arguments.quick else (FRAMES, TURNS)
    rows: list[Row] = []
    throughput: list[Throughput] = []
    integers: dict[str, Parity] = {}
    with ProgressDisplay() as display:
        for name, path in arguments.bundles:
            bundle = Bundle.open(path)
            rows += measure_bundle(name, bundle, frames, turns, display)
            integers[name] = integers_against_emulation(bundle, display)
            throughput += over_batches(name, bundle, BATCH_IMAGES, turns, display)
            throughput += over_cameras(name, bundle, frames, turns, display)
    for name in track(arguments.random, "networks with random weights"):
        rows += measure_random(name, min(frames, RANDOM_FRAMES), turns)
    ratios = speed_ratios(rows)
    result = {
        "ratios": ratios,
        "rows": [asdict(row) for row in rows],
        "integers_against_emulation": {name: asdict(parity) for name, parity in integers.items()},
        "throughput": [asdict(each) for each in throughput],
        "quick": arguments.quick,
        "command": command_line(),
        "conditions": with_end(before),
    }
    write_result(arguments.output, result)
    draw(arguments.output.with_suffix(".svg"), rows)
    print_rows(rows, ratios, integers)
    print_throughput(throughput)
    print(f"wrote {arguments.output}")
    return PASSED


def named_bundle(text: str) -> tuple[str, Path]:
    """Parse `NAME=BUNDLE`, for argparse."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=BUNDLE, such as cnn=runs/demo-fashion-mnist/bundle")
    return name, Path(path)


def print_rows(rows: Sequence[Row], ratios: Mapping[str, float], integers: Mapping[str, Parity]) -> None:
    """Print time and accuracy of every variant, the ratios, and the agreement of integers with their emulation."""
    cells = []
    for row in rows:
        accuracy = "random weights" if row.accuracy is None else f"{row.accuracy:.2%}"
        shares = " / ".join(f"{share:.0%}" for share in row.exit_shares)
        cells.append((row.name, str(row.variant), f"{row.ms.median:.4f}", f"{row.ms.iqr:.4f}", accuracy, shares))
    columns = ("network", "variant", "median ms", "IQR", "accuracy", "exit shares")
    print_table("time from available frame to known decision, mean of a turn, one thread", columns, cells)
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}x as fast")
    for name, parity in integers.items():
        agreement = " / ".join(f"{exit_.top1_agreement:.2%}" for exit_ in parity.exits)
        print(
            f"{name}: integers and emulation take the same exit on {parity.exit_index_agreement:.2%}, top-1 {agreement}"
        )


def print_throughput(throughput: Sequence[Throughput]) -> None:
    """Print images a second by batch size and by number of cameras."""
    rows = []
    for each in throughput:
        rates = zip(each.values, each.images_per_s, strict=True)
        cell = "   ".join(f"{value}: {rate:,.0f}" for value, rate in rates)
        rows.append((each.name, f"{each.precision} {each.network} {each.backend}", each.quantity, cell))
    print_table("images a second", ("network", "variant", "over", "rates"), rows)


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Draw the speed of every variant over that of fp32 without exits on OpenVINO, by network."""
    from matplotlib.figure import Figure

    base = {row.name: row.ms.median for row in rows if str(row.variant) == "fp32 whole openvino"}
    figure = Figure(figsize=(8, 0.5 + 0.25 * len(rows)), layout="constrained")
    axes = figure.subplots()
    labels = [f"{row.name}: {row.variant}" for row in rows]
    speeds = [base.get(row.name, math.nan) / row.ms.median for row in rows]
    colours = ["C1" if row.network == "exits" else "C0" for row in rows]
    axes.barh(labels, speeds, color=colours)
    axes.invert_yaxis()
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set(xlabel="times as fast as fp32 without exits on OpenVINO")
    figure.savefig(path, format="svg")
