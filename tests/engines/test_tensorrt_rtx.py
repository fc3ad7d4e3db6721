"""Engines built by TensorRT-RTX itself, which needs no GPU to build, and builds interrupted in their processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil
import pytest

from edge.bundle.bundle import Bundle
from edge.cli.build import build_bundle
from edge.console import INTERRUPTED, PASSED
from edge.cuda.base import decision_tensors
from edge.engines import backend_named
from edge.engines.base import Backend, BuildOrder
from edge.engines.cache import ENGINE, ENTRY, LAYERS, EngineCache
from edge.engines.tensorrt.builder import TensorRtBuild, create_config, prepare_network
from edge.engines.tensorrt.engine import TensorRtEngine
from edge.engines.tensorrt.logger import error_logger
from edge.errors import EngineError
from edge.progress import Progress
from tests.support.commands import build_processes, start_command, wait_until
from tests.support.networks import built_in_graph, compile_graph, compiled, write_precision
from tests.support.tensorrt_models import segment_spec

if TYPE_CHECKING:
    from edge.training.checkpoint import Checkpoint

TARGETS = ("sm89", "sm120")
BACKBONES = {"cnn": (1, 28, 28), "resnet18": (3, 224, 224), "mobilenet": (3, 64, 64)}
"""With the shape of their images."""


@pytest.fixture(scope="module")
def fp16_bundle(digits_checkpoint: "Checkpoint", tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the network of `digits_bundle` in the precision that it lacks."""
    from calibration.thresholds import RiskGuarantee
    from compile.recipe import compile_bundle

    output = tmp_path_factory.mktemp("fp16") / "bundle"
    guarantee = RiskGuarantee(limit=0.01, method="none")
    return compile_bundle(digits_checkpoint, output, precisions=["fp16"], guarantee=guarantee)


def rtx(target: str = "sm89") -> Backend:
    """Return the backend; skip the test where the library is missing."""
    pytest.importorskip("tensorrt_rtx")
    return backend_named("tensorrt-rtx", target=target)


def first_segment(bundle: Bundle) -> Path:
    return bundle.path / bundle.precision("fp32").segments[0].file


def order_into(folder: Path, segment: Path, batch: int | None = 1) -> BuildOrder:
    return BuildOrder(segment, batch, folder / ENGINE, folder / LAYERS, folder / "timings")


def entries(cache: EngineCache) -> list[Path]:
    """Return a cache's content but timing caches."""
    return sorted(path for path in cache.root.iterdir() if not path.name.startswith("timings-"))


# Builds


def test_every_segment_of_every_precision_is_built_without_a_gpu(
    digits_bundle: Bundle, fp16_bundle: Bundle, cache: EngineCache
) -> None:
    bundles, reports = (digits_bundle, fp16_bundle), list[Progress]()
    assert {name for bundle in bundles for name in bundle.manifest.precisions} >= {"fp32", "fp16", "int8"}
    builds = [build for bundle in bundles for build in build_bundle(bundle, rtx(), on_progress=reports.append)]
    expected = sum(len(bundle.manifest.precisions) * (len(bundle.manifest.exits) + 1) for bundle in bundles)
    assert len(builds) == len(entries(cache)) == expected
    assert not any(build.was_cached for build in builds)
    assert all(Path(build.path).stat().st_size > 10_000 for build in builds)
    phases = [report.note for report in reports if report.note]
    assert len(phases) >= expected
    assert all(re.fullmatch(r"\w.* \d+/\d+", phase) for phase in phases)

    again = [build for bundle in bundles for build in build_bundle(bundle, rtx())]
    assert all(build.was_cached for build in again)
    assert [build.path for build in again] == [build.path for build in builds]


@pytest.mark.parametrize(("backbone", "shape"), BACKBONES.items())
def test_every_backbone_is_built_in_its_precision(
    backbone: str, shape: tuple[int, int, int], cache: EngineCache, tmp_path: Path
) -> None:
    sizes: dict[str, int] = {}
    for precision in ("fp32", "fp16", "int8"):
        folder = tmp_path / precision
        spec = write_precision(folder, compile_graph(built_in_graph(backbone, shape, precision)), precision)
        built = [cache.get(folder / segment.file, rtx("sm120"), 1) for segment in spec.segments]
        assert not any(engine.was_cached for engine in built)
        sizes[precision] = sum(engine.path.stat().st_size for engine in built)
    assert sizes["fp16"] < sizes["fp32"]
    if backbone == "resnet18":  # whose weights outweigh the kernels in an engine
        assert sizes["int8"] < 0.7 * sizes["fp16"] < 0.5 * sizes["fp32"]


