"""Labelled images before any preprocessing, the type that every dataset returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.bundle.sample_ids import content_digest


class Frames(Protocol):
    """Frames by index: an array of them, or something that reads them from files."""

    def __len__(self) -> int:
        """Return their number."""

    def __getitem__(self, index: int, /) -> NDArray[Any]:
        """Return one frame."""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Frames with labels, as they are before any preprocessing."""

    name: str
    frames: Frames
    """As a source would give them; reading one may decode a file."""
    labels: NDArray[np.int64]
    """Classes, shape (samples,)."""
    classes: tuple[str, ...]
    kind: Literal["image", "array"]
    colour: Literal["rgb", "gray"] | None
    size: tuple[int, int, int]
    """Channels, height and width the network is to read."""
    digests: Sequence[str]
    """A digest of each sample's content."""
    fixed_splits: Mapping[str, NDArray[np.intp]] = field(default_factory=dict)
    """Indices of the splits that are not to be drawn, such as the test split of the dataset's authors."""
    from_files: bool = False
    """Whether reading a frame decodes a file, which other processes may then do."""
    mirror: bool = False
    """Whether a mirrored image is still of its class, so that training may mirror it."""


def content_digests(frames: Frames) -> list[str]:
    """Return a digest of each frame's content."""
    return [content_digest(frames[index].tobytes()) for index in range(len(frames))]
