"""Engines are built by the real libraries, and a cache never gives out one that was made for something else."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil
import pytest

from edge.bundle.bundle import Bundle
from edge.cli.build import build_bundle
from edge.cli.main import main
from edge.console import INTERRUPTED, PASSED
from edge.engines import backend_named
from edge.engines.base import Backend, BuildOrder
from edge.engines.cache import ENGINE, ENTRY, LAYERS, EngineCache
from edge.engines.onnxruntime import OnnxRuntime
from edge.engines.tensorrt.engine import TensorRtEngine
from edge.errors import EngineError
from tests.support.commands import call, started_command, wait_until
from tests.support.networks import built_in_graph, decided_and_cut, written

if TYPE_CHECKING:
    from edge.training.checkpoint import Checkpoint

TARGETS = ("sm89", "sm120")
BACKBONES = {"cnn": (1, 28, 28), "resnet18": (3, 224, 224), "mobilenet": (3, 64, 64)}
"""And the size of the images they are built for."""


@pytest.fixture(scope="module")
def fp16_bundle(digits_checkpoint: "Checkpoint", tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the network of `digits_bundle` in the precision that it leaves out."""
    from calibration.thresholds import RiskGuarantee
    from compile.recipe import compile_bundle

    output = tmp_path_factory.mktemp("fp16") / "bundle"
    guarantee = RiskGuarantee(limit=0.01, method="none")
    return compile_bundle(digits_checkpoint, output, precisions=["fp16"], guarantee=guarantee)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    """Return an empty cache, which is also everybody else's during the test."""
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "engines"))
    return EngineCache()


def rtx(target: str = "sm89") -> Backend:
    """Return the backend that builds without a GPU."""
    pytest.importorskip("tensorrt_rtx")
    return backend_named("tensorrt-rtx", target=target)


def first_segment(bundle: Bundle) -> Path:
    return bundle.path / bundle.precision("fp32").segments[0].file


def order_for(segment: Path, folder: Path, batch: int | None = 1) -> BuildOrder:
    return BuildOrder(segment, batch, folder / ENGINE, folder / LAYERS, folder / "timings")


def engine_folders(cache: EngineCache) -> list[Path]:
    """Return what a cache holds besides timings: engines, and what could be taken for one."""
    return sorted(path for path in cache.root.iterdir() if not path.name.startswith("timings-"))


def watch_builds(monkeypatch: pytest.MonkeyPatch, on_progress: Callable[[str], None]) -> None:
    """Let the cache tell builds' progress to this."""
    monkeypatch.setattr("edge.engines.cache.busy", lambda description: nullcontext(on_progress))


# TensorRT-RTX


