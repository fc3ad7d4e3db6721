"""TensorRT and TensorRT-RTX as backends: cache keys, the GPU's context, and chains on stand-ins for both libraries."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge.bundle import tensors
from edge.bundle.chain import ChainSpec
from edge.cuda import get_runtime
from edge.cuda.base import Sync
from edge.decision import NEVER
from edge.engines import backend_named
from edge.engines.base import Backend
from edge.engines.cache import EngineCache, load_engines
from edge.engines.tensorrt.builder import OPTIONS, build_engine
from edge.errors import EngineError
from edge.frames.base import frame_from_array
from edge.inference.slots import new_batch, new_slot
from edge.system import pip_install
from tests.support import tensorrt_stand_in as stand_in
from tests.support.networks import CLASSES, INPUT, compiled, random_images, write_precision
from tests.support.tensorrt_models import (
    MEMORY,
    error_message,
    import_fresh,
    order_for,
    segment_spec,
    write_model,
    write_models,
)

if TYPE_CHECKING:
    from tests.engines.conftest import Family
    from tests.support.cuda_stand_in import World

SEGMENT = segment_spec()

# The identity of a GPU


BOARD = ("Jetson AGX Orin", "R36, REVISION: 4.3")


def reopen(world: "World", monkeypatch: pytest.MonkeyPatch, board: str | None, l4t: str | None, **gpu: int) -> None:
    """Let this machine have another GPU."""
    from edge.cuda import runtime

    for name, value in gpu.items():
        monkeypatch.setattr(world, name, value)
    monkeypatch.setattr(runtime, "board_model", lambda: board)
    monkeypatch.setattr(runtime, "l4t_release", lambda: l4t)
    runtime._open_once.cache_clear()


def test_a_gpu_is_identified_by_more_than_its_name(world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
    reopen(world, monkeypatch, *BOARD)
    assert get_runtime().facts == {
        "gpu": "Orin",
        "compute_capability": "8.7",
        "multiprocessors": "16",
        "memory_bytes": str(64 << 30),
        "board": "Jetson AGX Orin",
        "driver": "R36, REVISION: 4.3",
    }


def test_a_missing_driver_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    (tmp_path / "pycuda" / "driver.py").write_text('raise ImportError("libcuda.so.1: cannot open shared object file")')
    monkeypatch.syspath_prepend(tmp_path)
    import_fresh("pycuda", monkeypatch)
    with pytest.raises(
        EngineError,
        match=r"libcuda\.so\.1: cannot open.*; install the NVIDIA driver and the CUDA toolkit,",
    ):
        get_runtime()


def test_a_missing_pycuda_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=rf"{re.escape(pip_install('cuda13'))} \(cuda12 for a driver of CUDA 12"):
        get_runtime()


DEVICES: dict[str, tuple[tuple[str | None, str | None], dict[str, int]]] = {
    "SMs": (BOARD, {"multiprocessors": 8}),
    "memory": (BOARD, {"memory_bytes": 32 << 30}),
    "board": (("Jetson Orin NX", BOARD[1]), {}),
    "driver": ((BOARD[0], None), {"driver_version": 13020}),
    "L4T": ((BOARD[0], "R36, REVISION: 4.4"), {}),
}


@pytest.mark.parametrize("fact", DEVICES)
def test_gpus_that_differ_in_one_fact_have_separate_engines_and_timing_caches(
    fact: str, backend: Backend, world: "World", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, segment = EngineCache(tmp_path / "cache"), write_model(tmp_path)
    monkeypatch.setattr("edge.engines.tensorrt.tensorrt.build_in_subprocess", build_engine)
    reopen(world, monkeypatch, *BOARD)
    first = cache.get(segment, backend, 1)
    assert cache.get(segment, backend, 1).was_cached
    board, gpu = DEVICES[fact]
    reopen(world, monkeypatch, *board, **gpu)
    second = cache.get(segment, backend, 1)
    assert not second.was_cached
    assert second.path != first.path
    assert len(list((tmp_path / "cache").glob("timings-*"))) == 2


def test_an_engine_depends_on_the_library_and_our_options(backend: Backend, trt: ModuleType) -> None:
    key = backend.device_key()
    assert key == {"version": "10.3.0", **OPTIONS, **get_runtime().facts}
    trt.__version__ = "10.7.0"  # type: ignore[attr-defined]
    assert backend.device_key() == key | {"version": "10.7.0"}


# Chains


def build_model(family: "Family", folder: Path) -> Path:
    """Return a new engine."""
    order = order_for(write_model(folder))
    family.backend.build(order, lambda phase: None)
    return order.engine


def chain_of_models(folder: Path) -> ChainSpec:
    """Write the tiny CNN's segments as models of the stand-in; return their chain."""
    spec = write_precision(folder, compiled("tiny cnn", "fp32"), "fp32")
    write_models(spec, folder)
    labels = tuple(f"class {k}" for k in range(CLASSES))
    return ChainSpec(INPUT, labels, spec.segments, spec.temperatures)


