"""The contract between all stages: frozen dataclasses, and their strict form on disk as JSON."""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from edge.errors import BundleError

MANIFEST_VERSION = 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named tensor that goes in or out of a segment."""

    name: str
    dtype: str
    """NumPy's name of the element type, such as `float32`."""
    shape: tuple[int | None, ...]
    """Sizes; None is the batch."""


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


@dataclass(frozen=True, slots=True)
class Thresholds:
    """One threshold for each exit but the last, and what was asked of them when they were fitted."""

    values: tuple[float, ...]
    risk: Literal["accuracy_drop"]
    """What was bounded: the accuracy lost against the last exit answering everything."""
    bound: float
    """The bound, as a fraction of all samples."""
    confidence_level: float | None
    """Probability with which the bound holds beyond the split; None: fitted to the split, nothing promised."""
    samples: int
    """Size of the split they were fitted on."""
    split: str
    """Fingerprint of that split."""


@dataclass(frozen=True, slots=True)
class PrecisionSpec:
    """The network in one precision."""

    segments: tuple[SegmentSpec, ...]
    whole: SegmentSpec
    """The network without its early exits: what early exits are measured against."""
    thresholds: Thresholds
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
    """Read a manifest.

    Raises:
        BundleError: the text is not JSON, of another version, or its fields are not the manifest's.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise BundleError(f"{origin} is not valid JSON ({error}); copy or compile the bundle again") from error
    version = data.get("version") if isinstance(data, dict) else None
    if version != MANIFEST_VERSION:
        raise BundleError(
            f"{origin} has manifest version {version!r}, this installation reads version {MANIFEST_VERSION}; "
            "compile the bundle again, or install the version that made it"
        )
    try:
        manifest: Manifest = _decode(Manifest, data, "manifest")
    except ValueError as error:
        raise BundleError(f"{origin}: {error}; compile the bundle again, or install the version that made it") from None
    _check(manifest, origin)
    return manifest


def manifest_to_json(manifest: Manifest) -> str:
    """Write a manifest as JSON that `manifest_from_json` reads back."""
    return json.dumps(dataclasses.asdict(manifest), indent=2) + "\n"


def _check(manifest: Manifest, origin: Path) -> None:
    for name, precision in manifest.precisions.items():
        if len(precision.segments) != len(manifest.exits):
            raise BundleError(
                f"{origin}: {name} has {len(precision.segments)} segments for {len(manifest.exits)} exits"
            )
        if len(precision.thresholds.values) != len(manifest.exits) - 1:
            raise BundleError(
                f"{origin}: {name} needs one threshold for each of its {len(manifest.exits) - 1} early exits"
            )
    if not manifest.precisions or not manifest.exits or not manifest.labels:
        raise BundleError(f"{origin}: a manifest needs at least one precision, one exit and one label")


def _decode(kind: Any, value: Any, where: str) -> Any:
    """Turn parsed JSON into `kind`, refusing anything that does not fit exactly."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast("type[Any]", kind), value, where)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _decode(inner[0], value, where)
    if origin is Literal:
        return _expect(value in arguments, value, where, f"one of {', '.join(map(repr, arguments))}")
    if origin is tuple:
        _expect(isinstance(value, list), value, where, "a list")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        _expect(len(kinds) == len(value), value, where, f"{len(kinds)} values")
        return tuple(_decode(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict:
        _expect(isinstance(value, dict), value, where, "an object")
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    return _expect(type(value) is kind, value, where, f"of type {kind.__name__}")


def _decode_dataclass(kind: type[T], value: Any, where: str) -> T:
    _expect(isinstance(value, dict), value, where, "an object")
    hints = typing.get_type_hints(kind)
    for name in sorted(set(value) - set(hints)):
        raise ValueError(f"unknown field {where}.{name}")
    for name in sorted(set(hints) - set(value)):
        raise ValueError(f"missing field {where}.{name}")
    return kind(**{name: _decode(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})


def _expect(condition: bool, value: Any, where: str, expected: str) -> Any:
    if not condition:
        raise ValueError(f"{where} is {value!r}, expected {expected}")
    return value