@pytest.mark.parametrize("target", TARGETS)
def test_tensorrt_rtx_builds_every_segment_of_every_precision_without_a_gpu(
    digits_bundle: Bundle, fp16_bundle: Bundle, cache: EngineCache, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    watch_builds(monkeypatch, said.append)
    bundles = (digits_bundle, fp16_bundle)
    assert {name for bundle in bundles for name in bundle.manifest.precisions} >= {"fp32", "fp16", "int8"}
    builds = [build for bundle in bundles for build in build_bundle(bundle, rtx(target))]
    expected = sum(len(bundle.manifest.precisions) * (len(bundle.manifest.exits) + 1) for bundle in bundles)
    assert len(builds) == len(engine_folders(cache)) == expected
    assert not any(build.was_cached for build in builds)
    assert all(Path(build.path).stat().st_size > 10_000 for build in builds)
    assert len(said) >= expected
    assert all(re.fullmatch(r"\w.* \d+/\d+", text) for text in said)

    again = [build for bundle in bundles for build in build_bundle(bundle, rtx(target))]
    assert all(build.was_cached for build in again)
    assert [build.path for build in again] == [build.path for build in builds]


@pytest.mark.parametrize(("backbone", "shape"), BACKBONES.items())
def test_tensorrt_rtx_builds_every_backbone_and_keeps_its_precision(
    backbone: str, shape: tuple[int, int, int], cache: EngineCache, tmp_path: Path
) -> None:
    sizes: dict[tuple[str, str], int] = {}
    for precision, target in product(("fp32", "fp16", "int8"), TARGETS):
        folder = tmp_path / f"{precision}-{target}"
        spec = written(folder, decided_and_cut(built_in_graph(backbone, shape, precision)), precision)
        built = [cache.built(folder / segment.file, rtx(target), 1) for segment in (*spec.segments, spec.whole)]
        assert not any(engine.was_cached for engine in built)
        sizes[precision, target] = sum(engine.path.stat().st_size for engine in built)
    for target in TARGETS:
        assert sizes["fp16", target] < sizes["fp32", target]
        if backbone == "resnet18":  # whose weights outweigh the kernels that an engine holds
            assert sizes["int8", target] < 0.7 * sizes["fp16", target] < 0.5 * sizes["fp32", target]


def test_tensorrt_rtx_engines_for_two_gpus_lie_beside_each_other(digits_bundle: Bundle, cache: EngineCache) -> None:
    ada, blackwell = (cache.built(first_segment(digits_bundle), rtx(name), 1).path for name in TARGETS)
    assert ada != blackwell
    assert ada.read_bytes() != blackwell.read_bytes()
    assert cache.built(first_segment(digits_bundle), rtx("SM_89"), 1).path == ada
    assert not multiprocessing.active_children()


def test_tensorrt_rtx_leaves_the_batch_free_where_it_is_asked_to(digits_bundle: Bundle, cache: EngineCache) -> None:
    assert cache.built(first_segment(digits_bundle), rtx(), None).path.stat().st_size > 10_000


@pytest.mark.parametrize("kept", [None, b"", b"garbage" * 100])
def test_timings_are_kept_and_bad_ones_do_not_stop_a_build(
    kept: bytes | None, digits_bundle: Bundle, tmp_path: Path
) -> None:
    order = order_for(first_segment(digits_bundle), tmp_path)
    if kept is not None:
        order.timing_cache.write_bytes(kept)
    rtx().build(order, lambda text: None)
    written = order.timing_cache.read_bytes()
    assert written not in (b"", kept)
    rtx().build(order, lambda text: None)
    assert order.timing_cache.read_bytes() == written


def test_all_engines_of_a_library_and_gpu_share_their_timings(digits_bundle: Bundle, cache: EngineCache) -> None:
    segments = [digits_bundle.path / segment.file for segment in digits_bundle.precision("fp32").segments[:2]]
    for segment in segments:
        cache.built(segment, rtx(), 1)
    assert len(list(cache.root.glob("timings-*"))) == 1
    cache.built(segments[0], rtx("sm120"), 1)
    assert len(list(cache.root.glob("timings-*"))) == 2


def test_tensorrt_rtx_refuses_a_gpu_it_does_not_build_for() -> None:
    with pytest.raises(EngineError, match="does not build for 'sm87'; it builds for sm75, sm80"):
        rtx("sm87")


def test_tensorrt_rtx_says_which_file_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "segment_0.onnx").write_bytes(b"not a model")
    with pytest.raises(EngineError, match=r"cannot read .*segment_0\.onnx"):
        rtx().build(order_for(tmp_path / "segment_0.onnx", tmp_path), lambda text: None)
    assert os.listdir(tmp_path) == ["segment_0.onnx"]


def test_tensorrt_rtx_says_what_it_cannot_build(digits_bundle: Bundle, cache: EngineCache) -> None:
    """Turing has no fp32 matrix products there."""
    last = digits_bundle.path / digits_bundle.precision("fp32").segments[-1].file
    with pytest.raises(EngineError, match=rf"cannot build {last} for sm75: .*FP32 GEMM is not supported"):
        cache.built(last, rtx("sm75"), 1)
    assert engine_folders(cache) == []


