"""The manifest: the contract between all stages, as frozen dataclasses and strict JSON."""

import dataclasses
import json
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from edge.bundle.decoding import decode, shown
from edge.errors import BundleError

MANIFEST_VERSION = 4


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output tensor of a segment."""

    name: str
    dtype: Literal["float32", "float16", "int8", "int32", "bool"]
    """NumPy's name of the element type."""
    shape: tuple[int | None, ...]
    """Sizes; None for the batch."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape for a single image."""
        return tuple(1 if size is None else size for size in self.shape)

    @property
    def sample_nbytes(self) -> int:
        """Size in bytes for a single image."""
        return prod(self.sample_shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The network's input, and the preprocessing of frames."""

    kind: Literal["image", "array"]
    """`image`: 8-bit frames of a camera. `array`: unscaled numbers of shape (channels, height, width)."""
    colour: Literal["rgb", "gray"] | None
    """Channel order of an image; None for arrays."""
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    """Subtracted from each channel, after an image's values are scaled to [0, 1]."""
    std: tuple[float, ...]
    """Divides each channel after the mean is subtracted."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return (self.channels, self.height, self.width)


@dataclass(frozen=True, slots=True)
class ExitSpec:
    """An exit, and the cost of the segment that ends in it."""

    macs: int
    """Multiply-accumulates of this exit's segment for one image."""
    parameters: int
    """Weights in this exit's segment."""
    attention: tuple[int, int] | None
    """Height and width of the attention map; None if the head has none."""


@dataclass(frozen=True, slots=True)
class SegmentSpec:
    """An ONNX file of the bundle, with its tensors."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    int8_macs_share: float
    """Share of the convolutions' multiply-accumulates with quantised inputs and weights."""
    exit_index: int
    """Exit that the segment ends in."""
    cuts_in: tuple[str, ...]
    """Inputs from the previous segment; empty for segment 0, which reads the image."""
    cuts_out: tuple[str, ...]
    """Outputs for the next segment; empty for the last segment."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A set of thresholds that keeps the guarantee, with bounds for other samples.

    The bounds are None where the thresholds were fitted without certifying them on samples of their own.
    """

    values: tuple[float, ...]
    risk_bound: float | None
    """Upper bound on the fitted risk, certified by `Thresholds.method`."""
    disagreement_bound: float | None
    """Upper confidence bound on the share of predictions that differ from the last exit's.

    It holds for all candidates together, with the confidence level of the thresholds or, if they have none, 95 %."""
    mean_macs: float
    """Mean of multiply-accumulates on the samples of the fit, as a share of the network's."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """A threshold for each exit but the last, with the guarantee or budget they were fitted to."""

    values: tuple[float, ...]
    target_metric: Literal["accuracy_gap", "disagreement", "mean_macs", "mean_ms"]
    """Metric that the limit bounds: accuracy lost against the last exit, share of predictions that differ from the last
    exit's, or mean cost."""
    limit: float
    """Fraction of samples, fraction of the network's multiply-accumulates, or milliseconds."""
    method: Literal["exact", "betting", "hoeffding-bentkus", "expectation", "none"]
    """Procedure that certified the limit for other samples: see `edge.risk`."""
    confidence_level: float | None
    """Probability with which the limit holds, for `exact`, `betting` and `hoeffding-bentkus`."""
    samples: int
    """Number of samples they were fitted to."""
    split: str
    """Fingerprint of those samples: of the split, or of samples recorded on a device."""
    candidates: tuple[Candidate, ...]
    """Thresholds to choose from at run time, from the costliest to the cheapest, which are `values`."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """The least confidence of the last exit that is accepted, with the guarantee that it was fitted to.

    A prediction is accepted if an early exit makes it, or the last exit with this confidence; else it is `none`.
    """

    threshold: float
    limit: float
    """Upper bound on the share of wrong predictions among the accepted, with the thresholds of every candidate."""
    confidence_level: float
    """Probability with which the limit holds."""
    method: Literal["betting", "hoeffding-bentkus"]
    """Procedure that certified the limit: see `edge.risk`."""
    coverage: float
    """Share of the samples whose prediction was accepted, with the fitted thresholds."""
    samples: int
    """Number of samples that certified it; the thresholds were fitted to others."""
    split: str
    """Fingerprint of the split that they belong to, or of the samples recorded on a device."""


@dataclass(frozen=True, slots=True)
class PrecisionSpec:
    """The network in one precision."""

    segments: tuple[SegmentSpec, ...]
    whole: SegmentSpec
    """The network without early exits, the baseline of benchmarks."""
    thresholds: Thresholds
    rejection: Rejection | None
    """None if every prediction is accepted."""
    temperatures: tuple[float, ...]
    """Temperature of each exit: the maximum of `softmax(logits / temperature)` is the calibrated probability."""
    notes: tuple[str, ...]
    """Layers that the compiler kept in a wider type, with the reasons."""
    scores: str
    """File with the recorded scores of this precision's segments on the threshold-fitting split."""


@dataclass(frozen=True, slots=True)
class SplitSpec:
    """A set of samples that serves a single purpose."""

    samples: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that a device needs to run the bundle."""

    version: int
    name: str
    input: InputSpec
    labels: tuple[str, ...]
    exits: tuple[ExitSpec, ...]
    precisions: dict[str, PrecisionSpec]
    reference: str
    """File with the reference samples."""
    samples: str
    """File with the sample digests of the splits that thresholds must not be fitted to."""
    splits: dict[str, SplitSpec]
    training: dict[str, Any]
    """Settings and metrics of the training run."""
    tools: dict[str, str]
    """Versions of the tools that compiled the bundle."""
    files: dict[str, str]
    """sha256 of every file except the manifest."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of an image that reaches the last exit."""
        return sum(exit_.macs for exit_ in self.exits)


def manifest_from_json(text: str | bytes, origin: object) -> Manifest:
    """Decode a manifest, in UTF-8 if it is given as bytes. Its consistency is checked by `edge.bundle.validation`.

    Raises:
        BundleError: the text is not JSON, has another version, or has missing, unknown or invalid fields.
    """
    try:
        data = json.loads(text.decode(errors="replace") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{origin} is not valid JSON ({error}); copy or compile the bundle again") from error
    version = data.get("version") if isinstance(data, dict) else None
    if version != MANIFEST_VERSION:
        raise BundleError(
            f"{origin} has manifest version {shown(version)}, this installation reads version {MANIFEST_VERSION}; "
            "compile the bundle again, or install the version that compiled it"
        )
    try:
        return decode(Manifest, data, "manifest")
    except ValueError as error:
        raise BundleError(
            f"{origin}: {error}; compile the bundle again, or install the version that compiled it"
        ) from None


def manifest_to_json(manifest: Manifest) -> str:
    """Encode a manifest as JSON; `manifest_from_json` decodes it."""
    return json.dumps(dataclasses.asdict(manifest), indent=2) + "\n"
