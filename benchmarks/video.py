"""Images as a lossless video, so that frame i is image i."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from edge.errors import DataError
from edge.files import file_aside
from edge.preprocess import Frame


def write_video(path: Path, frames: Iterable[Frame]) -> None:
    """Write 8-bit images of one size with the lossless codec FFV1.

    Raises:
        DataError: this build of OpenCV cannot write it, or there are no images.
    """
    writer: cv2.VideoWriter | None = None
    with file_aside(path) as aside, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        target = Path(folder) / path.name  # OpenCV chooses the container by the suffix
        for frame in frames:
            picture = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if frame.ndim == 2 else np.ascontiguousarray(frame)
            if writer is None:
                size = (picture.shape[1], picture.shape[0])
                lossless = cv2.VideoWriter_fourcc(*"FFV1")  # type: ignore[attr-defined]  # its stubs lack it
                writer = cv2.VideoWriter(str(target), lossless, 30, size)
                if not writer.isOpened():
                    raise DataError("this OpenCV cannot write FFV1 video; pip install opencv-python-headless")
            writer.write(picture)
        if writer is None:
            raise DataError(f"there are no images to write to {path}")
        writer.release()
        target.replace(aside)