def test_integers_are_concatenated(cache: EngineCache, tmp_path: Path) -> None:
    spec = write_precision(tmp_path / "int8", compiled("concat", "int8"), "int8")
    assert cache.get(tmp_path / "int8" / spec.segments[1].file, rtx(), 1).path.stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("batch", [1, None])
@pytest.mark.parametrize(("backbone", "shape"), BACKBONES.items())
def test_the_library_reads_our_shapes_formats_and_allocation_back(
    backbone: str, shape: tuple[int, int, int], batch: int | None, precision: str, tmp_path: Path
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    spec = write_precision(tmp_path / precision, compile_graph(built_in_graph(backbone, shape, precision)), precision)
    for segment in (*spec.segments, spec.whole):
        log = error_logger(trt)
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        assert parser.parse_from_file(str(tmp_path / precision / segment.file)), log.last_error
        prepare_network(trt, network, batch)
        build = TensorRtBuild("tensorrt_rtx", "SM89", order_into(tmp_path, tmp_path / precision / segment.file, batch))
        config = create_config(trt, builder, network, log, build)
        assert config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        assert config.num_optimization_profiles == (batch is None)
        inputs, outputs = (
            [get(index) for index in range(count)]
            for get, count in ((network.get_input, network.num_inputs), (network.get_output, network.num_outputs))
        )
        assert {tensor.allowed_formats for tensor in (*inputs, *outputs)} == {1 << int(trt.TensorFormat.LINEAR)}
        shapes = {tensor.name: tuple(tensor.shape) for tensor in (*inputs, *outputs)}
        decided = decision_tensors(segment.exit_index)
        kept = [tensor for tensor in segment.outputs if tensor.name not in decided]
        expected = {t.name: tuple((batch or -1) if n is None else n for n in t.shape) for t in (*segment.inputs, *kept)}
        assert shapes == expected


def test_engines_for_two_gpus_are_cached_separately(digits_bundle: Bundle, cache: EngineCache) -> None:
    ada, blackwell = (cache.get(first_segment(digits_bundle), rtx(name), 1).path for name in TARGETS)
    assert ada != blackwell
    assert ada.read_bytes() != blackwell.read_bytes()
    assert cache.get(first_segment(digits_bundle), rtx("SM_89"), 1).path == ada
    assert not build_processes()


def test_the_batch_is_dynamic_where_it_is_not_pinned(digits_bundle: Bundle, cache: EngineCache) -> None:
    assert cache.get(first_segment(digits_bundle), rtx(), None).path.stat().st_size > 10_000


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 100])
def test_the_timing_cache_is_kept_and_a_damaged_one_does_not_stop_a_build(
    content: bytes | None, digits_bundle: Bundle, tmp_path: Path
) -> None:
    order = order_into(tmp_path, first_segment(digits_bundle))
    if content is not None:
        order.timing_cache.write_bytes(content)
    rtx().build(order, lambda phase: None)
    saved = order.timing_cache.read_bytes()
    assert saved not in (b"", content)
    rtx().build(order, lambda phase: None)
    assert order.timing_cache.read_bytes() == saved


def test_engines_of_a_library_and_gpu_share_a_timing_cache(digits_bundle: Bundle, cache: EngineCache) -> None:
    segments = [digits_bundle.path / segment.file for segment in digits_bundle.precision("fp32").segments[:2]]
    for segment in segments:
        cache.get(segment, rtx(), 1)
    assert len(list(cache.root.glob("timings-*"))) == 1
    cache.get(segments[0], rtx("sm120"), 1)
    assert len(list(cache.root.glob("timings-*"))) == 2


# Errors


def test_an_unsupported_gpu_is_refused_with_a_list_of_gpus() -> None:
    with pytest.raises(EngineError, match="does not build for 'sm87'; choose one of sm75, sm80"):
        rtx("sm87")


def test_an_unreadable_segment_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "segment_0.onnx").write_bytes(b"not a model")
    with pytest.raises(EngineError, match=r"cannot read .*segment_0\.onnx"):
        rtx().build(order_into(tmp_path, tmp_path / "segment_0.onnx"), lambda phase: None)
    assert os.listdir(tmp_path) == ["segment_0.onnx"]


def test_an_unsupported_layer_is_an_error_with_the_librarys_reason(digits_bundle: Bundle, cache: EngineCache) -> None:
    """TensorRT-RTX has no fp32 matrix products for Turing."""
    last = digits_bundle.path / digits_bundle.precision("fp32").segments[-1].file
    with pytest.raises(EngineError, match=rf"cannot build {last} for sm75: .*FP32 GEMM is not supported"):
        cache.get(last, rtx("sm75"), 1)
    assert entries(cache) == []


