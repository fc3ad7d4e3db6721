"""A ResNet-18 at 224x224 on a 1080p video, through `edge run` with each exit forced."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.demo import stage
from benchmarks.memory import peak_rss_mb_over_bare
from benchmarks.results import add_output, command_line, write_result
from benchmarks.video import write_video
from compile.precisions import DEFAULT_PRECISIONS as PRECISIONS
from edge.bundle.bundle import Bundle
from edge.console import PASSED, print_table, track
from edge.live.messages import DURATIONS
from edge.measure.latency import latency_from_ms
from edge.system import conditions

CLASSES, IMAGES_PER_CLASS, FRAMES = 4, 120, 200
STAGES = [name.removesuffix("_ms") for name in DURATIONS]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    add_output(parser, "runs/real-size", "DIR")


def main(arguments: argparse.Namespace) -> int:
    """Run a ResNet-18 at 224x224 on a 1080p video."""
    run_real_size(arguments.output)
    return PASSED


def run_real_size(folder: Path) -> None:
    """Train for one epoch on synthetic images, compile, run a synthetic video; the accuracy is meaningless.

    Raises:
        EdgeError: a stage failed.
    """
    before = conditions()
    write_images(folder / "images")
    stage("edge.training", "--dataset", "folder", "--data", folder / "images", "--image-size", 224, "--backbone",
          "resnet18", "--epochs", 1, "--batch-size", 16, "--output", folder / "training")  # fmt: skip
    stage("compile", folder / "training/checkpoint.pt", "--output", folder / "bundle", "--method", "none")
    stage("edge", "build", folder / "bundle", "--backend", "onnxruntime")
    video = folder / "1080p.avi"
    write_video(video, track(moving_images(FRAMES, height=1080, width=1920), "writing a 1080p video", FRAMES))
    bundle = Bundle.open(folder / "bundle")
    result: dict[str, Any] = {"network": "resnet18 224x224", "video": "1920x1080 FFV1", "frames": FRAMES}
    result["precisions"] = {}
    for precision in PRECISIONS:
        result["precisions"][precision] = forced_exits(bundle, precision, video, folder)
        result["precisions"][precision]["memory"] = peak_rss_mb_over_bare(bundle, precision, video)
    write_result(folder / "real_size.json", result | {"command": command_line(), "conditions": before})
    print_result(result)
    print(f"wrote {folder / 'real_size.json'}")


def forced_exits(bundle: Bundle, precision: str, video: Path, folder: Path) -> dict[str, Any]:
    """Run the video once with each exit forced, and return the latency of each stage."""
    early = len(bundle.manifest.exits) - 1
    latency = {}
    for exit_index in range(early + 1):
        lines = folder / f"{precision}-exit-{exit_index}.jsonl"
        thresholds = [word for k in range(early) for word in ("--threshold", 2 if k < exit_index else 0)]
        stage("edge", "run", bundle.path, "--source", video, "--precision", precision, *thresholds,
              "--output", lines, "--overwrite")  # fmt: skip
        records = [json.loads(line) for line in lines.read_text().splitlines()]
        latency[f"exit {exit_index}"] = {
            name: asdict(latency_from_ms([record[f"{name}_ms"] for record in records])) for name in STAGES
        }
    return latency


def write_images(folder: Path) -> None:
    """Write class folders of synthetic images."""
    for label in range(CLASSES):
        (folder / f"class-{label}").mkdir(parents=True, exist_ok=True)
        images = moving_images(IMAGES_PER_CLASS, height=240, width=320, seed=label)
        for index, image in enumerate(images):
            cv2.imwrite(str(folder / f"class-{label}" / f"{index:03}.png"), image)


def moving_images(count: int, *, height: int, width: int, seed: int = 0) -> Iterator[NDArray[np.uint8]]:
    """Yield images of soft colour patches with a moving disc; colours depend on the seed."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (9, 16, 3), dtype=np.uint8)
    for index in range(count):
        image = cv2.resize(np.roll(small, index, axis=1), (width, height), interpolation=cv2.INTER_CUBIC)
        centre = (int(width * (index % 50) / 50), int(height * (0.3 + 0.1 * seed)))
        cv2.circle(image, centre, height // 6, (60 * seed, 255 - 60 * seed, 128), -1)
        yield image.astype(np.uint8, copy=False)


def print_result(result: dict[str, Any]) -> None:
    """Print times and memory."""
    rows = []
    for precision, results in result["precisions"].items():
        memory = results["memory"]
        for name in (name for name in results if name != "memory"):
            means = (f"{results[name][stage_name]['mean']:.2f}" for stage_name in STAGES)
            rows.append((precision, name, *means, f"{memory['edge_run_mb']:.0f}", f"{memory['over_bare_mb']:.0f}"))
    columns = ("precision", "forced exit", *(f"{name} ms" for name in STAGES), "peak MB", "above minimal MB")
    print_table(f"{result['network']} on {result['video']}, {result['frames']} frames", columns, rows)
