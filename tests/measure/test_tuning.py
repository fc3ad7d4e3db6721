"""Ways to run a bundle are measured where their outputs match the trained network, and left out elsewhere."""

import dataclasses
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.files import file_hashes
from edge.bundle.manifest import manifest_to_json
from edge.engines import CPU_BACKENDS
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


def test_a_way_with_other_answers_than_the_trained_networks_is_left_out_and_the_others_are_measured(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "engines"))
    bundle = with_swapped_classes(digits_bundle, "int8", tmp_path / "bundle")
    timings = tune(bundle, CPU_BACKENDS, ["fp32", "int8"], [1])
    measured = {(timing.precision, timing.backend) for timing in timings}
    assert measured == {("fp32", "onnxruntime"), ("fp32", "openvino"), ("int8", "onnxruntime")}
    [warning] = caplog.messages
    assert warning.startswith("auto leaves out int8 on openvino: it does not match the trained network (exit ")
    assert "must be >=" in warning
    assert f"`edge verify {bundle.path} --backend onnxruntime --backend openvino`" in warning
