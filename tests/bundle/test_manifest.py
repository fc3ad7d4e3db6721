"""The manifest on disk: it survives a round trip, and everything else is refused."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.bundle import tensors
from edge.bundle.manifest import (
    MANIFEST_VERSION,
    Candidate,
    ExitSpec,
    InputSpec,
    Manifest,
    PrecisionSpec,
    Rejection,
    SegmentSpec,
    SplitSpec,
    TensorSpec,
    Thresholds,
    manifest_from_json,
    manifest_to_json,
)
from edge.bundle.validation import validation_errors
from edge.errors import BundleError

ORIGIN = Path("somewhere/manifest.json")
FIRST = ("precisions", "fp32", "segments", 0)
LAST = ("precisions", "fp32", "segments", 1)
REJECTION = ("precisions", "fp32", "rejection")
CANDIDATES = ("precisions", "fp32", "thresholds", "candidates")


IMAGE = TensorSpec("image", "float32", (None, 1, 8, 8))
CUT = TensorSpec("cut_0", "float32", (None, 4, 4, 4))


def outputs_of(exit_index: int) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec(tensors.logits(exit_index), "float32", (None, 2)),
        TensorSpec(tensors.confidence(exit_index), "float32", (None,)),
        TensorSpec(tensors.label(exit_index), "int32", (None,)),
    )


def segments() -> tuple[SegmentSpec, SegmentSpec]:
    """Return an early and a last segment."""
    inputs = (IMAGE, TensorSpec("threshold_0", "float32", (1,)))
    outputs = (*outputs_of(0), CUT, TensorSpec("exit_0", "bool", (None,)))
    early = SegmentSpec("fp32/segment_0.onnx", inputs, outputs, 0.0, 0, cuts_in=(), cuts_out=("cut_0",))
    last = SegmentSpec("fp32/segment_1.onnx", (CUT,), outputs_of(1), 0.0, 1, cuts_in=("cut_0",), cuts_out=())
    return early, last


def candidates() -> tuple[Candidate, ...]:
    return (Candidate((2.0,), 0.01, 0.06, 1.0), Candidate((0.9,), 0.01, 0.09, 0.5))


def small_manifest() -> Manifest:
    return Manifest(
        version=MANIFEST_VERSION,
        name="two exits",
        input=InputSpec("image", "gray", 1, 8, 8, (0.5,), (0.25,)),
        labels=("cat", "dög"),
        exits=(ExitSpec(1000, 10, (4, 4)), ExitSpec(2000, 20, None)),
        precisions={
            "fp32": PrecisionSpec(
                segments=segments(),
                whole=SegmentSpec("fp32/whole.onnx", (IMAGE,), outputs_of(1), 0.0, 1, cuts_in=(), cuts_out=()),
                thresholds=Thresholds((0.9,), "accuracy_gap", 0.01, "betting", 0.95, 50, "0123", candidates()),
                rejection=Rejection(0.6, 0.02, 0.95, "betting", 0.97, 20, "0123"),
                temperatures=(1.5, 0.8),
                notes=("convolution stays fp32 (stages.0): it reads the image",),
                scores="fp32/scores.npz",
            )
        },
        reference="reference.npz",
        samples="samples.npz",
        splits={"train": SplitSpec(100, "4567"), "thresholds": SplitSpec(10, "89ab")},
        training={"settings": {"epochs": 3, "data": None}, "history": [{"loss": 0.5}]},
        tools={"torch": "2.9"},
        files={"reference.npz": "89ab"},
    )


def edited(path: tuple[str | int, ...], edit: Callable[[Any, Any], None]) -> str:
    """Return the manifest's JSON with an edit at a path of keys and positions."""
    data = json.loads(manifest_to_json(small_manifest()))
    parent = data
    for key in path[:-1]:
        parent = parent[key]
    edit(parent, path[-1])
    return json.dumps(data)


def replaced(path: tuple[str | int, ...], value: Any) -> str:
    return edited(path, lambda parent, key: parent.__setitem__(key, copy.deepcopy(value)))


def refusal(text: str) -> str:
    with pytest.raises(BundleError) as error:
        manifest_from_json(text, ORIGIN)
    assert str(ORIGIN) in str(error.value)
    return str(error.value)


def test_a_manifest_survives_a_round_trip_through_json() -> None:
    manifest = small_manifest()
    assert manifest_from_json(manifest_to_json(manifest), ORIGIN) == manifest


def test_integers_are_accepted_as_floats() -> None:
    manifest = manifest_from_json(replaced(("input", "mean"), [1]), ORIGIN)
    assert manifest.input.mean == (1.0,)
    assert type(manifest.input.mean[0]) is float


