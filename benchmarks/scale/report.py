"""`python -m benchmarks scale`: growth of cost over exits, pixels, threads, cameras and nodes."""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.demo import stage
from benchmarks.live.networks import Workload
from benchmarks.real_size import write_images
from benchmarks.results import add_output, command_line, write_result
from benchmarks.scale.cameras import CameraGrowth, over_cameras
from benchmarks.scale.growth import Growth, over_exits, over_pixels
from benchmarks.scale.nodes import ray_ratio
from edge.bundle.bundle import Bundle
from edge.console import PASSED, print_table
from edge.system import conditions, with_end

EXITS, SIZES, CAMERAS = (2, 4, 8, 16), (32, 64, 128, 256, 512), (1, 2, 4, 8, 16, 32)
TARGETS = {"over_linear": "<= 1", "mb_per_camera": "<= 5", "ray_ratio": ">= 0.8"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    add_output(parser, "runs/scale", "DIR")
    parser.add_argument("--quick", action="store_true", help="fewer frames and rounds, to try the command")


def main(arguments: argparse.Namespace) -> int:
    """Measure, draw, print and record.

    Raises:
        EdgeError: a stage failed.
    """
    folder, quick = arguments.output, arguments.quick
    before = conditions()
    shutil.rmtree(folder / "networks", ignore_errors=True)
    growths = [
        *over_exits(EXITS, 30 if quick else 500, folder / "networks"),
        *over_pixels(SIZES, 10 if quick else 60, folder / "networks"),
    ]
    small, large = (random_bundle(folder / name, name, size) for name, size in (("cnn", 32), ("resnet18", 224)))
    workload = Workload("CNN 32x32", small, folder / "unused", 0, ())
    cameras = over_cameras(workload, CAMERAS, 10_000 if quick else 40_000, 1 if quick else 3, folder)
    shutil.rmtree(folder / "nodes", ignore_errors=True)
    nodes = ray_ratio(large, 8 if quick else 40, 1 if quick else 3, folder / "nodes")
    result = as_result(growths, cameras, nodes)
    draw(folder / "scale.svg", growths, cameras)
    record = {"quick": quick, "command": command_line(), "conditions": with_end(before)}
    write_result(folder / "scale.json", result | record)
    print_table("growth", ("quantity", "figure", "value", "target"), rows(result))
    print(f"wrote {folder / 'scale.json'} and {folder / 'scale.svg'}")
    return PASSED


def random_bundle(folder: Path, backbone: str, size: int) -> Bundle:
    """Return a network trained for an epoch on synthetic images, from the folder if it is there; only time counts."""
    if not (folder / "bundle").exists():
        write_images(folder / "images")
        stage("edge.training", "--dataset", "folder", "--data", folder / "images", "--image-size", size, "--backbone",
              backbone, "--epochs", 1, "--batch-size", 16, "--output", folder / "training")  # fmt: skip
        stage("compile", folder / "training/checkpoint.pt", "--output", folder / "bundle", "--precision", "fp32",
              "--method", "none")  # fmt: skip
    return Bundle.open(folder / "bundle")


def as_result(growths: Sequence[Growth], cameras: CameraGrowth, nodes: dict[str, Any]) -> dict[str, Any]:
    """Return all figures as they are recorded."""
    return {
        "weights": "random, or trained for one epoch on synthetic images",
        "growth": [asdict(growth) | {"over_linear": growth.over_linear} for growth in growths],
        "cameras": asdict(cameras) | {"over_linear": cameras.over_linear, "mb_per_camera": cameras.mb_per_camera},
        "ray": nodes,
    }


def rows(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return the table of figures beside their targets."""
    table = [
        (f"{growth['quantity']} {growth['values'][0]} to {growth['values'][-1]}, {growth['threads']} threads",
         "cost over linear", f"{growth['over_linear']:.2f}", TARGETS["over_linear"])
        for growth in result["growth"]
    ]  # fmt: skip
    cameras = f"cameras {result['cameras']['cameras'][0]} to {result['cameras']['cameras'][-1]}"
    table.append((cameras, "cost over linear", f"{result['cameras']['over_linear']:.2f}", TARGETS["over_linear"]))
    memory = f"{result['cameras']['mb_per_camera']:.1f}"
    table.append((cameras, "MB per camera, without its frames", memory, TARGETS["mb_per_camera"]))
    table.append(("two Ray nodes", "over two processes", f"{result['ray']['ratio']:.2f}", TARGETS["ray_ratio"]))
    return table


def draw(path: Path, growths: Sequence[Growth], cameras: CameraGrowth) -> None:
    """Plot the cost of a frame over each quantity beside linear growth, and the memory over cameras."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), layout="constrained")
    *panels, memory = figure.subplots(1, 4)
    by_quantity = dict(zip(("exits", "pixels", "cameras"), panels, strict=True))
    for growth in growths:
        by_quantity[growth.quantity].loglog(growth.values, growth.cost_ms, "o-", label=f"{growth.threads} threads")
    total = [ms * count for ms, count in zip(cameras.ms_per_frame, cameras.cameras, strict=True)]
    by_quantity["cameras"].loglog(cameras.cameras, total, "o-", label="one process")
    for quantity, axes in by_quantity.items():
        values, costs = axes.lines[0].get_data()
        axes.loglog(values, [costs[0] * value / values[0] for value in values], ":", color="grey", label="linear")
        axes.set_xticks(values, [f"{value:,}" for value in values], rotation=45)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set(xlabel=quantity, ylabel="ms for a frame of each camera" if quantity == "cameras" else "ms per frame")
        axes.legend()
    memory.plot(cameras.cameras, cameras.memory_mb, "o-")
    memory.set(xlabel="cameras", ylabel="memory, MB", ylim=(0, None))
    figure.savefig(path, format="svg")