def never(chain: ChainSpec) -> np.ndarray:
    """Return thresholds at which no early exit is taken."""
    return np.full(chain.exits - 1, NEVER, dtype=np.float32)


def test_engines_are_read_and_refused_in_the_gpus_context(
    family: "Family", world: "World", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, depths = build_model(family, tmp_path), []
    deserialize = family.library.Runtime.deserialize_cuda_engine

    def recorded(runtime: Any, content: bytes) -> Any:
        depths.append(world.depth())
        return deserialize(runtime, content)

    monkeypatch.setattr(family.library.Runtime, "deserialize_cuda_engine", recorded)
    family.backend.load(engine, SEGMENT).bind(MEMORY)(7)
    assert len(family.library.ENQUEUED) == 1
    engine.write_bytes(b"garbage")
    message = error_message(lambda: family.backend.load(engine, SEGMENT))
    assert message.startswith(f"{family.library.__name__} 10.3.0 cannot read the engine of segment_0.onnx (")
    assert depths == [1, 1]
    assert world.depth() == 0


def test_a_runtime_that_cannot_be_created_is_an_error_that_names_the_segment(
    family: "Family", world: "World", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build_model(family, tmp_path)
    monkeypatch.setenv(stand_in.WITHOUT_CUDA, "1")
    assert "the engine of segment_0.onnx" in error_message(lambda: family.backend.load(engine, SEGMENT))
    assert world.depth() == 0


def test_slots_bind_engines_to_memory_that_the_library_accepts(
    family: "Family", world: "World", tmp_path: Path
) -> None:
    chain = chain_of_models(tmp_path / "fp32")
    engines = load_engines(tmp_path / "fp32", chain.segments, family.backend)
    slots = [new_slot(family.backend.device, chain, engines) for _ in range(2)]
    for slot in slots:
        for image in random_images(3):
            slot.start(frame_from_array(image, chain.input.kind), never(chain))
            assert slot.result().exit_index == len(engines) - 1
    runs = family.library.ENQUEUED
    compared = sum(range(1, len(engines) + 1))  # with each exit forced, the graph is held to segments without one
    assert len(runs) == 2 * (2 * len(engines) + compared)  # each slot runs and captures every segment once
    assert len({id(context) for context, *_ in runs}) == 2 * len(engines)
    assert len({context._memory for context, *_ in runs}) == 2  # the segments of a slot share it
    assert all(stream in world.streams for _, stream, *_ in runs)
    assert all(world.array(address, np.uint8).size for *_, addresses, _ in runs for address in addresses.values())


@pytest.mark.parametrize("sync", ["spin", "block"])
def test_slots_wait_as_the_backend_was_told(sync: Sync, family: "Family", world: "World", tmp_path: Path) -> None:
    chain = chain_of_models(tmp_path / "fp32")
    backend = backend_named(family.backend.name, gpu_sync=sync)
    engines = load_engines(tmp_path / "fp32", chain.segments, backend)
    slot = new_slot(backend.device, chain, engines)
    assert slot.tuning is not None
    assert slot.tuning.sync == sync


def test_batches_are_as_large_as_engines_accept_and_shrink_as_samples_exit(
    family: "Family", world: "World", tmp_path: Path
) -> None:
    chain = chain_of_models(tmp_path / "fp32")
    engines = load_engines(tmp_path / "fp32", chain.segments, family.backend, batch=None)
    batch = new_batch(family.backend.device, chain, engines)
    for samples in (50, 3):
        batch.classify(random_images(samples), never(chain))
    batch.close()
    shapes = [shapes for *_, shapes in family.library.ENQUEUED]
    cut = tensors.cut(0, 1)[0]
    assert [shape[tensors.IMAGE][0] for shape in shapes if tensors.IMAGE in shape] == [32, 18, 3]
    assert [shape[cut][0] for shape in shapes if cut in shape] == [32, 18, 3]  # thresholds are never reached


def test_engines_for_batch_1_refuse_a_batch_with_a_remedy(family: "Family", world: "World", tmp_path: Path) -> None:
    chain = chain_of_models(tmp_path / "fp32")
    engines = load_engines(tmp_path / "fp32", chain.segments, family.backend)
    message = error_message(lambda: new_batch(family.backend.device, chain, engines))
    assert "the engine of fp32/segment_0.onnx was built for one image per call; load the engine with" in message
