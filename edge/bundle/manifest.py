"""The manifest: the contract between all stages, as frozen dataclasses and as strict JSON on disk."""

import dataclasses
import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge.bundle.decoding import decode
from edge.errors import BundleError

MANIFEST_VERSION = 3


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named tensor that goes in or out of a segment."""

    name: str
    dtype: Literal["float32", "float16", "int8", "int32", "bool"]
    """NumPy's name of the element type."""
    shape: tuple[int | None, ...]
    """Sizes; None is the batch."""

    @property
    def shape_of_one(self) -> tuple[int, ...]:
        """The shape for one image."""
        return tuple(1 if size is None else size for size in self.shape)

    @property
    def nbytes_of_one(self) -> int:
        """The bytes for one image."""
        return prod(self.shape_of_one) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the network reads, and how a frame becomes that."""

    kind: Literal["image", "array"]
    """`image`: 8-bit frames as a camera gives them. `array`: numbers as they are, shape (channels, height, width)."""
    colour: Literal["rgb", "gray"] | None
    """Channel order of an image input; None for arrays."""
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    """Subtracted from each channel; an image's values are scaled to [0, 1] before."""
    std: tuple[float, ...]
    """Divides each channel after the mean is subtracted."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return (self.channels, self.height, self.width)


@dataclass(frozen=True, slots=True)
class ExitSpec:
    """One exit and what it costs to get there from the exit before."""

    macs: int
    """Multiply-accumulates of this exit's segment for one image."""
    parameters: int
    """Weights in this exit's segment."""
    attention: tuple[int, int] | None
    """Height and width of the attention map, if the head has one."""


@dataclass(frozen=True, slots=True)
class SegmentSpec:
    """An ONNX file of the bundle and its tensors."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    int8_macs_share: float
    """Share of the convolutions' multiply-accumulates that run on quantised inputs and weights."""
    exit_index: int
    """The exit that the segment ends in."""
    cuts_in: tuple[str, ...]
    """Inputs that are the previous segment's cut; none in segment 0, which reads the image."""
    cuts_out: tuple[str, ...]
    """Outputs that are this segment's cut; none in the last segment."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """One threshold for each exit but the last, and what was asked of them when they were fitted."""

    values: tuple[float, ...]
    target_metric: Literal["accuracy_gap", "disagreement", "mean_macs", "mean_ms"]
    """What was to stay within the limit: the share of answers lost against the last exit answering everything, of
    answers that are not its own, or the mean cost."""
    limit: float
    """Of samples as a fraction; of the network's multiply-accumulates as a fraction; or milliseconds."""
    method: Literal["betting", "hoeffding-bentkus", "expectation", "none"]
    """How it was shown to hold for samples the thresholds were not fitted to: see `calibration.risk`."""
    confidence_level: float | None
    """Probability with which it was, for methods that have one."""
    samples: int
    """Size of the split they were fitted on."""
    split: str
    """Fingerprint of that split, or of the samples recorded on a device."""


@dataclass(frozen=True, slots=True)
class PrecisionSpec:
    """The network in one precision."""

    segments: tuple[SegmentSpec, ...]
    whole: SegmentSpec
    """The network without its early exits: what early exits are measured against."""
    thresholds: Thresholds
    temperatures: tuple[float, ...]
    """Of each exit: the highest of `softmax(logits / temperature)` is an honest probability of the label."""
    notes: tuple[str, ...]
    """What the compiler left in a wider type, and why."""
    scores: str
    """File with every exit's confidence and label on the threshold-fitting split, from the segments as they run."""


@dataclass(frozen=True, slots=True)
class SplitSpec:
    """A set of samples that was used for one purpose only."""

    samples: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a device needs to run the bundle, and nothing it must guess."""

    version: int
    name: str
    input: InputSpec
    labels: tuple[str, ...]
    exits: tuple[ExitSpec, ...]
    precisions: dict[str, PrecisionSpec]
    reference: str
    """File with reference images, labels and the fp32 outputs of the trained network."""
    samples: str
    """File with the digests of the samples that were used for something else than fitting thresholds."""
    splits: dict[str, SplitSpec]
    training: dict[str, Any]
    """Settings and metrics of the training run."""
    tools: dict[str, str]
    """Versions of what made the bundle."""
    files: dict[str, str]
    """sha256 of every file but this one."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image that takes the last exit."""
        return sum(exit_.macs for exit_ in self.exits)


def manifest_from_json(text: str, origin: Path) -> Manifest:
    """Read a manifest's fields; whether they fit together is `edge.contract`'s to say.

    Raises:
        BundleError: the text is not JSON, of another version, or its fields are not the manifest's.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{origin} is not valid JSON ({error}); copy or compile the bundle again") from error
    version = data.get("version") if isinstance(data, dict) else None
    if version != MANIFEST_VERSION:
        raise BundleError(
            f"{origin} has manifest version {version!r}, this installation reads version {MANIFEST_VERSION}; "
            "compile the bundle again, or install the version that made it"
        )
    try:
        return decode(Manifest, data, "manifest")
    except ValueError as error:
        raise BundleError(f"{origin}: {error}; compile the bundle again, or install the version that made it") from None


def manifest_to_json(manifest: Manifest) -> str:
    """Write a manifest as JSON that `manifest_from_json` reads back."""
    return json.dumps(dataclasses.asdict(manifest), indent=2) + "\n"
