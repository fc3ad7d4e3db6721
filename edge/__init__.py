"""Early-exit image classification on embedded NVIDIA GPUs.

    import edge

    classifier = edge.load("runs/digits/bundle")
    print(classifier.predict("photo.jpg"))

The public names below are imported when they are first used: `import edge` needs NumPy only.
"""

import os
from importlib import import_module

# OpenCV reads its limit on the pixels of an image once, when it is loaded; see `edge.frames.images`.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))

TYPE_CHECKING = False  # `typing` would double the time of `import edge`
if TYPE_CHECKING:
    from typing import Any

    from edge.decision import Prediction
    from edge.errors import EdgeError
    from edge.frames.base import Frame, FrameSource, PixelFormat
    from edge.frames.open import open_source
    from edge.inference.classifier import Classifier
    from edge.inference.load import load
    from edge.inference.result import Result
    from edge.progress import Progress

__all__ = [
    "Classifier",
    "EdgeError",
    "Frame",
    "FrameSource",
    "PixelFormat",
    "Prediction",
    "Progress",
    "Result",
    "load",
    "open_source",
]

_MODULES = {
    "Classifier": "edge.inference.classifier",
    "EdgeError": "edge.errors",
    "Frame": "edge.frames.base",
    "FrameSource": "edge.frames.base",
    "PixelFormat": "edge.frames.base",
    "Prediction": "edge.decision",
    "Progress": "edge.progress",
    "Result": "edge.inference.result",
    "load": "edge.inference.load",
    "open_source": "edge.frames.open",
}


def __getattr__(name: str) -> "Any":
    """Import a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