def test_engines_are_not_loaded_without_a_gpu(digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "edge.cuda.runtime", raising=False)
    message = (
        r"^frames cannot be run on a GPU here \(.*pycuda.*\); install the NVIDIA driver and the CUDA toolkit, "
        r"which pycuda is built with, then pip install "
        r"'/.*\[cuda13\]' \(cuda12 for .*\), or run with --backend onnxruntime$"
    )
    with pytest.raises(EngineError, match=message):
        rtx().load(Path("engine"), digits_bundle.precision("fp32").segments[0])


@pytest.mark.parametrize("content", [b"", b"not an engine"])
def test_an_unreadable_engine_is_an_error_with_segment_reason_and_remedy(content: bytes, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    (tmp_path / ENGINE).write_bytes(content)
    with pytest.raises(EngineError) as failure:
        TensorRtEngine(trt, tmp_path / ENGINE, segment_spec())
    start = f"tensorrt_rtx {trt.__version__} cannot read the engine of segment_0.onnx ("
    assert str(failure.value).startswith(start)
    assert "it gave no reason" not in str(failure.value)
    assert f"; remove {tmp_path} and build it again on this machine" in str(failure.value)


# Processes


def write_deep_network(path: Path, depth: int = 150) -> Path:
    """Write an ONNX file that takes a while to build."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(depth, 8, 8, 3, 3)).astype(np.float32)
    initializers = [numpy_helper.from_array(weights[index], f"w{index}") for index in range(depth)]
    nodes = [
        helper.make_node("Conv", [f"x{index}", f"w{index}"], [f"x{index + 1}"], pads=[1] * 4) for index in range(depth)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8, 16, 16]) for name in ("x0", f"x{depth}")
    ]
    graph = helper.make_graph(nodes, "deep", ends[:1], ends[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10), path)
    return path


def test_a_killed_build_is_an_error_about_memory_and_leaves_no_engine(cache: EngineCache, tmp_path: Path) -> None:
    segment, backend = write_deep_network(tmp_path / "deep.onnx"), rtx()

    def kill(progress: Progress) -> None:
        for child in build_processes():
            child.kill()

    with pytest.raises(EngineError) as failure:
        cache.get(segment, backend, 1, kill)
    message = str(failure.value)
    assert f"building {segment} for sm89 with tensorrt_rtx was killed by SIGKILL" in message
    assert "lack of memory; close other programs, add swap" in message
    assert entries(cache) == []
    assert not cache.get(segment, backend, 1).was_cached


def start_build(stack: ExitStack, bundle: Bundle, **options: Any) -> "subprocess.Popen[str]":
    arguments = ("--backend", "tensorrt-rtx", "--target", "sm89", "--precision", "fp32", "--json")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return stack.enter_context(start_command("edge", "build", bundle.path, *arguments, **pipes, **options))


class Interrupted(NamedTuple):
    """A build after Ctrl-C."""

    code: int
    stderr: str
    children: list[int]


def interrupted_build(bundle: Bundle, delay: float) -> Interrupted:
    """Start a build, and send Ctrl-C some seconds after the first engine's process was started."""
    with ExitStack() as stack:
        process = start_build(stack, bundle, start_new_session=True)
        wait_until(lambda: build_processes(process.pid), "a build")
        time.sleep(delay)
        children = [child.pid for child in build_processes(process.pid)]
        os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal does
        return Interrupted(stderr=process.communicate()[1], code=process.returncode, children=children)


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_ctrl_c_ends_a_build_and_leaves_whole_engines_only(
    delay: float, digits_bundle: Bundle, cache: EngineCache
) -> None:
    rtx()
    build = interrupted_build(digits_bundle, delay)
    assert build.code == INTERRUPTED, build.stderr
    assert "interrupted; no partial file was left behind" in build.stderr
    assert not any(map(is_running, build.children))
    assert all({ENGINE, ENTRY} <= set(os.listdir(folder)) for folder in entries(cache))
    assert not list(cache.root.glob(".*"))


def test_ctrl_c_prints_one_line(digits_bundle: Bundle, cache: EngineCache) -> None:
    rtx()
    outputs = [interrupted_build(digits_bundle, delay).stderr for delay in (0.04, 0.07, 0.1, 0.13)]
    assert outputs == ["interrupted; no partial file was left behind\n"] * 4


def test_two_processes_build_each_engine_of_a_bundle_once(digits_bundle: Bundle, cache: EngineCache) -> None:
    rtx()
    with ExitStack() as stack:
        processes = [start_build(stack, digits_bundle) for _ in range(2)]
        outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [PASSED, PASSED], outputs
    first, second = (json.loads(stdout) for stdout, _ in outputs)
    assert len(first) == len(entries(cache)) == len(digits_bundle.manifest.exits) + 1
    for build, other in zip(first, second, strict=True):
        assert build["path"] == other["path"]
        assert {build["was_cached"], other["was_cached"]} == {True, False}
