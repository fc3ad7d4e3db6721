"""ONNX Runtime on segments that are not those of the manifest, crash it, or cannot be read."""

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compile.cut import cut_segments
from compile.decision_ops import add_decisions
from compile.export import OPSET
from compile.graph import IndexedGraph, MultiExitGraph
from edge.bundle import tensors
from edge.bundle.bundle import Bundle
from edge.bundle.manifest import SegmentSpec
from edge.decision import scores_from_logits
from edge.engines.cache import EngineCache, load_engines
from edge.engines.onnxruntime import OnnxRuntime, OnnxRuntimeEngine
from edge.engines.subprocess_build import shared_process
from edge.errors import EngineError
from edge.inference.host import allocate_tensors
from tests.support.commands import build_processes, full_disk, without_privileges

Edit = Callable[[onnx.ModelProto], object]


@pytest.fixture
def specs(digits_bundle: Bundle) -> tuple[SegmentSpec, ...]:
    return digits_bundle.precision("fp32").segments


@pytest.fixture
def folder(digits_bundle: Bundle, tmp_path: Path, cache: EngineCache) -> Path:
    """Return a copy of a bundle's files, with an empty cache."""
    return Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))


def edit(path: Path, change: Edit) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def attribute(name: str, values: list[int]) -> Edit:
    """Return a function that sets an attribute of the first convolution."""

    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Conv")
        next(a for a in node.attribute if a.name == name).ints[:] = values

    return change


def more_outputs(model: onnx.ModelProto) -> None:
    name = model.graph.node[0].output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))


