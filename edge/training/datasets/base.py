"""Labelled images before preprocessing: the type that every dataset returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.bundle.sample_ids import content_digest


class Frames(Protocol):
    """Indexed frames: an array, or a reader of files."""

    def __len__(self) -> int:
        """Return the number of frames."""

    def __getitem__(self, index: int, /) -> NDArray[Any]:
        """Return one frame."""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Frames with labels, before preprocessing."""

    name: str
    frames: Frames
    """Frames as a source yields them; an access may decode a file."""
    labels: NDArray[np.int64]
    """Class indices, shape (samples,)."""
    classes: tuple[str, ...]
    kind: Literal["image", "array"]
    colour: Literal["rgb", "gray"] | None
    size: tuple[int, int, int]
    """Channels, height and width of the network's input."""
    digests: Sequence[str]
    """Content digest of each sample, its identity: of its file or, for samples without a file, of its array."""
    fixed_splits: Mapping[str, NDArray[np.intp]] = field(default_factory=dict)
    """Predefined splits, such as the authors' test split, as sample indices; the other splits are drawn."""
    from_files: bool = False
    """True if an access decodes a file, which worker processes can do in parallel."""
    augment: tuple[str, ...] = ()
    """Random transforms that suit the images, by their names in `edge.training.augment`."""
    notes: tuple[str, ...] = ()
    """Messages about files that were left out or look wrong."""
    pixel_digests: Sequence[str] | None = None
    """Digest of each sample's pixels and shape, equal for copies in different files; None if `digests` are as good."""

    @property
    def copy_digests(self) -> Sequence[str]:
        """Digests that copies of a sample share."""
        return self.digests if self.pixel_digests is None else self.pixel_digests


def pixel_digest(frame: NDArray[Any]) -> str:
    """Return the digest of a frame's pixels and shape, independent of its file."""
    return f"{content_digest(np.ascontiguousarray(frame).data)} {frame.shape}"


def content_digests(frames: Frames) -> list[str]:
    """Return the content digest of each frame."""
    return [content_digest(frames[index].tobytes()) for index in range(len(frames))]
