"""What a manifest promises beyond the types of its fields: that they do not contradict each other."""

import math
from collections.abc import Iterator

from edge.decision import checked_thresholds
from edge.errors import ThresholdError
from edge.manifest import InputSpec, Manifest, PrecisionSpec, TensorSpec

COLOUR_CHANNELS = {"rgb": 3, "gray": 1}


def contradictions(manifest: Manifest) -> Iterator[str]:
    """Say, one by one, what in a manifest cannot be true together."""
    if not manifest.precisions or not manifest.exits or not manifest.labels:
        yield "a manifest needs at least one precision, one exit and one label"
    if "thresholds" not in manifest.splits:
        yield "a manifest must say which samples thresholds were fitted to"
    yield from _input_contradictions(manifest.input)
    for name, precision in manifest.precisions.items():
        yield from _precision_contradictions(manifest, name, precision)


def _input_contradictions(spec: InputSpec) -> Iterator[str]:
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


def _precision_contradictions(manifest: Manifest, name: str, precision: PrecisionSpec) -> Iterator[str]:
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
        checked_thresholds(precision.thresholds.values, exits)
    except ThresholdError as error:
        yield f"{name}: {error}"
    yield from _chain_contradictions(manifest, name, precision)


def _chain_contradictions(manifest: Manifest, name: str, precision: PrecisionSpec) -> Iterator[str]:
    """Follow the tensors from the image through every segment."""
    image = TensorSpec("image", "float32", (None, *manifest.input.shape))
    entering, last = {image}, len(manifest.exits) - 1
    for k, segment in enumerate(precision.segments):
        threshold = set() if k == last else {TensorSpec(f"threshold_{k}", "float32", (1,))}
        if set(segment.inputs) != entering | threshold:
            yield f"{name} segment {k} does not take what the segment before it hands over"
        if not _answer(k, len(manifest.labels), is_last=k == last) <= set(segment.outputs):
            yield f"{name} segment {k} does not answer for {len(manifest.labels)} labels"
        entering = {tensor for tensor in segment.outputs if tensor.name.startswith(f"cut_{k}")}
    if set(precision.whole.inputs) != {image} or not _answer(last, len(manifest.labels), is_last=True) <= set(
        precision.whole.outputs
    ):
        yield f"{name}'s whole network does not answer for {len(manifest.labels)} labels"


def _answer(k: int, labels: int, *, is_last: bool) -> set[TensorSpec]:
    early = set() if is_last else {TensorSpec(f"exit_{k}", "bool", (None,))}
    return early | {
        TensorSpec(f"logits_{k}", "float32", (None, labels)),
        TensorSpec(f"confidence_{k}", "float32", (None,)),
        TensorSpec(f"label_{k}", "int32", (None,)),
    }
