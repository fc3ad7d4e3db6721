"""Reference samples on disk: frames with their labels and the trained network's logits."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import Manifest
from edge.bundle.npz import ArraySpec, holds_arrays, read_npz, write_npz
from edge.errors import BundleError

MEMBERS = {
    "frames": ArraySpec(("u1", "f4"), (3, 4)),
    "labels": ArraySpec(("i8",), (1,)),
    "logits": ArraySpec(("f4",), (3,)),
}
"""Arrays in a file of reference samples."""
REMEDY = "write it with `python -m compile --references` together with this bundle"


class Reference(NamedTuple):
    """Reference samples of a bundle, with the fp32 logits of the trained network."""

    frames: NDArray[np.uint8] | NDArray[np.float32]
    """Frames of a source: images (samples, height, width[, 3]) or arrays (samples, channels, height, width)."""
    labels: NDArray[np.int64]
    """True labels, shape (samples,)."""
    logits: NDArray[np.float32]
    """Shape (exits, samples, classes)."""


def write_reference(path: Path, reference: Reference) -> None:
    """Write reference samples."""
    write_npz(path, reference._asdict())


def read_reference(path: Path, content: bytes | None = None) -> Reference:
    """Read reference samples.

    Args:
        path: The file, for messages; it is read if `content` is None.
        content: The content of the file.

    Raises:
        BundleError: the file is missing or damaged, or has other contents.
    """
    try:
        return Reference(**read_npz(path, MEMBERS, content))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BundleError(
            f"{path} holds no reference samples ({reason}); write them with `python -m compile --references`"
        ) from error


def holds_references(path: Path) -> bool:
    """Check that a file has the arrays of reference samples.

    Raises:
        OSError: the file cannot be read.
    """
    return holds_arrays(path, MEMBERS)


def check_reference(reference: Reference, manifest: Manifest, path: Path) -> None:
    """Check that reference samples belong to a bundle's network.

    Raises:
        BundleError: there are none, or they belong to another network.
    """
    exits, classes, samples = len(manifest.exits), len(manifest.labels), len(reference.frames)
    expected, labels = (exits, samples, classes), reference.labels
    if not samples:
        raise BundleError(f"{path} has no samples; write some with `python -m compile --references`")
    if reference.logits.shape != expected or labels.shape != (samples,):
        raise BundleError(
            f"{path} has {samples} frames, labels of shape {labels.shape} and logits of shape "
            f"{reference.logits.shape}, not {expected}: it belongs to another network; {REMEDY}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise BundleError(f"{path} has labels {labels.min()} to {labels.max()}, not 0 to {classes - 1}; {REMEDY}")
    _check_frames(reference.frames, manifest, path)


def _check_frames(frames: NDArray[np.uint8] | NDArray[np.float32], manifest: Manifest, path: Path) -> None:
    spec = manifest.input
    if spec.kind == "array":
        fits, expected = frames.dtype == np.float32 and frames.shape[1:] == spec.shape, f"float32 of {spec.shape}"
    else:
        channels = () if spec.colour == "gray" else (spec.channels,)
        fits = frames.dtype == np.uint8 and frames.ndim == 3 + len(channels) and frames.shape[3:] == channels
        expected = f"uint8 of (height, width{''.join(f', {count}' for count in channels)})"
    if not fits or 0 in frames.shape:
        raise BundleError(f"{path} has frames of {frames.dtype} and shape {frames.shape[1:]}, not {expected}; {REMEDY}")
