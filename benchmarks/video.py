"""Images as a lossless video: frame i is image i."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.storage import atomic_file


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]]) -> None:
    """Write 8-bit images of equal size with the lossless codec FFV1.

    Raises:
        DataError: this build of OpenCV cannot write it, or there are no images.
    """
    writer: cv2.VideoWriter | None = None
    with atomic_file(path) as aside, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        target = Path(folder) / path.name  # OpenCV chooses the container by the suffix
        for pixels in frames:
            image = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if pixels.ndim == 2 else np.ascontiguousarray(pixels)
            if writer is None:
                size = (image.shape[1], image.shape[0])
                lossless = cv2.VideoWriter_fourcc(*"FFV1")  # type: ignore[attr-defined]  # its stubs lack it
                writer = cv2.VideoWriter(str(target), lossless, 30, size)
                if not writer.isOpened():
                    raise DataError("this OpenCV cannot write FFV1 video; pip install opencv-python-headless")
            writer.write(image)
        if writer is None:
            raise DataError(f"there are no images to write to {path}; give at least one")
        writer.release()
        target.replace(aside)
