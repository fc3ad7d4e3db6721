"""TensorRT builds on a stand-in: options, timing cache, progress, failures and subprocesses that die."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.bundle import tensors
from edge.cuda.base import decision_tensors
from edge.engines.base import Backend
from edge.engines.cache import ENGINE, ENTRY, LAYERS, EngineCache
from edge.engines.tensorrt.builder import DYNAMIC_BATCH, WORKSPACE_BYTES, TensorRtBuild, build_engine
from edge.errors import EngineError
from edge.progress import Progress
from tests.support import tensorrt_stand_in as stand_in
from tests.support.commands import build_processes
from tests.support.tensorrt_models import IMAGE, LOGITS, build_plan, order_for, write_model

# In this process


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("batch", [1, 4])
def test_every_shape_of_an_engine_for_a_batch_is_static(batch: int, tmp_path: Path) -> None:
    plan = build_plan(write_model(tmp_path, inputs={IMAGE: [-1, 3, 16, 16], "map": [-1, 8, 4, 4]}), batch)
    assert plan["model"]["inputs"] == {IMAGE: [batch, 3, 16, 16], "map": [batch, 8, 4, 4]}
    assert plan["model"]["outputs"] == {LOGITS: [batch, 10]}
    assert plan["shapes"] == {}


@pytest.mark.usefixtures("trt")
def test_the_batch_of_an_engine_for_any_batch_has_a_range(tmp_path: Path) -> None:
    plan = build_plan(write_model(tmp_path, inputs={IMAGE: [-1, 3, 16, 16], "map": [-1, 8, 4, 4]}), None)
    batches = DYNAMIC_BATCH
    assert plan["shapes"] == {IMAGE: [[n, 3, 16, 16] for n in batches], "map": [[n, 8, 4, 4] for n in batches]}


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("exit_index", [0, 2])
def test_an_engine_has_the_cuts_and_logits_in_linear_format_and_no_decision(exit_index: int, tmp_path: Path) -> None:
    kept = {"cut": [-1, 8, 4, 4], tensors.logits(exit_index): [-1, 10]}
    decided = {name: [-1] for name in decision_tensors(exit_index)}
    inputs = {IMAGE: [-1, 3, 16, 16], tensors.threshold(exit_index): [1]}
    model = build_plan(write_model(tmp_path, inputs=inputs, outputs=kept | decided))["model"]
    assert set(model["outputs"]) == set(kept)
    assert model["formats"] == dict.fromkeys([*inputs, *kept], "LINEAR")


@pytest.mark.usefixtures("trt")
def test_an_engine_is_built_with_our_options_and_its_layers_are_written(tmp_path: Path) -> None:
    plan = build_plan(write_model(tmp_path))
    verbosity = int(stand_in.ProfilingVerbosity.DETAILED)
    allocation = {"require_user_allocation": 1}
    assert plan["settings"] == {
        "workspace": WORKSPACE_BYTES,
        "aux_streams": 0,
        "tf32": 0,
        **allocation,
        "verbosity": verbosity,
    }
    assert json.loads((tmp_path / LAYERS).read_text()) == {"Layers": [{"Name": "conv"}, {"Name": "relu"}]}


@pytest.mark.usefixtures("trt")
def test_progress_is_that_of_the_outermost_phase(tmp_path: Path) -> None:
    phases: list[str] = []
    build_engine(TensorRtBuild("tensorrt", None, order_for(write_model(tmp_path))), phases.append)
    assert phases == ["Building engine 1/2", "Building engine 2/2"]


@pytest.mark.usefixtures("trt")
def test_a_kernel_is_timed_once_for_all_segments(tmp_path: Path) -> None:
    assert build_plan(write_model(tmp_path))["timed"] == ["conv", "relu"]
    assert build_plan(write_model(tmp_path))["timed"] == []
    assert build_plan(write_model(tmp_path, "segment_1.onnx", kernels=["relu", "pool"]))["timed"] == ["pool"]


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("content", [b"", b"\x00garbage", b'{"device": "another GPU", "kernels": ["conv", "relu"]}'])
def test_an_unusable_timing_cache_is_replaced(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "timings").write_bytes(content)
    assert build_plan(write_model(tmp_path))["timed"] == ["conv", "relu"]
    assert json.loads((tmp_path / "timings").read_text()) == {"device": stand_in.DEVICE, "kernels": ["conv", "relu"]}


# In a subprocess


def engines(root: Path) -> list[str]:
    """Return the entries of a cache but timing caches."""
    return [path.name for path in root.iterdir() if not path.name.startswith(("timings-", "kernels"))]


def test_an_engine_is_built_in_a_subprocess(backend: Backend, tmp_path: Path) -> None:
    reports: list[Progress] = []
    cache, segment = EngineCache(tmp_path / "cache"), write_model(tmp_path)
    first = cache.get(segment, backend, 1, reports.append)
    assert not first.was_cached
    assert [report.note for report in reports] == ["", "Building engine 1/2", "Building engine 2/2", ""]
    assert sorted(path.name for path in first.path.parent.iterdir()) == [ENGINE, ENTRY, LAYERS]
    assert cache.get(segment, backend, 1).was_cached
    assert "tensorrt" in sys.modules
    assert not build_processes()


REMEDY = re.compile(r"[;,] (or )?(close|compile|install|leave|report|run|update)\b")
FAILURES = {
    "unparsable": "node 7 (Magic), line 73: no importer; node 9 (Wand), line 73: no importer either",
    "unparsable without a message": "it gave no reason",
    "unbuildable": stand_in.NO_KERNEL,
    "unbuildable without a message": "it gave no reason",
    "unreadable engine": "built for another GPU",
    "exception": "std::bad_alloc",
    "no CUDA": "CUDA initialization failure",
}


@pytest.mark.parametrize("fault", FAILURES)
def test_a_failed_build_is_an_error_with_version_file_reason_and_remedy(
    fault: str,
    backend: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if fault == "no CUDA":
        monkeypatch.setenv(stand_in.WITHOUT_CUDA, "1")
    segment = write_model(tmp_path, fault="" if fault == "no CUDA" else fault)
    with pytest.raises(EngineError) as failure:
        EngineCache(tmp_path / "cache").get(segment, backend, 1)
    message = str(failure.value)
    assert "tensorrt 10.3.0" in message
    assert str(segment) in message
    assert FAILURES[fault] in message
    assert REMEDY.search(message), message
    assert engines(tmp_path / "cache") == []
    assert capfd.readouterr().err == ""


DEATHS = {
    "SIGKILL": "was killed by SIGKILL, most likely for lack of memory; close other programs, add swap",
    "SIGSEGV": "was killed by SIGSEGV, since the library crashed; report it, and attach this segment",
    "exit 3": "ended with exit code 3",
    "exit 0": "segment_0.onnx",
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_build_whose_process_dies_is_an_error_and_the_next_build_succeeds(
    death: str, backend: Backend, tmp_path: Path
) -> None:
    cache = EngineCache(tmp_path / "cache")
    segment = write_model(tmp_path, fault=death)
    with pytest.raises(EngineError, match=DEATHS[death]) as failure:
        cache.get(segment, backend, 1)
    assert str(segment) in str(failure.value)
    assert engines(tmp_path / "cache") == []
    assert not cache.get(write_model(tmp_path), backend, 1).was_cached


def at_each_phase(act: Any) -> Any:
    """Return a receiver of progress that acts at each phase of a build."""
    return lambda progress: act() if progress.note else None


def test_a_killed_build_is_an_error_about_memory(backend: Backend, tmp_path: Path) -> None:
    cache, segment = EngineCache(tmp_path / "cache"), write_model(tmp_path, fault="hang")
    kill = at_each_phase(lambda: build_processes()[0].kill())
    with pytest.raises(EngineError, match="for lack of memory"):
        cache.get(segment, backend, 1, kill)
    assert engines(tmp_path / "cache") == []


@pytest.fixture
def children() -> Iterator[list[Any]]:
    """Collect processes; those still alive after the test are killed."""
    collected: list[Any] = []
    yield collected
    for child in collected:
        if child.is_running():
            child.kill()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_abandoned_build_does_not_continue_in_the_background(
    error: type[BaseException], backend: Backend, tmp_path: Path, children: list[Any]
) -> None:
    def abandon() -> None:
        children.extend(build_processes())
        raise error

    cache, segment = EngineCache(tmp_path / "cache"), write_model(tmp_path, fault="hang")
    with pytest.raises(error):
        cache.get(segment, backend, 1, at_each_phase(abandon))
    assert len(children) == 1
    assert not children[0].is_running()
    assert engines(tmp_path / "cache") == []


def test_ctrl_c_does_not_reach_a_builds_process(backend: Backend, tmp_path: Path) -> None:
    """A terminal sends SIGINT to parent and child; the parent ends the child and reports it once."""

    def interrupt() -> None:
        for child in build_processes():
            os.kill(child.pid, signal.SIGINT)

    segment = write_model(tmp_path, kernels=[f"conv {index}" for index in range(200)])
    built = EngineCache(tmp_path / "cache").get(segment, backend, 1, at_each_phase(interrupt))
    assert built.path.exists()
