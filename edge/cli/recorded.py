"""Recorded scores on the command line: a file of `edge record`, or a folder of `edge score --every-exit`."""

from collections.abc import Sequence
from pathlib import Path

from edge.bundle.scores import LabelledScores, read_scores


def read_recorded(path: Path, labels: Sequence[str]) -> LabelledScores:
    """Read recorded scores.

    Args:
        path: The file or folder.
        labels: Labels of the bundle.

    Raises:
        BundleError: there are no scores, or they are incomplete or damaged.
        DataError: a recorded image has no label.
    """
    if not path.is_dir():
        return read_scores(path)
    from edge.distributed.recorded import read_recording

    return read_recording(path, labels)
