"""Backends by name, the default backend, and ONNX Runtime."""

import json
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import edge.engines
from edge.bundle.bundle import Bundle
from edge.cli.main import main
from edge.console import PASSED
from edge.engines import backend_named, default_backend
from edge.engines.cache import EngineCache
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import EngineError
from tests.support.commands import call
from tests.support.tensorrt_models import order_for

LIBRARIES = {"tensorrt", "pycuda"}


def let_machine_have(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, libraries: set[str]) -> None:
    """Let this machine have an NVIDIA GPU and libraries, or none."""
    monkeypatch.setattr(edge.engines, "has_nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(edge.engines, "find_spec", lambda name: ModuleSpec(name, None) if name in libraries else None)


def test_tensorrt_is_the_default_where_gpu_and_libraries_are_present(monkeypatch: pytest.MonkeyPatch) -> None:
    let_machine_have(monkeypatch, gpu=True, libraries=LIBRARIES)
    assert default_backend() == "tensorrt"


@pytest.mark.parametrize("missing", ["gpu", *sorted(LIBRARIES)])
def test_onnxruntime_is_the_default_where_gpu_or_a_library_is_missing(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_machine_have(monkeypatch, gpu=missing != "gpu", libraries=LIBRARIES - {missing})
    assert default_backend() == "onnxruntime"
    assert isinstance(backend_named("auto"), OnnxRuntime)


@pytest.mark.usefixtures("backend")
def test_auto_is_tensorrt_where_it_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    let_machine_have(monkeypatch, gpu=True, libraries=LIBRARIES)
    backend = backend_named("auto")
    assert (backend.name, backend.device) == ("tensorrt", "cuda")


def test_unknown_backends_are_refused_with_a_list_of_backends() -> None:
    message = "unknown backend 'tflite'; choose one of auto, onnxruntime, openvino, tensorrt, tensorrt-rtx"
    with pytest.raises(EngineError, match=message):
        backend_named("tflite")


@pytest.mark.parametrize(("name", "module"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")])
def test_a_missing_library_is_an_error_that_says_how_to_install_it(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, f"edge.engines.tensorrt.{module}", raising=False)
    message = rf"backend {name} needs a library that is not installed .*; .*pip install {name}$"
    with pytest.raises(EngineError, match=message):
        backend_named(name)


def test_onnxruntime_builds_for_this_cpu_only() -> None:
    message = "onnxruntime builds for this CPU only, not for 'sm89'; leave out the target, or choose"
    with pytest.raises(EngineError, match=message):
        backend_named("onnxruntime", target="sm89")


@pytest.mark.usefixtures("backend")
def test_tensorrt_builds_for_the_gpu_in_this_machine_only() -> None:
    message = "tensorrt builds for this machine's GPU only, not for 'sm87'; leave out the target, or choose"
    with pytest.raises(EngineError, match=message):
        backend_named("tensorrt", target="sm87")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_backends_on_the_cpu_do_not_wait_for_a_gpu(name: str) -> None:
    with pytest.raises(EngineError, match=f"^{name} runs on the CPU, so gpu_sync cannot be 'spin'; leave it out$"):
        backend_named(name, gpu_sync="spin")


def test_an_unknown_wait_is_refused_with_the_known_ones() -> None:
    with pytest.raises(EngineError, match=r"^gpu_sync is 'poll'; give spin or block, or leave it out$"):
        backend_named("tensorrt", gpu_sync="poll")  # type: ignore[arg-type]


def test_onnxruntime_names_the_file_that_it_refuses(tmp_path: Path) -> None:
    (tmp_path / "segment.onnx").write_bytes(b"not a model")
    with pytest.raises(EngineError, match=r"refuses .*segment\.onnx"):
        OnnxRuntime().build(order_for(tmp_path / "segment.onnx"), lambda phase: None)
    assert os.listdir(tmp_path) == ["segment.onnx"]


def test_edge_build_builds_segments_for_any_batch_too_and_the_whole_network_for_batch_1_only(
    digits_bundle: Bundle, cache: EngineCache
) -> None:
    spec = digits_bundle.precision("fp32")
    segments = [segment.file for segment in spec.segments]
    batch_1 = [(file, 1) for file in (*segments, spec.whole.file)]
    any_batch = [(file, None) for file in segments]
    for arguments, expected in (([], batch_1), (["--batches"], batch_1 + any_batch)):
        words = ("--backend", "onnxruntime", "--precision", "fp32", "--json", *arguments)
        done = call(main, "build", digits_bundle.path, *words)
        assert done.code == PASSED, done.stderr
        assert [(build["segment"], build["batch"]) for build in json.loads(done.stdout)] == expected
        assert len(list(cache.root.iterdir())) == len(expected)
