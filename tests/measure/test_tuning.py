"""Ways to run a bundle are measured unless their library gives other answers."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.files import file_hashes
from edge.bundle.manifest import manifest_to_json
from edge.engines import CPU_BACKENDS
from edge.engines.base import Backend
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier
from edge.measure.tuning import tune


def with_swapped_classes(bundle: Bundle, precision: str, folder: Path) -> Bundle:
    """Return a copy in which the last exit of a precision takes each class for the one before it."""
    shutil.copytree(bundle.path, folder)
    path = folder / bundle.precision(precision).segments[-1].file
    model = onnx.load(path)
    [classify] = [node for node in model.graph.node if node.op_type == "Gemm"]
    for tensor in model.graph.initializer:
        if tensor.name in classify.input[1:]:
            rolled = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(rolled[[*range(1, len(rolled)), 0]], tensor.name))
    onnx.save(model, path)
    manifest = dataclasses.replace(bundle.manifest, files=file_hashes(folder))
    (folder / MANIFEST).write_text(manifest_to_json(manifest))
    return Bundle.open(folder)


def tuned(bundle: Bundle) -> set[tuple[str, str]]:
    """Return the precisions and backends that are measured."""
    return {(timing.precision, timing.backend) for timing in tune(bundle, CPU_BACKENDS, ["fp32", "int8"], [1])}


def test_a_library_with_other_answers_than_the_default_one_is_left_out_and_the_others_are_measured(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "engines"))
    wrong = with_swapped_classes(digits_bundle, "int8", tmp_path / "bundle")

    def load(bundle: Bundle, precision: str, backend: Backend, *options: Any) -> Classifier:
        is_wrong = (precision, backend.name) == ("int8", "openvino")
        return load_classifier(wrong if is_wrong else bundle, precision, backend, *options)

    monkeypatch.setattr("edge.measure.tuning.load_classifier", load)
    assert tuned(digits_bundle) == {("fp32", "onnxruntime"), ("fp32", "openvino"), ("int8", "onnxruntime")}
    [warning] = caplog.messages
    left_out = "auto leaves out int8 on openvino: it matches neither the trained network nor onnxruntime ("
    assert warning.startswith(left_out)
    assert "must be >=" in warning
    assert f"`edge verify {digits_bundle.path} --backend onnxruntime --backend openvino`" in warning


def test_libraries_that_agree_are_measured_where_the_compiled_network_differs_from_the_trained_one(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "engines"))
    assert len(tuned(with_swapped_classes(digits_bundle, "int8", tmp_path / "bundle"))) == 4
