"""Two networks to measure with, and videos for them: one takes microseconds, the other milliseconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from benchmarks.demo import stage
from benchmarks.real_size import moving_images, write_images
from benchmarks.video import write_video
from edge.bundle.bundle import Bundle
from edge.decision import NEVER
from edge.training.datasets import fashion_mnist

VIDEO_FRAMES, VIDEO_SIZE = 600, (240, 320)


class Workload(NamedTuple):
    """A bundle and a video."""

    name: str
    bundle: Bundle
    video: Path
    frames: int
    thresholds: tuple[float, ...]
    """Empty for the fitted ones."""


def small_workload(folder: Path) -> Workload:
    """Return the CNN on the 10,000 test images of Fashion-MNIST; trained for one epoch, since only time counts."""
    images = fashion_mnist.load(None, None)
    frames = [images.frames[int(index)] for index in images.fixed_splits["test"]]
    training = ("--dataset", "fashion-mnist")
    return _workload("CNN 28x28", folder / "small", training, frames)


def large_workload(folder: Path) -> Workload:
    """Return a ResNet-18 at 64x64 on a synthetic video, all frames to the last exit; its accuracy is meaningless."""
    pictures = folder / "large" / "pictures"
    if not pictures.exists():
        write_images(pictures)
    height, width = VIDEO_SIZE
    frames = list(moving_images(VIDEO_FRAMES, height=height, width=width))
    training = ("--dataset", "folder", "--data", pictures, "--image-size", 64, "--backbone", "resnet18",
                "--batch-size", 16)  # fmt: skip
    workload = _workload("ResNet-18 64x64", folder / "large", training, frames)
    early_exits = len(workload.bundle.manifest.exits) - 1
    return workload._replace(thresholds=(NEVER,) * early_exits)


def _workload(name: str, folder: Path, training: Sequence[object], frames: Sequence[NDArray[Any]]) -> Workload:
    """Train and compile a network, and write the frames as a video, unless the folder has them."""
    bundle, video = folder / "bundle", folder / "test.avi"
    if not bundle.exists():
        stage("edge.training", *training, "--epochs", 1, "--output", folder / "training")
        stage("compile", folder / "training/checkpoint.pt", "--output", bundle, "--precision", "fp32", "--method",
              "none")  # fmt: skip
    if not video.exists():
        write_video(video, frames)
    return Workload(name, Bundle.open(bundle), video, len(frames), ())
