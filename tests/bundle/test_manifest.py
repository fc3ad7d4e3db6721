"""The manifest on disk: what is written is read back, and nothing else is taken for a manifest."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.bundle.manifest import (
    MANIFEST_VERSION,
    ExitSpec,
    InputSpec,
    Manifest,
    PrecisionSpec,
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


def segment(index: int, *, is_last: bool) -> SegmentSpec:
    cut_in = TensorSpec("image", "float32", (None, 1, 8, 8)) if index == 0 else cut(index - 1)
    inputs = (cut_in,) if is_last else (cut_in, TensorSpec(f"threshold_{index}", "float32", (1,)))
    outputs = (
        TensorSpec(f"logits_{index}", "float32", (None, 2)),
        TensorSpec(f"confidence_{index}", "float32", (None,)),
        TensorSpec(f"label_{index}", "int32", (None,)),
    )
    early = () if is_last else (cut(index), TensorSpec(f"exit_{index}", "bool", (None,)))
    return SegmentSpec(f"fp32/segment_{index}.onnx", inputs, (*outputs, *early), 0.0)


def cut(index: int) -> TensorSpec:
    return TensorSpec(f"cut_{index}", "float32", (None, 4, 4, 4))


def small_manifest() -> Manifest:
    whole = SegmentSpec("fp32/whole.onnx", segment(0, is_last=True).inputs, segment(1, is_last=True).outputs, 0.0)
    return Manifest(
        version=MANIFEST_VERSION,
        name="two exits",
        input=InputSpec("image", "gray", 1, 8, 8, (0.5,), (0.25,)),
        labels=("cat", "dög"),
        exits=(ExitSpec(1000, 10, (4, 4)), ExitSpec(2000, 20, None)),
        precisions={
            "fp32": PrecisionSpec(
                segments=(segment(0, is_last=False), segment(1, is_last=True)),
                whole=whole,
                thresholds=Thresholds((0.9,), "accuracy_gap", 0.01, "betting", 0.95, 50, "0123"),
                temperatures=(1.5, 0.8),
                notes=("conv_0 stays float: it reads the image",),
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
    where = data
    for key in path[:-1]:
        where = where[key]
    edit(where, path[-1])
    return json.dumps(data)


def replaced(path: tuple[str | int, ...], value: Any) -> str:
    return edited(path, lambda where, key: where.__setitem__(key, copy.deepcopy(value)))


def refusal(text: str) -> str:
    with pytest.raises(BundleError) as error:
        manifest_from_json(text, ORIGIN)
    assert str(ORIGIN) in str(error.value)
    return str(error.value)


def test_a_manifest_survives_json() -> None:
    manifest = small_manifest()
    assert manifest_from_json(manifest_to_json(manifest), ORIGIN) == manifest


def test_whole_numbers_are_read_as_numbers_where_fractions_are_expected() -> None:
    found = manifest_from_json(replaced(("input", "mean"), [1]), ORIGIN)
    assert found.input.mean == (1.0,)
    assert type(found.input.mean[0]) is float


def test_the_cost_of_the_whole_network_is_that_of_all_segments() -> None:
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
            ("precisions", "fp32", "thresholds", "bounded"),
            "regret",
            "manifest.precisions.fp32.thresholds.bounded",
            "one of 'accuracy_gap', 'disagreement', 'mean_macs', 'mean_ms'",
        ),
        (
            ("precisions", "fp32", "thresholds", "method"),
            "hope",
            "manifest.precisions.fp32.thresholds.method",
            "one of 'betting', 'hoeffding-bentkus', 'expectation', 'none'",
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
        (("splits", "train"), 100, "manifest.splits.train", "an object"),
        (("files", "reference.npz"), 89, "manifest.files.reference.npz", "of type str"),
        (("files",), None, "manifest.files", "an object"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(
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
    ],
)
def test_a_missing_field_is_refused_by_name(path: tuple[str | int, ...], where: str) -> None:
    assert f"missing field {where}" in refusal(edited(path, lambda where, key: where.pop(key)))


@pytest.mark.parametrize(
    "version", [MANIFEST_VERSION + 1, MANIFEST_VERSION - 1, 0, None, str(MANIFEST_VERSION), [MANIFEST_VERSION]]
)
def test_another_version_is_refused_before_anything_else(version: Any) -> None:
    text = json.dumps({"version": version, "field of the future": 1})
    assert f"manifest version {version!r}, this installation reads version {MANIFEST_VERSION}" in refusal(text)


def test_a_manifest_without_a_version_is_refused() -> None:
    assert "manifest version None" in refusal("{}")


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "5", '"manifest"', "\0\0", "{'version': 1}"])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    assert "is not valid JSON" in (message := refusal(text)) or "manifest version None" in message


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_manifest_cut_off_anywhere_is_refused(share: float) -> None:
    text = manifest_to_json(small_manifest())
    assert "is not valid JSON" in refusal(text[: int(len(text) * share)])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        pytest.param("[" * 100_000, "not valid JSON", id="deep"),
        pytest.param('{"version": ' + "9" * 5000 + "}", "version", id="long number"),
    ],
)
def test_json_that_python_cannot_hold_is_refused(text: str, what: str) -> None:
    assert what in refusal(text)


TEMPERATURES = ("precisions", "fp32", "temperatures")
THRESHOLDS = ("precisions", "fp32", "thresholds", "values")
FIRST = ("precisions", "fp32", "segments", 0)


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("precisions", "fp32", "segments"), [], "0 segments for 2 exits"),
        (THRESHOLDS, [], "one threshold for each of its 1 early exits"),
        (THRESHOLDS, [0.5, 0.5], "one threshold for each of its 1 early exits"),
        (THRESHOLDS, [float("nan")], "threshold 0 is nan"),
        (THRESHOLDS, [-0.5], "threshold 0 is -0.5"),
        (TEMPERATURES, [], "temperatures (), an exit needs one from 0.01 to 100"),
        (TEMPERATURES, [1.5], "an exit needs one from 0.01 to 100"),
        (TEMPERATURES, [1.5, 0.0], "temperatures (1.5, 0.0), an exit needs one from 0.01 to 100"),
        (TEMPERATURES, [1.5, -1.0], "an exit needs one from 0.01 to 100"),
        (TEMPERATURES, [float("nan"), 1.0], "an exit needs one from 0.01 to 100"),
        (TEMPERATURES, [float("inf"), 1.0], "an exit needs one from 0.01 to 100"),
        (("precisions",), {}, "at least one precision"),
        (("labels",), [], "at least one precision, one exit and one label"),
        (("labels",), ["cat"], "segment 0 does not answer for 1 labels"),
        (("labels",), ["cat", "dog", "bird"], "segment 0 does not answer for 3 labels"),
        (("input", "channels"), 3, "colour 'gray' has 3 channels"),
        (("input", "colour"), "rgb", "colour 'rgb' has 1 channels"),
        (("input", "colour"), None, "kind 'image' has colour None"),
        (("input", "height"), 0, "sizes must be 1 or more"),
        (("input", "width"), 16, "segment 0 does not take what"),
        (("input", "mean"), [], "a mean and a std for each of its 1 channels"),
        (("input", "mean"), [0.5, 0.5], "a mean and a std for each of its 1 channels"),
        (("input", "mean"), [float("nan")], "must be finite"),
        (("input", "std"), [0.0], "std above 0"),
        (("input", "std"), [float("inf")], "must be finite"),
        ((*FIRST, "inputs", 0, "name"), "picture", "segment 0 does not take what"),
        ((*FIRST, "outputs", 0, "shape"), [None, 3], "segment 0 does not answer for 2 labels"),
        ((*FIRST, "outputs", 3, "dtype"), "int8", "segment 1 does not take what the segment before it hands over"),
        (("precisions", "fp32", "whole", "outputs"), [], "whole network does not answer"),
    ],
)
def test_fields_that_contradict_each_other_are_found(path: tuple[str | int, ...], value: Any, what: str) -> None:
    found = list(validation_errors(manifest_from_json(replaced(path, value), ORIGIN)))
    assert any(what in contradiction for contradiction in found), found


def test_a_manifest_whose_fields_fit_has_no_contradictions() -> None:
    assert list(validation_errors(small_manifest())) == []


def test_a_manifest_cannot_be_changed_in_memory() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_manifest().name = "another"  # type: ignore[misc]
