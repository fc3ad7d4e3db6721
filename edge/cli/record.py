"""`edge record`: every exit's scores on a folder of labelled images, to refit thresholds."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge.bundle.bundle import Bundle
from edge.bundle.sample_ids import content_digest, short_digests
from edge.bundle.scores import LabelledScores, holds_scores, write_scores
from edge.cli.arguments import add_backend, add_bundle, add_precision, open_bundle
from edge.cli.output import check_replaceable
from edge.console import PASSED, ProgressDisplay, print_json
from edge.engines.base import Backend
from edge.frames.base import Frame
from edge.frames.files import read_frame
from edge.frames.labelled import InputDigest, labelled_files
from edge.inference.load import load_classifier
from edge.inference.record import record
from edge.inference.selection import select
from edge.progress import OnProgress, ignore_progress, track
from edge.storage import atomic_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge record`."""
    add_bundle(parser)
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with a subfolder of images for each class, named like the bundle's labels",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="scores file (.npz)")
    add_precision(parser, "record")
    add_backend(parser)


def main(arguments: argparse.Namespace) -> int:
    """Record the scores, and print the command that refits thresholds."""
    bundle = open_bundle(arguments)
    check_replaceable(arguments.output, [arguments.images], bundle, is_kind=holds_scores, kind="file of scores")
    backend, precision, _ = select(bundle, arguments.backend, arguments.precision or "auto", arguments.threads)
    with ProgressDisplay() as display:
        count = record_folder(bundle, precision, backend, arguments.images, arguments.output, display)
    if arguments.json:
        print_json({"scores": str(arguments.output), "precision": precision, "samples": count})
    else:
        print(f"wrote {arguments.output} with {count} samples; to refit thresholds:")
        print(f"  python -m calibration {bundle.path} --scores {arguments.output} --precision {precision}")
    return PASSED


def record_folder(
    bundle: Bundle,
    precision: str,
    backend: Backend,
    images: Path,
    output: Path,
    on_progress: OnProgress = ignore_progress,
) -> int:
    """Record the scores of all images in class folders below `images`; return the number of images.

    Raises:
        DataError: a subfolder is not named like a label, or there are no images.
        SourceError: an image cannot be read.
    """
    paths, labels = labelled_files(images, bundle.manifest.labels)
    classifier = load_classifier(bundle, precision, backend, on_progress=on_progress)
    file_digests, input_digests = [], []

    def frames() -> Iterator[Frame]:
        input_digest = InputDigest(bundle.manifest.input)
        for path in track(paths, "recording", on_progress):
            frame = read_frame(path)
            file_digests.append(content_digest(path.read_bytes()))
            input_digests.append(input_digest(frame))
            yield frame

    recording = record(classifier, frames())
    samples = np.stack([short_digests(file_digests), short_digests(input_digests)], axis=1)
    truth = np.array(labels, dtype=np.int64)
    with atomic_file(output) as partial:
        write_scores(partial, LabelledScores(*recording, truth, samples, bundle.segments_digest(precision)))
    return len(paths)
