"""`python -m tests.machines.record BUNDLE REFERENCES OUTPUT`: every exit's outputs for the reference frames."""

import sys
from pathlib import Path

import numpy as np

from edge.bundle.bundle import Bundle
from edge.engines.onnxruntime import OnnxRuntime
from edge.frames.base import frame_from_array
from edge.inference.load import load_classifier
from edge.inference.record import record


def main(path: Path, references: Path, output: Path) -> None:
    """Record logits, confidences and labels of each precision; shapes as in `Recording`."""
    bundle = Bundle.open(path)
    frames = [frame_from_array(pixels, "image") for pixels in bundle.reference(references).frames]
    arrays = {}
    for precision in bundle.manifest.precisions:
        recording = record(load_classifier(bundle, precision, OnnxRuntime()), frames)
        arrays |= {f"{precision}.logits": recording.logits}
        arrays |= {f"{precision}.{name}": array for name, array in recording.scores._asdict().items()}
    np.savez(output, **arrays)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