def test_tensorrt_rtx_engines_are_not_run_without_a_gpu(digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "edge.cuda.runtime", raising=False)
    message = (
        r"^frames cannot be run on a GPU here \(.*pycuda.*\); install the NVIDIA driver, then pip install "
        r"'early-exit\[cuda13\]' \(cuda12 for .*\), or run with --backend onnxruntime$"
    )
    with pytest.raises(EngineError, match=message):
        rtx().load(Path("engine"), digits_bundle.precision("fp32").segments[0])


@pytest.mark.parametrize("content", [b"", b"not an engine"])
def test_tensorrt_rtx_says_which_engine_it_cannot_read_and_why(content: bytes, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    (tmp_path / ENGINE).write_bytes(content)
    with pytest.raises(EngineError) as failure:
        TensorRtEngine(trt, tmp_path / ENGINE, "segment_0.onnx")
    said = f"tensorrt_rtx {trt.__version__} cannot read the engine of segment_0.onnx ("
    assert str(failure.value).startswith(said)
    assert "it gave no reason" not in str(failure.value)
    assert f"; remove {tmp_path} and build it again on this machine" in str(failure.value)


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


def test_a_killed_build_speaks_of_memory_and_leaves_no_engine(
    cache: EngineCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, backend = write_deep_network(tmp_path / "deep.onnx"), rtx()

    def kill(text: str) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with monkeypatch.context() as patch:
        watch_builds(patch, kill)
        with pytest.raises(EngineError) as failure:
            cache.built(segment, backend, 1)
    message = str(failure.value)
    assert f"building {segment} for sm89 with tensorrt_rtx was ended by SIGKILL" in message
    assert "lack of memory; close other programs, add swap" in message
    assert engine_folders(cache) == []
    assert not cache.built(segment, backend, 1).was_cached


# Processes


def start_build(stack: ExitStack, bundle: Bundle, **options: Any) -> "subprocess.Popen[str]":
    words = (
        "edge",
        "build",
        bundle.path,
        "--backend",
        "tensorrt-rtx",
        "--target",
        "sm89",
        "--precision",
        "fp32",
        "--json",
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return stack.enter_context(started_command(*words, **pipes, **options))


def builders(process: "subprocess.Popen[str]") -> list[int]:
    """Return the processes in which a command builds."""
    try:
        children = psutil.Process(process.pid).children()
        return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:  # one is gone
        return []


class Interrupted(NamedTuple):
    """A build after Ctrl-C."""

    code: int
    stderr: str
    children: list[int]


def interrupted_build(bundle: Bundle, delay: float) -> Interrupted:
    """Start a build, and press Ctrl-C some seconds after the first engine's process was started."""
    with ExitStack() as stack:
        process = start_build(stack, bundle, start_new_session=True)
        wait_until(lambda: builders(process), "a build")
        time.sleep(delay)
        children = builders(process)
        os.killpg(process.pid, signal.SIGINT)  # to all of them, as a terminal does
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
    assert "interrupted; nothing half-written is left behind" in build.stderr
    assert not any(map(is_running, build.children))
    assert all({ENGINE, ENTRY} <= set(os.listdir(folder)) for folder in engine_folders(cache))
    assert not list(cache.root.glob(".*"))


def test_ctrl_c_is_answered_in_one_line(digits_bundle: Bundle, cache: EngineCache) -> None:
    rtx()
    said = [interrupted_build(digits_bundle, delay).stderr for delay in (0.04, 0.07, 0.1, 0.13)]
    assert said == ["interrupted; nothing half-written is left behind\n"] * 4


def test_two_processes_build_each_engine_of_a_bundle_once(digits_bundle: Bundle, cache: EngineCache) -> None:
    rtx()
    with ExitStack() as stack:
        processes = [start_build(stack, digits_bundle) for _ in range(2)]
        outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [PASSED, PASSED], outputs
    first, second = (json.loads(stdout) for stdout, _ in outputs)
    assert len(first) == len(engine_folders(cache)) == len(digits_bundle.manifest.exits) + 1
    for one, other in zip(first, second, strict=True):
        assert one["path"] == other["path"]
        assert {one["was_cached"], other["was_cached"]} == {True, False}


# Any backend


def test_onnxruntime_builds_for_this_processor_only() -> None:
    with pytest.raises(EngineError, match="this processor only"):
        backend_named("onnxruntime", target="sm89")


def test_edge_build_builds_segments_for_many_images_too_and_the_whole_network_for_one_only(
    digits_bundle: Bundle, cache: EngineCache
) -> None:
    spec = digits_bundle.precision("fp32")
    segments = [segment.file for segment in spec.segments]
    one = [(file, 1) for file in (*segments, spec.whole.file)]
    many = [(file, None) for file in segments]
    for words, expected in (([], one), (["--batches"], one + many)):
        done = call(main, "build", digits_bundle.path, "--precision", "fp32", "--json", *words)
        assert done.code == PASSED, done.stderr
        assert [(build["segment"], build["batch"]) for build in json.loads(done.stdout)] == expected
        assert len(engine_folders(cache)) == len(expected)


def test_unknown_backends_are_refused_with_what_there_is() -> None:
    with pytest.raises(EngineError, match="unknown backend 'openvino'; there are onnxruntime, tensorrt, tensorrt-rtx"):
        backend_named("openvino")


def test_onnxruntime_says_which_file_it_refuses(tmp_path: Path) -> None:
    (tmp_path / "segment.onnx").write_bytes(b"not a model")
    with pytest.raises(EngineError, match=r"refuses .*segment\.onnx"):
        OnnxRuntime().build(order_for(tmp_path / "segment.onnx", tmp_path), lambda text: None)
    assert os.listdir(tmp_path) == ["segment.onnx"]


class TestCache:
    @pytest.fixture
    def segment(self, digits_bundle: Bundle) -> Path:
        return first_segment(digits_bundle)

    def test_the_second_build_is_the_first_ones_engine(self, cache: EngineCache, segment: Path) -> None:
        first, second = (cache.built(segment, OnnxRuntime(), batch=1) for _ in range(2))
        assert (first.was_cached, second.was_cached) == (False, True)
        assert first.path == second.path

    def test_another_batch_is_another_engine(self, cache: EngineCache, segment: Path) -> None:
        assert cache.built(segment, OnnxRuntime(), batch=1).path != cache.built(segment, OnnxRuntime(), batch=None).path

    def test_another_processor_is_another_engine(
        self, cache: EngineCache, segment: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = cache.built(segment, OnnxRuntime(), batch=1)
        monkeypatch.setattr("edge.engines.onnxruntime.cpu_identity", lambda: "another processor")
        assert cache.built(segment, OnnxRuntime(), batch=1).path != first.path

    @pytest.mark.parametrize("damage", ["truncated engine", "garbage entry", "foreign key", "no engine"])
    def test_a_damaged_or_foreign_entry_is_built_again(self, cache: EngineCache, segment: Path, damage: str) -> None:
        good = cache.built(segment, OnnxRuntime(), batch=1).path
        content = good.read_bytes()
        entry = good.with_name(ENTRY)
        if damage == "truncated engine":
            good.write_bytes(content[: len(content) // 2])
        elif damage == "no engine":
            good.unlink()
        elif damage == "garbage entry":
            entry.write_text("{")
        else:
            found = json.loads(entry.read_text())
            found["key"]["version"] = "0.1"
            entry.write_text(json.dumps(found))
        rebuilt = cache.built(segment, OnnxRuntime(), batch=1)
        assert not rebuilt.was_cached
        assert rebuilt.path.read_bytes()
        assert cache.built(segment, OnnxRuntime(), batch=1).was_cached
        assert sorted(path.name for path in rebuilt.path.parent.iterdir()) == [ENGINE, ENTRY]

    def test_a_folder_of_another_user_is_not_trusted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        owner = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)
        with pytest.raises(EngineError, match="belongs to another user; set EDGE_CACHE"):
            EngineCache(tmp_path)
