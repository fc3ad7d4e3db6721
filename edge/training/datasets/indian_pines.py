from pathlib import Path

from edge.training.datasets import LabelledImages


def load(path: Path | None, image_size: int | None) -> LabelledImages:
    raise NotImplementedError
