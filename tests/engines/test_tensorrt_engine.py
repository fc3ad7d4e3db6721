"""Engines of the TensorRT family on a stand-in: loading, bindings, and statuses that report failure."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest

from edge.cuda.base import PREPARING, RETIRED, decision_tensors, retire
from edge.engines.cache import ENGINE
from edge.engines.tensorrt.contexts import RUNTIME_CACHE
from edge.engines.tensorrt.engine import TensorRtEngine
from tests.support import tensorrt_stand_in as stand_in
from tests.support.tensorrt_models import (
    ADDRESSES,
    IMAGE,
    LOGITS,
    MEMORY,
    SHAPES,
    build_plan,
    error_message,
    load_model,
    segment_spec,
    write_model,
)


@pytest.mark.parametrize("samples", [(), (2,)], ids=["batch 1", "any batch"])
def test_each_binding_runs_on_its_stream_with_its_addresses_in_its_own_context(
    samples: tuple[int, ...], trt: ModuleType, tmp_path: Path
) -> None:
    engine = load_model(trt, tmp_path, batch=None)
    other = {name: address + 0x8000 for name, address in ADDRESSES.items()}
    bind: Callable[..., Callable[..., None]] = engine.bind_batch if samples else engine.bind
    first, second = (bind({**MEMORY, **addresses, "unrelated": 0x40}) for addresses in (ADDRESSES, other))
    assert trt.ENQUEUED == []
    for enqueue, stream in ((first, 7), (second, 8), (first, 9)):
        assert enqueue(stream, *samples) is None
    runs = [(stream, addresses) for _, stream, addresses, _ in trt.ENQUEUED]
    assert runs == [(7, ADDRESSES), (8, other), (9, ADDRESSES)]
    contexts = [context for context, *_ in trt.ENQUEUED]
    assert contexts[0] is contexts[2]
    assert contexts[0] is not contexts[1]


@pytest.mark.parametrize("batch", [1, None])
def test_every_dynamic_input_is_bound_with_batch_1(batch: int | None, trt: ModuleType, tmp_path: Path) -> None:
    inputs = {IMAGE: [-1, 3, 16, 16], "map": [-1, 8, 4, 4], "threshold": [1]}
    engine = load_model(trt, tmp_path, batch, inputs=inputs)
    engine.bind({**MEMORY, "map": 0x3000, "threshold": 0x4000})(7)
    [(*_, shapes)] = trt.ENQUEUED
    assert shapes == ({} if batch else {IMAGE: (1, 3, 16, 16), "map": (1, 8, 4, 4)})


FAILURES = {
    "unreadable engine": "tensorrt 10.3.0 cannot read the engine of segment_0.onnx",
    "no context": "the engine of segment_0.onnx cannot create an execution context, most likely for lack of memory",
    "refused shape": f"the engine of segment_0.onnx does not accept {IMAGE} with shape (1, 3, 16, 16)",
    "refused address": f"the engine of segment_0.onnx does not accept the address of {IMAGE}",
    "no start": "the engine of segment_0.onnx did not start",
}


def remedy_for(fault: str) -> str:
    return "close other programs" if fault == "no context" else "see `edge doctor`"


@pytest.mark.parametrize("suffix", ["", " without a message"])
@pytest.mark.parametrize("fault", FAILURES)
def test_a_failing_status_is_an_error_with_segment_failure_reason_and_remedy(
    fault: str, suffix: str, trt: ModuleType, tmp_path: Path
) -> None:
    message = error_message(lambda: load_model(trt, tmp_path, None, fault=fault + suffix).bind(MEMORY)(7))
    reason = "it gave no reason" if suffix else stand_in.MESSAGES[fault]
    remedy = f"; remove {tmp_path} and build it again on this machine, or see `edge doctor`"
    rest = f" ({reason}){remedy}" if fault == "unreadable engine" else f": {reason}; {remedy_for(fault)}"
    assert message == FAILURES[fault] + rest
    assert trt.ENQUEUED == []


@pytest.mark.parametrize("fault", ["no context", "refused address", "no start"])
def test_a_failing_status_of_a_batch_is_an_error_too(fault: str, trt: ModuleType, tmp_path: Path) -> None:
    message = error_message(lambda: load_model(trt, tmp_path, batch=None, fault=fault).bind_batch(MEMORY)(7, 2))
    assert message == f"{FAILURES[fault]}: {stand_in.MESSAGES[fault]}; {remedy_for(fault)}"
    assert trt.ENQUEUED == []


WRONG_TENSORS = {
    "unknown input": (
        segment_spec(inputs={}),
        f"has {IMAGE} (float32 1x3x16x16) where the segment has none; build it again",
    ),
    "unknown output": (
        segment_spec(outputs={}),
        f"has {LOGITS} (float32 1x10) where the segment has none; build it again",
    ),
    "missing output": (
        segment_spec(outputs={**SHAPES["outputs"], "cut_0": [-1, 8]}),
        "has none where the segment has cut_0 (float32 1x8); build it again",
    ),
    "other name": (
        segment_spec(inputs={"picture": [-1, 3, 16, 16]}),
        f"has {IMAGE} (float32 1x3x16x16) where the segment has picture (float32 1x3x16x16); build it again",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_TENSORS)
def test_an_engine_with_other_tensors_than_its_segment_is_refused(wrong: str, trt: ModuleType, tmp_path: Path) -> None:
    build_plan(write_model(tmp_path))
    spec, difference = WRONG_TENSORS[wrong]
    message = error_message(lambda: TensorRtEngine(trt, tmp_path / ENGINE, spec))
    assert message == f"the engine of segment_0.onnx {difference}"


@pytest.mark.parametrize(("dtype", "text"), [("HALF", "float16"), ("INT64", "INT64")])
def test_an_engine_with_another_type_than_its_segment_is_refused(
    dtype: str, text: str, trt: ModuleType, tmp_path: Path
) -> None:
    build_plan(write_model(tmp_path, dtypes={LOGITS: dtype}))
    message = error_message(lambda: TensorRtEngine(trt, tmp_path / ENGINE, segment_spec()))
    assert f"has {LOGITS} ({text} 1x10) where the segment has {LOGITS} (float32 1x10); build it again" in message


def test_an_engine_for_another_batch_is_refused(trt: ModuleType, tmp_path: Path) -> None:
    message = error_message(lambda: load_model(trt, tmp_path, batch=4))
    assert f"has {IMAGE} (float32 4x3x16x16), {LOGITS} (float32 4x10) where the segment has {IMAGE}" in message


@pytest.mark.parametrize("name", [IMAGE, LOGITS])
def test_an_engine_with_a_foreign_format_is_refused(name: str, trt: ModuleType, tmp_path: Path) -> None:
    plan = build_plan(write_model(tmp_path))
    plan["model"]["formats"][name] = "CHW32"
    (tmp_path / ENGINE).write_text(json.dumps(plan))
    message = error_message(lambda: TensorRtEngine(trt, tmp_path / ENGINE, segment_spec()))
    assert f"has {name} (float32 1x" in message
    assert " in format CHW32 where the segment has " in message


def test_an_engine_may_lack_the_decision_and_may_have_it(trt: ModuleType, tmp_path: Path) -> None:
    decided = {name: [-1] for name in decision_tensors(0)}
    spec = segment_spec(outputs={**SHAPES["outputs"], **decided})
    plan = build_plan(write_model(tmp_path, outputs={**SHAPES["outputs"], **decided}))
    assert TensorRtEngine(trt, tmp_path / ENGINE, spec).bind(MEMORY)
    plan["model"]["outputs"] |= {name: [1] for name in decided}
    (tmp_path / ENGINE).write_text(json.dumps(plan))
    engine = TensorRtEngine(trt, tmp_path / ENGINE, spec)
    assert engine.bind({**MEMORY, **dict.fromkeys(decided, 32768)})


def test_compiled_kernels_are_kept_beside_the_engine(trt: ModuleType, tmp_path: Path) -> None:
    """TensorRT-RTX compiles an engine's kernels when it runs, and again at each start without a cache."""
    load_model(trt, tmp_path).bind(MEMORY)
    assert (tmp_path / RUNTIME_CACHE).read_bytes() == b"compiled kernels"
    (tmp_path / RUNTIME_CACHE).write_bytes(b"of another driver")
    TensorRtEngine(trt, tmp_path / ENGINE, segment_spec()).bind(MEMORY)
    assert (tmp_path / RUNTIME_CACHE).read_bytes() == b"compiled kernels"