HOSTILE = [
    pytest.param(attribute("strides", [0, 0]), "was killed by SIGFPE, since the library crashed", id="stride of 0"),
    pytest.param(attribute("strides", [2**31] * 2), "ONNX Runtime .* refuses", id="huge stride"),
    pytest.param(attribute("pads", [2**31] * 4), "ONNX Runtime .* cannot run", id="huge padding"),
    pytest.param(attribute("pads", [10**5] * 4), "ONNX Runtime .* cannot run", id="no memory"),
    pytest.param(more_outputs, "not the segment that its manifest describes: it has the outputs", id="output too many"),
    pytest.param(lambda model: model.graph.ClearField("node"), "ONNX Runtime .* refuses", id="no nodes"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_a_segment_that_cannot_be_run_is_an_error_of_this_process(
    change: Edit, message: str, folder: Path, specs: tuple[SegmentSpec, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    edit(folder / specs[0].file, change)
    with pytest.raises(EngineError, match=message) as error:
        load_engines(folder, specs, OnnxRuntime())
    assert specs[0].file in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""
    assert not build_processes()


def test_nested_blocks_share_one_build_process(
    folder: Path, specs: tuple[SegmentSpec, ...], cache: EngineCache
) -> None:
    with shared_process():
        load_engines(folder, specs, OnnxRuntime())
        processes = build_processes()
        load_engines(folder, specs, OnnxRuntime(), batch=None)
        assert build_processes() == processes
    assert len(processes) == 1
    assert not build_processes()


@pytest.mark.parametrize("part", ["bundle", "cache"])
def test_a_path_that_is_not_utf8_is_named_as_the_reason(
    part: str, folder: Path, specs: tuple[SegmentSpec, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / os.fsdecode(b"\xff")
    if part == "bundle":
        folder = folder.rename(odd)
    else:
        monkeypatch.setenv("EDGE_CACHE", str(odd))
    with pytest.raises(EngineError, match=r"is not UTF-8, which ONNX Runtime cannot open; rename the folder, or set"):
        load_engines(folder, specs, OnnxRuntime())


def changed(spec: SegmentSpec, **fields: Any) -> SegmentSpec:
    """Return a segment whose first output has other fields."""
    first, *others = spec.outputs
    return dataclasses.replace(spec, outputs=(dataclasses.replace(first, **fields), *others))


@pytest.mark.parametrize(
    "describe",
    [
        pytest.param(lambda specs: [specs[1], specs[0], specs[2]], id="swapped"),
        pytest.param(lambda specs: [changed(specs[0], name="cut_9"), *specs[1:]], id="another name"),
        pytest.param(lambda specs: [changed(specs[0], dtype="int8"), *specs[1:]], id="another type"),
        pytest.param(lambda specs: [changed(specs[0], shape=(None, 1)), *specs[1:]], id="another rank"),
        pytest.param(lambda specs: [changed(specs[0], shape=(None, 32, 8, 9)), *specs[1:]], id="another size"),
        pytest.param(lambda specs: [dataclasses.replace(specs[0], outputs=specs[0].outputs[1:])], id="output missing"),
        pytest.param(lambda specs: [dataclasses.replace(specs[0], inputs=specs[0].inputs[1:])], id="input missing"),
    ],
)
@pytest.mark.parametrize("batch", [1, None])
def test_engines_that_are_not_the_manifests_segments_are_refused_with_both(
    describe: Callable[[tuple[SegmentSpec, ...]], list[SegmentSpec]],
    batch: int | None,
    folder: Path,
    specs: tuple[SegmentSpec, ...],
) -> None:
    files = [spec.file for spec in specs]
    described = [dataclasses.replace(s, file=f) for s, f in zip(describe(specs), files, strict=False)]
    message = rf"^{files[0]} is not the segment that its manifest describes: it has the (in|out)puts .*, expected "
    with pytest.raises(EngineError, match=message):
        load_engines(folder, described, OnnxRuntime(), batch=batch)


def loaded(folder: Path, spec: SegmentSpec, batch: int | None = 1) -> OnnxRuntimeEngine:
    (engine,) = load_engines(folder, [spec], OnnxRuntime(), batch=batch)
    assert isinstance(engine, OnnxRuntimeEngine)
    return engine


def test_arrays_that_do_not_fit_are_an_error_with_the_segment(folder: Path, specs: tuple[SegmentSpec, ...]) -> None:
    engine, arrays = loaded(folder, specs[0]), allocate_tensors(specs[:1])
    engine.bind(arrays)()
    arrays["logits_0"] = np.zeros((1, 3), np.float32)
    with pytest.raises(EngineError, match=r"cannot run fp32/segment_0\.onnx \("):
        engine.bind(arrays)()


def test_outputs_of_another_size_are_an_error_with_the_tensor(folder: Path, specs: tuple[SegmentSpec, ...]) -> None:
    engine = loaded(folder, specs[0], batch=None)
    inputs = {"image": np.zeros((3, *specs[0].inputs[0].shape[1:]), np.float32), "threshold_0": np.ones(1, np.float32)}
    assert len(engine.run(inputs)["logits_0"]) == 3
    engine._spec = changed(specs[0], shape=(None, 1, 1, 1))
    with pytest.raises(EngineError, match=r"cut_0 has shape \(3, 32, 8, 8\), expected \(3, 1, 1, 1\)"):
        engine.run(inputs)


def test_a_segment_that_may_not_be_read_is_named_with_the_reason(folder: Path, specs: tuple[SegmentSpec, ...]) -> None:
    (folder / specs[0].file).chmod(0)
    with without_privileges(), pytest.raises(OSError, match="Permission denied"):
        load_engines(folder, specs, OnnxRuntime())


def test_a_full_disk_is_named_as_the_reason(folder: Path, specs: tuple[SegmentSpec, ...]) -> None:
    with full_disk(1000), pytest.raises(EngineError, match="with onnxruntime failed: File too large: "):
        load_engines(folder, specs, OnnxRuntime())


def test_a_script_without_a_main_guard_builds(folder: Path, tmp_path: Path) -> None:
    """Other ways to start processes would run the script again in each of them."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import edge\nprint('once')\nedge.load({str(folder)!r}, precision='fp32', backend='onnxruntime')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n", "")


def test_labels_are_those_of_the_reference_for_all_logits_with_ties_nan_and_infinity(tmp_path: Path) -> None:
    logits = np.array([*itertools.product([1, 3, np.nan, np.inf, -np.inf], repeat=4)], np.float32)
    shape: list[int | str] = ["batch", logits.shape[1]]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", [tensors.IMAGE], [tensors.logits(0)], "identity")],
        "logits",
        [onnx.helper.make_tensor_value_info(tensors.IMAGE, onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info(tensors.logits(0), onnx.TensorProto.FLOAT, shape)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10)
    [segment] = cut_segments(add_decisions(MultiExitGraph(model, ())))
    onnx.save(segment.model, tmp_path / "segment.onnx")
    indexed = IndexedGraph(segment.model)
    inputs, outputs = (tuple(map(indexed.spec, values)) for values in (segment.inputs, segment.outputs))
    spec = SegmentSpec("segment.onnx", inputs, outputs, 0.0, 0, (), ())
    reference = scores_from_logits(logits[None])

    [engine] = load_engines(tmp_path, [spec], OnnxRuntime(), batch=None)
    computed = engine.run({tensors.IMAGE: logits})
    np.testing.assert_array_equal(computed[tensors.label(0)], reference.label[0])
    np.testing.assert_array_equal(np.isnan(computed[tensors.confidence(0)]), np.isnan(reference.confidence[0]))

    [engine], arrays = load_engines(tmp_path, [spec], OnnxRuntime()), allocate_tensors([spec])
    run = engine.bind(arrays)
    for sample, label in zip(logits, reference.label[0], strict=True):
        arrays[tensors.IMAGE][0] = sample
        run()
        assert arrays[tensors.label(0)] == label, sample
