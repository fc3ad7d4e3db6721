"""Consistency of a manifest's fields with one another."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from edge.bundle import tensors
from edge.bundle.manifest import (
    InputSpec,
    Manifest,
    PrecisionSpec,
    Rejection,
    SegmentSpec,
    TensorSpec,
    Thresholds,
)
from edge.decision import NEVER, validate_thresholds
from edge.errors import ThresholdError

COLOUR_CHANNELS = {"rgb": 3, "gray": 1}
PRECISIONS = ("fp32", "fp16", "int8", "auto")
MAX_EXITS = 64
MAX_SAMPLE_BYTES = 1 << 30
"""Largest tensor for one image."""
ROUNDING = 1e-9
MAX_NORMALIZED = 1e30
"""Largest pixel after normalization; float32 ends at 3e38."""


def validation_errors(manifest: Manifest) -> Iterator[str]:
    """Yield each consistency error of a manifest."""
    if not manifest.precisions or not manifest.exits or not manifest.labels:
        yield "a manifest needs at least one precision, one exit and one label"
        return
    for name in _repeated(manifest.labels):
        yield f"several labels are {name!r}"
    if "thresholds" not in manifest.splits:
        yield "splits lacks 'thresholds', the samples that thresholds were fitted to"
    if len(manifest.exits) > MAX_EXITS:
        yield f"a manifest has at most {MAX_EXITS} exits, this one has {len(manifest.exits)}"
        return
    yield from input_errors(manifest.input)
    for k, exit_ in enumerate(manifest.exits):
        if not (exit_.macs > 0 and exit_.parameters >= 0 and min(exit_.attention or (1, 1)) > 0):
            yield f"exit {k} has {exit_.macs} MACs, {exit_.parameters} parameters and attention {exit_.attention}"
    for name, split in manifest.splits.items():
        if split.samples < 0:
            yield f"split {name} has {split.samples} samples"
    for name, precision in manifest.precisions.items():
        yield from _precision_errors(manifest, name, precision)


def input_errors(spec: InputSpec) -> Iterator[str]:
    """Yield each consistency error of an input and its preprocessing."""
    if min(spec.shape) < 1:
        yield f"input has shape {spec.shape}, sizes must be 1 or more"
    if (spec.kind == "image") != (spec.colour is not None):
        yield f"input of kind {spec.kind!r} has colour {spec.colour!r}, an image needs a colour and an array has none"
    if spec.colour is not None and spec.channels != COLOUR_CHANNELS[spec.colour]:
        yield f"input of colour {spec.colour!r} has {spec.channels} channels"
    if len(spec.mean) != spec.channels or len(spec.std) != spec.channels:
        yield f"input needs a mean and a std for each of its {spec.channels} channels"
    if not all(0 < std < math.inf for std in spec.std) or not all(map(math.isfinite, spec.mean)):
        yield f"input has mean {spec.mean} and std {spec.std}, they must be finite, std above 0"
    elif any((1 + abs(mean)) / std > MAX_NORMALIZED for mean, std in zip(spec.mean, spec.std, strict=False)):
        yield f"input has mean {spec.mean} and std {spec.std}, which turn pixels into numbers beyond {MAX_NORMALIZED:g}"


def _precision_errors(manifest: Manifest, name: str, precision: PrecisionSpec) -> Iterator[str]:
    exits = len(manifest.exits)
    if name not in PRECISIONS:
        yield f"{name!r} is not a precision, expected one of {', '.join(PRECISIONS)}"
    if len(precision.segments) != exits:
        yield f"{name} has {len(precision.segments)} segments for {exits} exits"
        return
    if len(precision.temperatures) != exits or not all(0.01 <= t <= 100 for t in precision.temperatures):
        yield f"{name} has temperatures {precision.temperatures}, each exit needs one from 0.01 to 100"
    yield from _fit_errors(name, precision.thresholds)
    yield from _candidate_errors(name, precision.thresholds, exits)
    if precision.rejection is not None:
        yield from _rejection_errors(name, precision.rejection)
    yield from _chain_errors(manifest, name, precision)
    yield from _whole_network_errors(manifest, name, precision.whole)


def _fit_errors(name: str, thresholds: Thresholds) -> Iterator[str]:
    level = thresholds.confidence_level
    if not 0 <= thresholds.limit < math.inf:
        yield f"{name} has thresholds with the limit {thresholds.limit}, expected a finite number of 0 or more"
    if level is not None and not 0 < level < 1:
        yield f"{name} has thresholds with the confidence level {level}, expected one between 0 and 1"
    if thresholds.samples < 0:
        yield f"{name} has thresholds fitted to {thresholds.samples} samples"


def _candidate_errors(name: str, thresholds: Thresholds, exits: int) -> Iterator[str]:
    try:
        for values in (thresholds.values, *(candidate.values for candidate in thresholds.candidates[:-1])):
            validate_thresholds(values, exits)
    except ThresholdError as error:
        yield f"{name}: {error}"
    if not thresholds.candidates or thresholds.candidates[-1].values != thresholds.values:
        yield f"{name} has the thresholds {thresholds.values}, which are not those of its last candidate"
    for candidate in thresholds.candidates:
        bounds = (candidate.risk_bound or 0.0, candidate.disagreement_bound or 0.0)
        if not (all(0 <= bound <= 1 for bound in bounds) and 0 < candidate.mean_macs <= 1 + ROUNDING):
            yield (
                f"{name} has a candidate with the bounds {candidate.risk_bound} and {candidate.disagreement_bound} and "
                f"the mean {candidate.mean_macs} of MACs, expected fractions"
            )


def _rejection_errors(name: str, rejection: Rejection) -> Iterator[str]:
    fractions = (rejection.limit, rejection.confidence_level, rejection.coverage)
    if not (0 <= rejection.threshold <= NEVER and all(0 <= value <= 1 for value in fractions)):
        yield (
            f"{name} has a rejection with the threshold {rejection.threshold}, the limit {rejection.limit}, the "
            f"confidence level {rejection.confidence_level} and the coverage {rejection.coverage}, expected fractions"
        )
    if rejection.samples < 0:
        yield f"{name} has a rejection certified on {rejection.samples} samples"


def _tensor_errors(where: str, segment: SegmentSpec) -> Iterator[str]:
    """Yield the errors of each tensor of a segment."""
    specs = (*segment.inputs, *segment.outputs)
    for spec in specs:
        sizes = spec.shape[1:] if spec.shape[:1] == (None,) else spec.shape
        if any(size is None or size < 1 for size in sizes):
            yield f"{where} has {spec.name} of shape {spec.shape}, all sizes except the batch must be 1 or more"
        elif spec.sample_nbytes > MAX_SAMPLE_BYTES:
            yield f"{where} has {spec.name} of shape {spec.shape}, more than {MAX_SAMPLE_BYTES >> 30} GiB for one image"
    for name in _repeated(spec.name for spec in specs):
        yield f"{where} has several tensors called {name}"
    if not 0 <= segment.int8_macs_share <= 1:
        yield f"{where} has an int8 share of {segment.int8_macs_share}, expected 0 to 1"


def _chain_errors(manifest: Manifest, name: str, precision: PrecisionSpec) -> Iterator[str]:
    """Yield the errors of a chain: each segment must read the outputs of the segment before."""
    labels, last = len(manifest.labels), len(manifest.exits) - 1
    incoming = {_image(manifest)}
    cuts_in: tuple[str, ...] = ()
    for k, segment in enumerate(precision.segments):
        where = f"{name} segment {k}"
        threshold = set() if k == last else {TensorSpec(tensors.threshold(k), "float32", (1,))}
        if set(segment.inputs) != incoming | threshold or segment.cuts_in != cuts_in:
            source = f"the cut of segment {k - 1}" if k else "the image"
            yield f"{where} has inputs that do not match {source}"
        yield from _exit_errors(where, segment, k, labels, is_last=k == last)
        yield from _cut_errors(where, segment, is_last=k == last)
        cuts_in = segment.cuts_out
        incoming = {spec for spec in segment.outputs if spec.name in cuts_in}


def _cut_errors(where: str, segment: SegmentSpec, *, is_last: bool) -> Iterator[str]:
    if is_last and segment.cuts_out:
        yield f"{where} has the cut {', '.join(segment.cuts_out)}, but no segment follows it"
    if not is_last and not segment.cuts_out:
        yield f"{where} has no cut for the next segment"
    if segment.cuts_out and segment.cuts_out != tensors.cut(segment.exit_index, len(segment.cuts_out)):
        yield f"{where} has the cuts {', '.join(segment.cuts_out)}, which are not names of cuts"
    for name in sorted(set(segment.cuts_out) - {spec.name for spec in segment.outputs}):
        yield f"{where} has the cut {name}, which is not one of its outputs"


def _exit_errors(where: str, segment: SegmentSpec, k: int, labels: int, *, is_last: bool) -> Iterator[str]:
    yield from _tensor_errors(where, segment)
    if segment.exit_index != k:
        yield f"{where} has exit index {segment.exit_index}, expected {k}"
    expected = _exit_outputs(k, labels, is_last=is_last)
    if not expected <= set(segment.outputs):
        yield f"{where} lacks outputs of exit {k} for {labels} labels"
    known = {spec.name for spec in expected} | {*segment.cuts_out, tensors.attention(k)}
    for name in sorted({spec.name for spec in segment.outputs} - known):
        yield f"{where} has the output {name}, which no exit or segment reads"


def _whole_network_errors(manifest: Manifest, name: str, whole: SegmentSpec) -> Iterator[str]:
    where, last = f"{name} whole network", len(manifest.exits) - 1
    if set(whole.inputs) != {_image(manifest)} or whole.cuts_in:
        yield f"{where} has inputs that do not match the image"
    yield from _exit_errors(where, whole, last, len(manifest.labels), is_last=True)
    yield from _cut_errors(where, whole, is_last=True)


def _image(manifest: Manifest) -> TensorSpec:
    return TensorSpec(tensors.IMAGE, "float32", (None, *manifest.input.shape))


def _exit_outputs(k: int, labels: int, *, is_last: bool) -> set[TensorSpec]:
    flag = set() if is_last else {TensorSpec(tensors.exit_flag(k), "bool", (None,))}
    return flag | {
        TensorSpec(tensors.logits(k), "float32", (None, labels)),
        TensorSpec(tensors.confidence(k), "float32", (None,)),
        TensorSpec(tensors.label(k), "int32", (None,)),
    }


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)