def test_an_engine_without_a_dynamic_batch_is_refused_as_a_batch(trt: ModuleType, tmp_path: Path) -> None:
    static = {"inputs": {IMAGE: [1, 3, 16, 16]}, "outputs": {LOGITS: [1, 10]}}
    engine = load_model(trt, tmp_path, **static)
    message = error_message(lambda: engine.bind_batch(MEMORY))
    assert message == (
        "the engine of segment_0.onnx was built for one image per call; "
        "load the engine with batch=None for several images"
    )


@pytest.mark.parametrize("content", [b"", b"\x00garbage"])
def test_a_file_that_is_not_an_engine_is_refused_by_the_library(
    content: bytes, trt: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / ENGINE).write_bytes(content)
    message = error_message(lambda: TensorRtEngine(trt, tmp_path / ENGINE, segment_spec()))
    assert "cannot read the engine of segment_0.onnx (Error Code 1: Serialization" in message
    assert f"; remove {tmp_path} and build it again" in message


def test_an_engine_is_freed_when_no_other_thread_prepares(trt: ModuleType, tmp_path: Path) -> None:
    """Freeing may synchronise the GPU, which spoils a capture; waiting for that may deadlock, in garbage collection."""
    engines = [load_model(trt, tmp_path)]
    handle = engines[0]._engine
    with PREPARING:
        thread = Thread(target=engines.clear)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        assert any(handle in handles for handles in RETIRED)
    retire()  # as the end of a preparation does
    assert not RETIRED
