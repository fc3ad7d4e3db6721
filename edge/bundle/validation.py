"""Consistency of a manifest's fields with one another, beyond their types."""

import math
from collections.abc import Iterator

from edge.bundle import tensors
from edge.bundle.manifest import InputSpec, Manifest, PrecisionSpec, TensorSpec
from edge.decision import validate_thresholds
from edge.errors import ThresholdError

COLOUR_CHANNELS = {"rgb": 3, "gray": 1}


def validation_errors(manifest: Manifest) -> Iterator[str]:
    """Yield each consistency error of a manifest."""
    if not manifest.precisions or not manifest.exits or not manifest.labels:
        yield "a manifest needs at least one precision, one exit and one label"
    if "thresholds" not in manifest.splits:
        yield "a manifest must say which samples thresholds were fitted to"
    yield from _input_errors(manifest.input)
    for name, precision in manifest.precisions.items():
        yield from _precision_errors(manifest, name, precision)


def _input_errors(spec: InputSpec) -> Iterator[str]:
    if min(spec.shape) < 1:
        yield f"input has shape {spec.shape}, sizes must be 1 or more"
    if (spec.kind == "image") != (spec.colour is not None):
        yield f"input of kind {spec.kind!r} has colour {spec.colour!r}, an image needs one and an array has none"
    if spec.colour is not None and spec.channels != COLOUR_CHANNELS[spec.colour]:
        yield f"input of colour {spec.colour!r} has {spec.channels} channels"
    if len(spec.mean) != spec.channels or len(spec.std) != spec.channels:
        yield f"input needs a mean and a std for each of its {spec.channels} channels"
    if not all(map(math.isfinite, (*spec.mean, *spec.std))) or not all(std > 0 for std in spec.std):
        yield f"input has mean {spec.mean} and std {spec.std}, they must be finite, std above 0"


def _precision_errors(manifest: Manifest, name: str, precision: PrecisionSpec) -> Iterator[str]:
    exits = len(manifest.exits)
    if len(precision.segments) != exits:
        yield f"{name} has {len(precision.segments)} segments for {exits} exits"
        return
    if len(precision.temperatures) != exits or not all(0.01 <= t <= 100 for t in precision.temperatures):
        yield f"{name} has temperatures {precision.temperatures}, an exit needs one from 0.01 to 100"
    if len(precision.thresholds.values) != exits - 1:
        yield f"{name} needs one threshold for each of its {exits - 1} early exits"
        return
    try:
        validate_thresholds(precision.thresholds.values, exits)
    except ThresholdError as error:
        yield f"{name}: {error}"
    yield from _chain_errors(manifest, name, precision)


def _chain_errors(manifest: Manifest, name: str, precision: PrecisionSpec) -> Iterator[str]:
    """Follow the tensors from the image through every segment."""
    image = TensorSpec(tensors.IMAGE, "float32", (None, *manifest.input.shape))
    labels, last = len(manifest.labels), len(manifest.exits) - 1
    incoming: set[TensorSpec] = {image}
    cuts_in: tuple[str, ...] = ()
    for k, segment in enumerate(precision.segments):
        threshold = set() if k == last else {TensorSpec(tensors.threshold(k), "float32", (1,))}
        if set(segment.inputs) != incoming | threshold or segment.cuts_in != cuts_in:
            yield f"{name} segment {k} does not take the cut of the segment before it"
        if segment.exit_index != k or not _answer(k, labels, is_last=k == last) <= set(segment.outputs):
            yield f"{name} segment {k} does not answer for {labels} labels"
        cuts_in = segment.cuts_out
        incoming = {tensor for tensor in segment.outputs if tensor.name in cuts_in}
    if precision.segments[-1].cuts_out:
        yield f"{name} segment {last} is the last one and has a cut"
    whole = precision.whole
    answers = whole.exit_index == last and _answer(last, labels, is_last=True) <= set(whole.outputs)
    if set(whole.inputs) != {image} or not answers:
        yield f"{name}'s whole network does not answer for {labels} labels"


def _answer(k: int, labels: int, *, is_last: bool) -> set[TensorSpec]:
    flag = set() if is_last else {TensorSpec(tensors.exit_flag(k), "bool", (None,))}
    return flag | {
        TensorSpec(tensors.logits(k), "float32", (None, labels)),
        TensorSpec(tensors.confidence(k), "float32", (None,)),
        TensorSpec(tensors.label(k), "int32", (None,)),
    }