def test_the_networks_macs_are_the_sum_of_its_segments() -> None:
    assert small_manifest().macs == 3000


@pytest.mark.parametrize(
    ("path", "value", "where", "expected"),
    [
        (("name",), 5, "manifest.name", "of type str"),
        (("name",), None, "manifest.name", "of type str"),
        (("input",), [], "manifest.input", "an object"),
        (("input",), None, "manifest.input", "an object"),
        (("input", "kind"), "picture", "manifest.input.kind", "one of 'image', 'array'"),
        (("input", "kind"), None, "manifest.input.kind", "one of 'image', 'array'"),
        (("input", "kind"), ["image"], "manifest.input.kind", "one of 'image', 'array'"),
        (("input", "colour"), "bgr", "manifest.input.colour", "one of 'rgb', 'gray'"),
        (("input", "height"), 8.0, "manifest.input.height", "of type int"),
        (("input", "height"), "8", "manifest.input.height", "of type int"),
        (("input", "height"), True, "manifest.input.height", "of type int"),
        (("input", "mean"), 0.5, "manifest.input.mean", "a list"),
        (("input", "mean"), {"0": 0.5}, "manifest.input.mean", "a list"),
        (("input", "mean", 0), "0.5", "manifest.input.mean[0]", "of type float"),
        (("input", "mean", 0), True, "manifest.input.mean[0]", "of type float"),
        (("input", "mean", 0), None, "manifest.input.mean[0]", "of type float"),
        (("labels",), "cat", "manifest.labels", "a list"),
        (("labels", 1), 1, "manifest.labels[1]", "of type str"),
        (("exits", 0), None, "manifest.exits[0]", "an object"),
        (("exits", 0, "macs"), None, "manifest.exits[0].macs", "of type int"),
        (("exits", 0, "attention"), [4], "manifest.exits[0].attention", "2 values"),
        (("exits", 0, "attention"), [4, 4, 4], "manifest.exits[0].attention", "2 values"),
        (("exits", 0, "attention", 1), None, "manifest.exits[0].attention[1]", "of type int"),
        (("precisions",), [], "manifest.precisions", "an object"),
        (("precisions", "fp32"), "fp32", "manifest.precisions.fp32", "an object"),
        (("precisions", "fp32", "whole", "file"), None, "manifest.precisions.fp32.whole.file", "of type str"),
        (
            ("precisions", "fp32", "segments", 1, "inputs", 0, "shape", 1),
            "4",
            "manifest.precisions.fp32.segments[1].inputs[0].shape[1]",
            "of type int",
        ),
        (
            ("precisions", "fp32", "thresholds", "target_metric"),
            "regret",
            "manifest.precisions.fp32.thresholds.target_metric",
            "one of 'accuracy_gap', 'disagreement', 'mean_macs', 'mean_ms'",
        ),
        (
            ("precisions", "fp32", "thresholds", "method"),
            "hope",
            "manifest.precisions.fp32.thresholds.method",
            "one of 'exact', 'betting', 'hoeffding-bentkus', 'expectation', 'none'",
        ),
        (
            ("precisions", "fp32", "temperatures"),
            1.5,
            "manifest.precisions.fp32.temperatures",
            "a list",
        ),
        (
            ("precisions", "fp32", "thresholds", "values", 0),
            None,
            "manifest.precisions.fp32.thresholds.values[0]",
            "of type float",
        ),
        (REJECTION, 0.6, "manifest.precisions.fp32.rejection", "an object"),
        (
            (*REJECTION, "method"),
            "none",
            "manifest.precisions.fp32.rejection.method",
            "one of 'betting', 'hoeffding-bentkus'",
        ),
        ((*FIRST, "exit_index"), None, "manifest.precisions.fp32.segments[0].exit_index", "of type int"),
        ((*CANDIDATES, 0), [0.9], "manifest.precisions.fp32.thresholds.candidates[0]", "an object"),
        ((*FIRST, "cuts_out"), "cut_0", "manifest.precisions.fp32.segments[0].cuts_out", "a list"),
        ((*LAST, "cuts_in", 0), 0, "manifest.precisions.fp32.segments[1].cuts_in[0]", "of type str"),
        (("splits", "train"), 100, "manifest.splits.train", "an object"),
        (("files", "reference.npz"), 89, "manifest.files.reference.npz", "of type str"),
        (("files",), None, "manifest.files", "an object"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(
    path: tuple[str | int, ...], value: Any, where: str, expected: str
) -> None:
    message = refusal(replaced(path, value))
    assert "compile the bundle again" in message
    assert f"{where} is {value!r}, expected {expected}" in message


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (("nmae",), "manifest.nmae"),
        (("input", "colors"), "manifest.input.colors"),
        (("precisions", "fp32", "segments", 0, "trt"), "manifest.precisions.fp32.segments[0].trt"),
    ],
)
def test_an_unknown_field_is_refused_by_name(path: tuple[str | int, ...], where: str) -> None:
    assert f"unknown field {where}" in refusal(replaced(path, 1))


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (("files",), "manifest.files"),
        (("input", "std"), "manifest.input.std"),
        (("precisions", "fp32", "thresholds", "split"), "manifest.precisions.fp32.thresholds.split"),
        (("precisions", "fp32", "temperatures"), "manifest.precisions.fp32.temperatures"),
        (("samples",), "manifest.samples"),
        (("exits", 1, "attention"), "manifest.exits[1].attention"),
        (REJECTION, "manifest.precisions.fp32.rejection"),
        ((*FIRST, "exit_index"), "manifest.precisions.fp32.segments[0].exit_index"),
        ((*FIRST, "cuts_in"), "manifest.precisions.fp32.segments[0].cuts_in"),
        ((*FIRST, "cuts_out"), "manifest.precisions.fp32.segments[0].cuts_out"),
    ],
)
def test_a_missing_field_is_refused_by_name(path: tuple[str | int, ...], where: str) -> None:
    assert f"missing field {where}" in refusal(edited(path, lambda parent, key: parent.pop(key)))


