"""Two networks to measure with, and videos for them: one of microseconds, one of milliseconds."""

from pathlib import Path
from typing import NamedTuple

from benchmarks.demo import stage
from benchmarks.real_size import moving_images, write_images
from benchmarks.video import write_video
from edge.bundle.bundle import Bundle
from edge.training.datasets import fashion_mnist

VIDEO_FRAMES, VIDEO_SIZE = 600, (240, 320)
COMPILE = ("--precision", "fp32", "--method", "none")


class Workload(NamedTuple):
    """A bundle and a video."""

    name: str
    bundle: Bundle
    video: Path
    frames: int


def small_workload(folder: Path) -> Workload:
    """Return the CNN on the 10,000 test images of Fashion-MNIST; trained for one epoch, since only time counts."""
    path = folder / "small"
    if not (path / "bundle").exists():
        stage("edge.training", "--dataset", "fashion-mnist", "--epochs", 1, "--output", path / "training")
        stage(
            "compile",
            path / "training/checkpoint.pt",
            "--output",
            path / "bundle",
            "--precision",
            "fp32",
            "--method",
            "none",
        )
    images = fashion_mnist.load(None, None)
    frames = [images.frames[int(index)] for index in images.fixed_splits["test"]]
    video = path / "test.avi"
    if not video.exists():
        write_video(video, frames)
    return Workload("CNN 28x28", Bundle.open(path / "bundle"), video, len(frames))


def large_workload(folder: Path) -> Workload:
    """Return a ResNet-18 at 64x64 on a synthetic video; its accuracy is meaningless."""
    path = folder / "large"
    if not (path / "bundle").exists():
        write_images(path / "pictures")
        stage("edge.training", "--dataset", "folder", "--data", path / "pictures", "--image-size", 64, "--backbone",
              "resnet18", "--epochs", 1, "--batch-size", 16, "--output", path / "training")  # fmt: skip
        stage(
            "compile",
            path / "training/checkpoint.pt",
            "--output",
            path / "bundle",
            "--precision",
            "fp32",
            "--method",
            "none",
        )
    height, width = VIDEO_SIZE
    video = path / "test.avi"
    if not video.exists():
        write_video(video, moving_images(VIDEO_FRAMES, height=height, width=width))
    return Workload("ResNet-18 64x64", Bundle.open(path / "bundle"), video, VIDEO_FRAMES)
