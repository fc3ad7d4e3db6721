"""A folder per class on the device: what every exit says of it, for refitting thresholds."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge.bundle import Bundle
from edge.classifier import Classifier
from edge.console import tracked
from edge.errors import DataError
from edge.files import file_aside
from edge.manifest import InputSpec
from edge.preprocess import Frame, preprocess_for
from edge.protocols import Backend
from edge.recording import record
from edge.scores import LabelledScores, content_digest, short_digests, write_scores
from edge.sources import files_in, read_frame


def record_folder(bundle: Bundle, precision: str, backend: Backend, images: Path, output: Path) -> int:
    """Write the scores of all images below `images`, one subfolder a class, and return their number.

    Raises:
        DataError: a subfolder is not named like a label, or there are no images.
        SourceError: an image cannot be read.
    """
    paths, labels = labelled_files(images, bundle.manifest.labels)
    classifier = Classifier.from_bundle(bundle, precision, backend)
    of_files, of_inputs = [], []

    def frames() -> Iterator[Frame]:
        digest = InputDigest(bundle.manifest.input)
        for path in tracked(paths, "recording"):
            frame = read_frame(path)
            of_files.append(content_digest(path.read_bytes()))
            of_inputs.append(digest(frame))
            yield frame

    recording = record(classifier, frames())
    samples = np.stack([short_digests(of_files), short_digests(of_inputs)], axis=1)
    truth = np.array(labels, dtype=np.int64)
    with file_aside(output) as aside:
        write_scores(aside, LabelledScores(*recording, truth, samples, bundle.segments_digest(precision)))
    return len(paths)


class InputDigest:
    """Tells a sample again by what the network reads of it, whatever file it comes from."""

    def __init__(self, spec: InputSpec) -> None:
        """Prepare to preprocess."""
        self._preprocess, self._input = preprocess_for(spec), np.empty(spec.shape, dtype=np.float32)

    def __call__(self, frame: Frame) -> str:
        """Return the digest of one frame."""
        self._preprocess(frame, self._input)
        return content_digest(self._input.tobytes())


def labelled_files(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    """Return the images of a folder per class, and their classes.

    Raises:
        DataError: a subfolder is not named like a class, or there are no images.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give one with a subfolder for each class")
    paths, labels = [], []
    for subfolder in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if subfolder.name not in classes:
            raise DataError(f"{subfolder} is named like no label of the bundle; there are {', '.join(classes)}")
        found = files_in(subfolder)
        paths += found
        labels += [classes.index(subfolder.name)] * len(found)
    if not paths:
        raise DataError(f"{folder} has no images in subfolders named like the labels {', '.join(classes)}")
    return paths, labels