@pytest.mark.parametrize("version", [5, 3, 2, 1, 0, None, "4", [4]])
def test_another_version_is_refused_before_any_field(version: Any) -> None:
    message = refusal(json.dumps({"version": version, "field of the future": 1}))
    assert f"manifest version {version!r}, this installation reads version {MANIFEST_VERSION}" in message
    assert "compile the bundle again" in message


def test_a_manifest_without_a_version_is_refused() -> None:
    assert "manifest version None" in refusal("{}")


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "5", '"manifest"', "\0\0", "{'version': 1}"])
def test_text_that_is_not_a_manifest_is_refused(text: str) -> None:
    assert "is not valid JSON" in (message := refusal(text)) or "manifest version None" in message


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_manifest_is_refused(share: float) -> None:
    text = manifest_to_json(small_manifest())
    assert "is not valid JSON" in refusal(text[: int(len(text) * share)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("[" * 100_000, "not valid JSON", id="deep"),
        pytest.param('{"version": ' + "9" * 5000 + "}", "version", id="long number"),
    ],
)
def test_json_beyond_pythons_limits_is_refused(text: str, expected: str) -> None:
    assert expected in refusal(text)


TEMPERATURES = ("precisions", "fp32", "temperatures")
THRESHOLDS = ("precisions", "fp32", "thresholds", "values")
WHOLE = ("precisions", "fp32", "whole")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("precisions", "fp32", "segments"), [], "0 segments for 2 exits"),
        (THRESHOLDS, [], "got 0 thresholds for 2 exits; give 1"),
        (THRESHOLDS, [0.5, 0.5], "got 2 thresholds for 2 exits; give 1"),
        (THRESHOLDS, [float("nan")], "threshold 0 is nan"),
        (THRESHOLDS, [-0.5], "threshold 0 is -0.5"),
        (TEMPERATURES, [], "temperatures (), each exit needs one from 0.01 to 100"),
        (TEMPERATURES, [1.5], "each exit needs one from 0.01 to 100"),
        (TEMPERATURES, [1.5, 0.0], "temperatures (1.5, 0.0), each exit needs one from 0.01 to 100"),
        (TEMPERATURES, [1.5, -1.0], "each exit needs one from 0.01 to 100"),
        (TEMPERATURES, [float("nan"), 1.0], "each exit needs one from 0.01 to 100"),
        (TEMPERATURES, [float("inf"), 1.0], "each exit needs one from 0.01 to 100"),
        (("precisions",), {}, "at least one precision"),
        (("labels",), [], "at least one precision, one exit and one label"),
        (("labels",), ["cat", "cat"], "several labels are 'cat'"),
        (("labels",), ["cat"], "segment 0 lacks outputs of exit 0 for 1 labels"),
        (("labels",), ["cat", "dog", "bird"], "segment 0 lacks outputs of exit 0 for 3 labels"),
        (("input", "channels"), 3, "colour 'gray' has 3 channels"),
        (("input", "colour"), "rgb", "colour 'rgb' has 1 channels"),
        (("input", "colour"), None, "kind 'image' has colour None"),
        (("input", "height"), 0, "sizes must be 1 or more"),
        (("input", "width"), 16, "segment 0 has inputs that do not match the image"),
        (("input", "mean"), [], "a mean and a std for each of its 1 channels"),
        (("input", "mean"), [0.5, 0.5], "a mean and a std for each of its 1 channels"),
        (("input", "mean"), [float("nan")], "must be finite"),
        (("input", "std"), [0.0], "std above 0"),
        (("input", "std"), [float("inf")], "must be finite"),
        (("input", "std"), [1e-300], "beyond 1e+30"),
        (("input", "mean"), [1e300], "beyond 1e+30"),
        ((*FIRST, "inputs", 0, "name"), "picture", "segment 0 has inputs that do not match the image"),
        ((*FIRST, "outputs", 0, "shape"), [None, 3], "segment 0 lacks outputs of exit 0 for 2 labels"),
        ((*FIRST, "outputs", 3, "dtype"), "int8", "segment 1 has inputs that do not match the cut of segment 0"),
        ((*FIRST, "outputs", 4, "name"), "leave_0", "segment 0 lacks outputs of exit 0 for 2 labels"),
        ((*FIRST, "exit_index"), 1, "segment 0 has exit index 1, expected 0"),
        ((*FIRST, "cuts_in"), ["image"], "segment 0 has inputs that do not match the image"),
        ((*FIRST, "cuts_out"), [], "segment 0 has no cut for the next segment"),
        ((*FIRST, "cuts_out"), ["cut_1"], "segment 0 has the cut cut_1, which is not one of its outputs"),
        ((*FIRST, "cuts_out"), ["cut_0", "cut_1"], "segment 0 has the cut cut_1, which is not one of its outputs"),
        ((*FIRST, "cuts_out"), ["logits_0"], "segment 1 has inputs that do not match the cut of segment 0"),
        ((*LAST, "exit_index"), 0, "segment 1 has exit index 0, expected 1"),
        ((*LAST, "exit_index"), 2, "segment 1 has exit index 2, expected 1"),
        ((*LAST, "cuts_in"), [], "segment 1 has inputs that do not match the cut of segment 0"),
        ((*LAST, "cuts_in"), ["cut_1"], "segment 1 has inputs that do not match the cut of segment 0"),
        ((*LAST, "inputs", 0, "name"), "cut_1", "segment 1 has inputs that do not match the cut of segment 0"),
        ((*LAST, "cuts_out"), ["logits_1"], "segment 1 has the cut logits_1, but no segment follows it"),
        ((*WHOLE, "outputs"), [], "whole network lacks outputs of exit 1 for 2 labels"),
        ((*WHOLE, "inputs"), [], "whole network has inputs that do not match the image"),
        ((*WHOLE, "exit_index"), 0, "whole network has exit index 0, expected 1"),
        ((*WHOLE, "cuts_in"), ["image"], "whole network has inputs that do not match the image"),
        ((*WHOLE, "cuts_out"), ["logits_1"], "whole network has the cut logits_1, but no segment follows it"),
        (("splits",), {}, "splits lacks 'thresholds'"),
        (CANDIDATES, [], "the thresholds (0.9,), which are not those of its last candidate"),
        (THRESHOLDS, [0.8], "the thresholds (0.8,), which are not those of its last candidate"),
        ((*CANDIDATES, 0, "values"), [], "got 0 thresholds for 2 exits; give 1"),
        ((*CANDIDATES, 0, "values"), [float("nan")], "threshold 0 is nan"),
        ((*CANDIDATES, 0, "risk_bound"), -0.1, "a candidate with the bounds -0.1 and 0.06"),
        ((*CANDIDATES, 1, "disagreement_bound"), float("nan"), "a candidate with the bounds 0.01 and nan"),
        ((*CANDIDATES, 1, "mean_macs"), 0.0, "and the mean 0.0 of MACs, expected fractions"),
        ((*CANDIDATES, 1, "mean_macs"), 1.5, "and the mean 1.5 of MACs, expected fractions"),
        ((*REJECTION, "threshold"), float("nan"), "a rejection with the threshold nan"),
        ((*REJECTION, "threshold"), 2.5, "a rejection with the threshold 2.5"),
        ((*REJECTION, "limit"), -0.02, "the limit -0.02"),
        ((*REJECTION, "confidence_level"), 95.0, "the confidence level 95.0"),
        ((*REJECTION, "coverage"), 1.1, "the coverage 1.1, expected fractions"),
        ((*REJECTION, "samples"), -1, "a rejection certified on -1 samples"),
    ],
)
def test_inconsistent_fields_are_reported(path: tuple[str | int, ...], value: Any, expected: str) -> None:
    errors = list(validation_errors(manifest_from_json(replaced(path, value), ORIGIN)))
    assert any(expected in error for error in errors), errors


def test_a_consistent_manifest_has_no_errors() -> None:
    assert list(validation_errors(small_manifest())) == []


def test_a_manifest_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_manifest().name = "another"  # type: ignore[misc]
