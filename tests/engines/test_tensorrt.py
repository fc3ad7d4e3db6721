"""TensorRT, which needs a GPU that tests do not: its names as released, and a stand-in that refuses illegal use."""

import importlib
import json
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorrt_names as names
import tensorrt_stand_in as stand_in

from edge.bundle.manifest import PrecisionSpec, SegmentSpec, TensorSpec
from edge.cuda import device
from edge.cuda.identity import device_facts
from edge.engines import backend_named
from edge.engines.base import Backend, BuildOrder
from edge.engines.cache import ENGINE, ENTRY, LAYERS, EngineCache, load_engines
from edge.engines.tensorrt.builder import FREE_BATCH, OPTIONS, WORKSPACE_BYTES, TensorRtOrder, build_engine
from edge.engines.tensorrt.engine import TensorRtEngine
from edge.errors import EngineError
from edge.inference.classifier import Classifier
from tests.support import torch_tensorrt_names
from tests.support.cuda_stand_in import World
from tests.support.networks import INPUT, compiled, random_images, written

RELEASES = ["10.3.0", "10.7.0", "10.13.3.9", "10.16.1.11", "11.0.0.114", "11.4.0.106"]
TABLE = json.loads(names.TABLE.read_text())
READ = [names.used_names(path.read_text()) for path in names.sources()]
USED, PROBED = (set().union(*found) for found in zip(*READ, strict=True))


# Names


def test_every_name_of_tensorrt_that_we_use_was_looked_for_in_its_releases() -> None:
    assert list(TABLE["wheels"]) == RELEASES
    assert set(TABLE["names"]) == USED, (
        "we use other names of TensorRT than the table has: run `python tests/tensorrt_names.py WHEELS` (it says how); "
        "if a name here is not TensorRT's, add it to NOT_TENSORRT there"
    )


@pytest.mark.parametrize("name", sorted(USED - PROBED - names.RTX_ONLY))
def test_every_release_has_the_name(name: str) -> None:
    assert TABLE["names"].get(name) == RELEASES


@pytest.mark.parametrize("name", sorted(USED - PROBED))
def test_tensorrt_rtx_has_the_name(name: str) -> None:
    assert names.has_name(pytest.importorskip("tensorrt_rtx"), name)


@pytest.mark.parametrize("name", sorted(names.RTX_ONLY))
def test_what_only_tensorrt_rtx_has_is_used(name: str) -> None:
    assert name in USED
    assert TABLE["names"][name] == []


def test_the_table_knows_what_releases_lack() -> None:
    assert TABLE["controls"] == {
        "BuilderFlag.FP16": RELEASES[:4],
        ".build_engine_with_config": RELEASES[1:],
        ".num_bindings": [],
        ".set_timing_cache(mismatch)": [],
        ".set_tim": [],
    }


def test_names_are_read_off_code() -> None:
    code = """
import tensorrt_rtx as rtx
import importlib, re

class Log(rtx.ILogger):
    def log(self, severity, message): self._kept.append(message.strip())
    def _ours(self): return self.engine.own_context.name + rtx.__name__

def build(trt: ModuleType, builder: Any, order: Order, tell) -> None:
    config = builder.make(kind=trt.Kind.GOOD)
    config.streams = order.streams.count()
    if hasattr(config, "newer") and getattr(config, "newest", None):
        other = importlib.import_module("tensorrt")
        other.thing(", ".join(re.findall("x", "y"))).other_thing[0].third_thing()
    return getattr(rtx.Kind, "BEST")
"""
    used, probed = names.used_names(code)
    assert used == {
        "ILogger", "ILogger.log", ".own_context", ".name", ".append", ".strip", ".make", ".make(kind)", "Kind.GOOD",
        ".streams", ".newer", ".newest", "thing", ".other_thing", ".third_thing", "Kind.BEST", "Kind",
    }  # fmt: skip
    assert probed == {".newer", ".newest"}


def test_tensorrt_is_spoken_in_these_files_only() -> None:
    ours = ("tensorrt.py", "tensorrt_builder.py", "tensorrt_engine.py", "tensorrt_log.py", "tensorrt_rtx.py")
    assert [path.name for path in names.sources()] == list(ours)


def test_torch_tensorrt_takes_what_it_is_given() -> None:
    source = Path(__file__).parents[1] / "compile" / "torch_tensorrt.py"
    given = torch_tensorrt_names.keywords_given(source.read_text())
    takes = json.loads(torch_tensorrt_names.TABLE.read_text())["takes"]
    assert {"arg_inputs", "output_binding_names"} <= given
    assert given <= set(takes)


# The stand-in


@pytest.mark.parametrize("name", sorted(USED - PROBED - names.RTX_ONLY))
def test_the_stand_in_has_the_name(name: str) -> None:
    path, _, _ = name.partition("(")
    assert names.has_name(stand_in, path) or path in ("ILogger.log", *(f"IProgressMonitor.{m}" for m in MONITORED))


MONITORED = ("phase_start", "step_complete", "phase_finish")
"""Which whoever derives from the monitor writes."""


def public_names(owner: Any) -> Iterator[str]:
    for name, value in vars(owner).items():
        if isinstance(value, type) and value.__module__ == stand_in.__name__ and not name.startswith("_"):
            yield name
            yield from (f"{name}.{attribute}" for attribute in vars(value) if not attribute.startswith("_"))


def test_the_stand_in_has_no_names_that_tensorrt_has_not() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    claimed = set(public_names(stand_in)) - {"IllegalUseError"}
    assert len(claimed) > 50
    assert [name for name in claimed if not names.has_name(rtx, name)] == []


class Sequence:
    """Builders, networks and so on of the stand-in, made up to where a test wants to go wrong."""

    def __init__(self, segment: Path) -> None:
        class Log(stand_in.ILogger):
            def log(self, severity: object, message: str) -> None:
                """Say nothing."""

        class Monitor(stand_in.IProgressMonitor):
            phase_start = phase_finish = step_complete = lambda *_: True

        self.segment = str(segment)
        self.log = Log()
        self.builder, self.other = stand_in.Builder(self.log), stand_in.Builder(self.log)
        self.network = self.builder.create_network(1 << 1)
        self.parser = stand_in.OnnxParser(self.network, self.log)
        self.config = self.builder.create_builder_config()
        self.config.progress_monitor = Monitor()
        self.profile = self.builder.create_optimization_profile()

    def parsed(self) -> "Sequence":
        assert self.parser.parse_from_file(self.segment)
        return self

    def configured(self) -> "Sequence":
        self.profile.set_shape("image", *((1, 3, 16, 16),) * 3)
        self.config.add_optimization_profile(self.profile)
        return self

    def build(self) -> Any:
        return self.builder.build_serialized_network(self.network, self.config)

    def with_timings(self) -> Any:
        return self.config.set_timing_cache(self.config.create_timing_cache(b""), ignore_mismatch=False)

    def engine(self) -> Any:
        return stand_in.Runtime(self.log).deserialize_cuda_engine(bytes(self.parsed().configured().build()))

    def context(self, *, shapes: tuple[str, ...] = ("image",), places: tuple[str, ...] = ("image", "logits")) -> Any:
        context = self.engine().create_execution_context()
        assert all(context.set_input_shape(name, (1, 3, 16, 16)) for name in shapes)
        assert all(context.set_tensor_address(name, PLACES[name]) for name in places)
        return context


def unconstructed_log() -> Any:
    class Log(stand_in.ILogger):
        def __init__(self) -> None:
            """Forget the base."""

    return Log()


REFUSED: dict[str, tuple[type[Exception], Callable[[Sequence], object]]] = {
    "a log of no kind": (TypeError, lambda s: stand_in.Builder(print)),
    "a log without its base": (TypeError, lambda s: stand_in.Builder(unconstructed_log())),
    "a network of no types": (stand_in.IllegalUseError, lambda s: s.builder.create_network()),
    "a path that is no text": (TypeError, lambda s: s.parser.parse_from_file(Path(s.segment))),
    "parsing twice": (stand_in.IllegalUseError, lambda s: s.parsed().parser.parse_from_file(s.segment)),
    "parsing after the build": (
        stand_in.IllegalUseError,
        lambda s: s.parsed().configured().build() and s.parser.parse_from_file(s.segment),
    ),
    "inputs before parsing": (stand_in.IllegalUseError, lambda s: s.network.num_inputs),
    "building what was not parsed": (stand_in.IllegalUseError, lambda s: s.configured().build()),
    "building without a profile": (stand_in.IllegalUseError, lambda s: s.parsed().build()),
    "building with an empty profile": (
        stand_in.IllegalUseError,
        lambda s: s.parsed().config.add_optimization_profile(s.profile) or s.build(),
    ),
    "building twice": (
        stand_in.IllegalUseError,
        lambda s: s.parsed().configured().build() and s.build(),
    ),
    "another builder's network": (
        stand_in.IllegalUseError,
        lambda s: s.parsed().configured().other.build_serialized_network(s.network, s.config),
    ),
    "another builder's config": (
        stand_in.IllegalUseError,
        lambda s: s.parsed().builder.build_serialized_network(s.network, s.other.create_builder_config()),
    ),
    "another builder's profile": (
        stand_in.IllegalUseError,
        lambda s: s.config.add_optimization_profile(s.other.create_optimization_profile()),
    ),
    "a profile upside down": (ValueError, lambda s: s.profile.set_shape("image", (2,), (1,), (1,))),
    "a profile of no numbers": (TypeError, lambda s: s.profile.set_shape("image", ("a",), ("a",), ("a",))),
    "timings twice": (stand_in.IllegalUseError, lambda s: s.with_timings() and s.with_timings()),
    "timings after the build": (
        stand_in.IllegalUseError,
        lambda s: s.parsed().configured().build() and s.with_timings(),
    ),
    "no timings": (TypeError, lambda s: s.config.set_timing_cache(None, ignore_mismatch=False)),
    "a limit of no pool": (TypeError, lambda s: s.config.set_memory_pool_limit("workspace", 1)),
    "settings after the build": (
        stand_in.IllegalUseError,
        lambda s: s.parsed().configured().build() and setattr(s.config, "max_aux_streams", 0),
    ),
    "settings there are not": (AttributeError, lambda s: setattr(s.config, "max_workspace_size", 1)),
    "compute capabilities": (AttributeError, lambda s: setattr(s.config, "num_compute_capabilities", 1)),
    "an engine that is no bytes": (TypeError, lambda s: stand_in.Runtime(s.log).deserialize_cuda_engine("engine")),
    "a tensor too many": (stand_in.IllegalUseError, lambda s: s.engine().get_tensor_name(2)),
    "the shape of no tensor": (stand_in.IllegalUseError, lambda s: s.engine().get_tensor_shape("picture")),
    "the mode of no tensor": (stand_in.IllegalUseError, lambda s: s.engine().get_tensor_mode("picture")),
    "a shape for no tensor": (stand_in.IllegalUseError, lambda s: s.context().set_input_shape("picture", (1,))),
    "a shape for an output": (stand_in.IllegalUseError, lambda s: s.context().set_input_shape("logits", (1, 10))),
    "a shape too short": (stand_in.IllegalUseError, lambda s: s.context().set_input_shape("image", (3, 16, 16))),
    "a shape of no numbers": (TypeError, lambda s: s.context().set_input_shape("image", (None, 3, 16, 16))),
    "an address for no tensor": (stand_in.IllegalUseError, lambda s: s.context().set_tensor_address("picture", 1 << 9)),
    "an address that is no number": (TypeError, lambda s: s.context().set_tensor_address("image", "0x1000")),
    "an address of nothing": (stand_in.IllegalUseError, lambda s: s.context().set_tensor_address("image", 0)),
    "an address between": (stand_in.IllegalUseError, lambda s: s.context().set_tensor_address("image", 0x1080)),
    "running with an input nowhere": (
        stand_in.IllegalUseError,
        lambda s: s.context(places=("logits",)).execute_async_v3(7),
    ),
    "running with an output nowhere": (
        stand_in.IllegalUseError,
        lambda s: s.context(places=("image",)).execute_async_v3(7),
    ),
    "running with a free batch": (stand_in.IllegalUseError, lambda s: s.context(shapes=()).execute_async_v3(7)),
    "running on the default stream": (stand_in.IllegalUseError, lambda s: s.context().execute_async_v3(0)),
    "running on no number": (TypeError, lambda s: s.context().execute_async_v3(None)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_stand_in_refuses(what: str, tmp_path: Path) -> None:
    error, misuse = REFUSED[what]
    with pytest.raises(error) as refusal:
        misuse(Sequence(write_model(tmp_path)))
    assert type(refusal.value) is error


def test_the_stand_in_runs_what_is_bound(tmp_path: Path) -> None:
    assert Sequence(write_model(tmp_path)).context().execute_async_v3(7)


# One segment


def write_model(folder: Path, name: str = "segment_0.onnx", **content: object) -> Path:
    """Write what the stand-in takes for an ONNX file."""
    tensors = {"inputs": {"image": [-1, 3, 16, 16]}, "outputs": {"logits": [-1, 10]}}
    model = {**tensors, "kernels": ["conv", "relu"], **content}
    (folder / name).write_text(json.dumps(model))
    return folder / name


@pytest.fixture
def trt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Let `import tensorrt` find the stand-in, here and in processes started here."""
    return stood_in("tensorrt", tmp_path / "site", monkeypatch)


def stood_in(library: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a library of the family from a new folder that has the stand-in only."""
    site.mkdir()
    (site / f"{library}.py").symlink_to(stand_in.__file__)
    monkeypatch.syspath_prepend(site)
    return imported_anew(library, monkeypatch)


def imported_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a module as if it had not been, and forget it after the test."""
    monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]  # so that there is something to undo
    del sys.modules[name]
    return importlib.import_module(name)


def order_for(segment: Path, batch: int | None = 1) -> BuildOrder:
    folder = segment.parent
    return BuildOrder(segment, batch, folder / ENGINE, folder / LAYERS, folder / "timings")


def built(segment: Path, batch: int | None = 1) -> dict[str, Any]:
    """Build in this process; return what the stand-in made of it."""
    order = order_for(segment, batch)
    build_engine(TensorRtOrder("tensorrt", None, order), lambda text: None)
    return dict(json.loads(order.engine.read_text()))


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize(("batch", "sizes"), [(1, (1, 1, 1)), (4, (4, 4, 4)), (None, FREE_BATCH)])
def test_the_free_dimension_becomes_the_batch(batch: int | None, sizes: tuple[int, ...], tmp_path: Path) -> None:
    segment = write_model(tmp_path, inputs={"image": [-1, 3, 16, 16], "map": [-1, 8, 4, 4]})
    shapes = built(segment, batch)["shapes"]
    assert shapes == {"image": [[n, 3, 16, 16] for n in sizes], "map": [[n, 8, 4, 4] for n in sizes]}


@pytest.mark.usefixtures("trt")
def test_an_engine_is_built_with_our_options_and_described(tmp_path: Path) -> None:
    plan = built(write_model(tmp_path))
    verbosity = int(stand_in.ProfilingVerbosity.DETAILED)
    assert plan["settings"] == {"workspace": WORKSPACE_BYTES, "aux_streams": 0, "tf32": 0, "verbosity": verbosity}
    assert json.loads((tmp_path / LAYERS).read_text()) == {"Layers": [{"Name": "conv"}, {"Name": "relu"}]}


@pytest.mark.usefixtures("trt")
def test_progress_is_that_of_the_outermost_phase(tmp_path: Path) -> None:
    said: list[str] = []
    build_engine(TensorRtOrder("tensorrt", None, order_for(write_model(tmp_path))), said.append)
    assert said == ["Building engine 1/2", "Building engine 2/2"]


@pytest.mark.usefixtures("trt")
def test_a_kernel_is_timed_once_for_all_segments(tmp_path: Path) -> None:
    assert built(write_model(tmp_path))["timed"] == ["conv", "relu"]
    assert built(write_model(tmp_path))["timed"] == []
    assert built(write_model(tmp_path, "segment_1.onnx", kernels=["relu", "pool"]))["timed"] == ["pool"]


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("kept", [b"", b"\x00garbage", b'{"device": "another GPU", "kernels": ["conv", "relu"]}'])
def test_timings_that_cannot_be_used_are_replaced(kept: bytes, tmp_path: Path) -> None:
    (tmp_path / "timings").write_bytes(kept)
    assert built(write_model(tmp_path))["timed"] == ["conv", "relu"]
    assert json.loads((tmp_path / "timings").read_text()) == {"device": stand_in.DEVICE, "kernels": ["conv", "relu"]}


# One engine


PLACES = {"image": 0x1000, "logits": 0x2000}
"""Addresses."""


def loaded(
    trt: ModuleType, folder: Path, batch: int | None = 1, trouble: str = "", **content: object
) -> TensorRtEngine:
    """Build an engine in this process and load it; trouble comes after the build."""
    plan = built(write_model(folder, **content), batch)
    plan["model"]["trouble"] = trouble
    (folder / ENGINE).write_text(json.dumps(plan))
    return TensorRtEngine(trt, folder / ENGINE, "segment_0.onnx")


@pytest.mark.parametrize("images", [(), (2,)], ids=["one image", "many images"])
def test_each_binding_runs_on_its_stream_with_its_addresses_in_a_context_of_its_own(
    images: tuple[int, ...], trt: ModuleType, tmp_path: Path
) -> None:
    engine = loaded(trt, tmp_path, batch=None)
    other = {name: place + 0x8000 for name, place in PLACES.items()}
    bind: Callable[..., Callable[..., None]] = engine.bind_batch if images else engine.bind
    first, second = (bind({**places, "said_0": 0x40}) for places in (PLACES, other))
    assert trt.ENQUEUED == []
    for enqueue, stream in ((first, 7), (second, 8), (first, 9)):
        assert enqueue(stream, *images) is None
    assert [(stream, places) for _, stream, places, _ in trt.ENQUEUED] == [(7, PLACES), (8, other), (9, PLACES)]
    one, another, again = (context for context, *_ in trt.ENQUEUED)
    assert one is again
    assert one is not another


@pytest.mark.parametrize("batch", [1, None])
def test_every_input_has_a_shape_with_batch_1(batch: int | None, trt: ModuleType, tmp_path: Path) -> None:
    inputs = {"image": [-1, 3, 16, 16], "map": [-1, 8, 4, 4], "threshold": [1]}
    engine = loaded(trt, tmp_path, batch, inputs=inputs)
    engine.bind({**PLACES, "map": 0x3000, "threshold": 0x4000})(7)
    [(*_, shapes)] = trt.ENQUEUED
    assert shapes == {"image": (1, 3, 16, 16), "map": (1, 8, 4, 4), "threshold": (1,)}


REFUSALS = {
    "unreadable engine": "tensorrt 10.3.0 cannot read the engine of segment_0.onnx",
    "no context": "the engine of segment_0.onnx gives no execution context, most likely for lack of memory",
    "refused shape": "the engine of segment_0.onnx does not take image with shape (1, 3, 16, 16)",
    "refused address": "the engine of segment_0.onnx does not take the memory of image",
    "no start": "the engine of segment_0.onnx did not start",
}


def refusal_of(run: Callable[[], object]) -> str:
    """Return the message with which it ends."""
    with pytest.raises(EngineError) as failure:
        run()
    return str(failure.value)


@pytest.mark.parametrize("word", ["", " without a word"])
@pytest.mark.parametrize("trouble", REFUSALS)
def test_a_failing_status_is_an_error_that_names_segment_refusal_reason_and_remedy(
    trouble: str, word: str, trt: ModuleType, tmp_path: Path
) -> None:
    message = refusal_of(lambda: loaded(trt, tmp_path, trouble=trouble + word).bind(PLACES)(7))
    reason = "it gave no reason" if word else stand_in.REASONS[trouble]
    remedy = f"; remove {tmp_path} and build it again on this machine, or see `edge doctor`"
    ends = f" ({reason}){remedy}" if trouble == "unreadable engine" else f": {reason}; see `edge doctor`"
    assert message == REFUSALS[trouble] + ends
    assert trt.ENQUEUED == []


@pytest.mark.parametrize("trouble", ["no context", "refused address", "no start"])
def test_a_failing_status_is_an_error_where_many_images_are_bound_too(
    trouble: str, trt: ModuleType, tmp_path: Path
) -> None:
    message = refusal_of(lambda: loaded(trt, tmp_path, batch=None, trouble=trouble).bind_batch(PLACES)(7, 2))
    assert message == f"{REFUSALS[trouble]}: {stand_in.REASONS[trouble]}; see `edge doctor`"
    assert trt.ENQUEUED == []


@pytest.mark.parametrize("missing", PLACES)
def test_a_missing_address_is_an_error_that_names_segment_and_tensor(
    missing: str, trt: ModuleType, tmp_path: Path
) -> None:
    engine = loaded(trt, tmp_path)
    places = {name: place for name, place in PLACES.items() if name != missing}
    message = refusal_of(lambda: engine.bind(places))
    expected = f"the engine of segment_0.onnx has a tensor {missing} that the bundle does not know; build it again"
    assert message == expected


def test_an_engine_for_another_batch_is_refused_when_it_is_bound(trt: ModuleType, tmp_path: Path) -> None:
    engine = loaded(trt, tmp_path, batch=4)
    message = refusal_of(lambda: engine.bind(PLACES))
    assert "does not take image with shape (1, 3, 16, 16)" in message
    assert "image is [4, 3, 16, 16] to [4, 3, 16, 16]" in message


@pytest.mark.parametrize("content", [b"", b"\x00garbage"])
def test_what_is_no_engine_is_refused_by_the_library(content: bytes, trt: ModuleType, tmp_path: Path) -> None:
    (tmp_path / ENGINE).write_bytes(content)
    message = refusal_of(lambda: TensorRtEngine(trt, tmp_path / ENGINE, "segment_0.onnx"))
    assert "cannot read the engine of segment_0.onnx (Error Code 1: Serialization" in message
    assert f"; remove {tmp_path} and build it again" in message


# The GPU


class Attribute(IntEnum):
    """Device attributes, numbered as CUDA does."""

    MULTIPROCESSOR_COUNT = 16


def cuda_driver(*, sms: int = 16, memory: int = 64 << 30, version: int = 12060, devices: int = 1) -> ModuleType:
    """Return a stand-in for `pycuda.driver`: an Orin, which has to be initialised."""
    cuda: Any = ModuleType("pycuda.driver")
    cuda.Error = type("Error", (Exception,), {})
    cuda.LogicError, cuda.RuntimeError = (type(name, (cuda.Error,), {}) for name in ("LogicError", "RuntimeError"))
    cuda.is_initialised = False

    def init() -> None:
        if devices == 0:
            raise cuda.RuntimeError("cuInit failed: no CUDA-capable device is detected")
        cuda.is_initialised = True

    class Device:
        def __init__(self, index: int) -> None:
            if not cuda.is_initialised:
                raise cuda.LogicError("cuDeviceGet failed: initialization error")
            if index >= devices:
                raise cuda.LogicError("cuDeviceGet failed: invalid device ordinal")

        def name(self) -> str:
            return "Orin"

        def compute_capability(self) -> tuple[int, int]:
            return 8, 7

        def total_memory(self) -> int:
            return memory

        def get_attribute(self, attribute: Attribute) -> int:
            return {Attribute.MULTIPROCESSOR_COUNT: sms}[attribute]

    cuda.init, cuda.Device, cuda.device_attribute, cuda.get_driver_version = init, Device, Attribute, lambda: version
    return cuda


def install(cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    package: Any = ModuleType("pycuda")
    package.driver = cuda
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", cuda)


def on_this_device(
    monkeypatch: pytest.MonkeyPatch, *, board: str | None = None, l4t: str | None = None, **gpu: int
) -> None:
    install(cuda_driver(**gpu), monkeypatch)
    monkeypatch.setattr(device, "board_model", lambda: board)
    monkeypatch.setattr(device, "l4t_release", lambda: l4t)


def test_a_gpu_is_told_from_others_by_more_than_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    on_this_device(monkeypatch, board="Jetson AGX Orin", l4t="R36, REVISION: 4.3")
    assert device_facts() == {
        "gpu": "Orin",
        "compute_capability": "8.7",
        "multiprocessors": "16",
        "memory_bytes": str(64 << 30),
        "board": "Jetson AGX Orin",
        "driver": "R36, REVISION: 4.3",
    }


def test_a_machine_without_a_gpu_is_told_to_use_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    on_this_device(monkeypatch, devices=0)
    with pytest.raises(EngineError, match=r"no CUDA-capable device is detected; run with --backend onnxruntime"):
        device_facts()


def test_a_missing_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    (tmp_path / "pycuda" / "driver.py").write_text('raise ImportError("libcuda.so.1: cannot open shared object file")')
    monkeypatch.syspath_prepend(tmp_path)
    imported_anew("pycuda", monkeypatch)
    with pytest.raises(EngineError, match=r"libcuda\.so\.1: cannot open.*; install the NVIDIA driver, then pip"):
        device_facts()


def test_a_missing_pycuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r"pip install 'early-exit\[cuda13\]' \(cuda12 for a driver of CUDA 12"):
        device_facts()


# The backend


@pytest.fixture
def backend(trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Return the backend on the stand-ins."""
    on_this_device(monkeypatch)
    imported_anew("edge.engines.tensorrt", monkeypatch)
    return backend_named("tensorrt")


DEVICES: dict[str, dict[str, Any]] = {
    "SMs": {"sms": 8},
    "memory": {"memory": 32 << 30},
    "board": {"board": "Jetson Orin NX"},
    "driver": {"version": 13020},
    "L4T": {"l4t": "R36, REVISION: 4.3"},
}


@pytest.mark.parametrize("what", DEVICES)
def test_gpus_that_differ_in_one_thing_have_engines_and_timings_of_their_own(
    what: str, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, segment = EngineCache(tmp_path / "cache"), write_model(tmp_path)
    monkeypatch.setattr(
        "edge.engines.tensorrt.build_in_child", lambda order, on_progress: build_engine(order, on_progress)
    )
    first = cache.built(segment, backend, 1)
    assert cache.built(segment, backend, 1).was_cached
    on_this_device(monkeypatch, **DEVICES[what])
    second = cache.built(segment, backend, 1)
    assert not second.was_cached
    assert second.path != first.path
    assert len(list((tmp_path / "cache").glob("timings-*"))) == 2


def test_an_engine_depends_on_the_library_and_our_options(backend: Backend, trt: ModuleType) -> None:
    key = backend.device_key()
    assert key == {"version": "10.3.0", **OPTIONS, **device_facts()}
    trt.__version__ = "10.7.0"  # type: ignore[attr-defined]
    assert backend.device_key() == key | {"version": "10.7.0"}


def test_an_engine_is_built_in_another_process(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    watch_builds(monkeypatch, said.append)
    cache, segment = EngineCache(tmp_path / "cache"), write_model(tmp_path)
    first = cache.built(segment, backend, 1)
    assert not first.was_cached
    assert said == ["Building engine 1/2", "Building engine 2/2"]
    assert sorted(path.name for path in first.path.parent.iterdir()) == [ENGINE, ENTRY, LAYERS]
    assert cache.built(segment, backend, 1).was_cached
    assert "tensorrt" in sys.modules
    assert not multiprocessing.active_children()


def test_tensorrt_builds_for_this_machine_only(backend: Backend) -> None:
    with pytest.raises(EngineError, match="tensorrt builds for the GPU in this machine only, not for 'sm87'"):
        backend_named("tensorrt", target="sm87")


LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Backends and the modules they run on."""
SEGMENT = SegmentSpec("segment_0.onnx", (), (), 0.0)


class Family(NamedTuple):
    """A backend of the family on the stand-in, which builds in this process."""

    backend: Backend
    library: ModuleType


@pytest.fixture(params=LIBRARIES)
def family(request: pytest.FixtureRequest, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    """Return one after the other."""
    name = LIBRARIES[request.param]
    library = stood_in(name, tmp_path / "site", monkeypatch)
    ours = imported_anew(f"edge.engines.{name}", monkeypatch)
    monkeypatch.setattr(ours, "build_in_child", build_engine)
    return Family(backend_named(request.param), library)


def built_by(family: Family, folder: Path) -> Path:
    """Return a new engine."""
    order = order_for(write_model(folder))
    family.backend.build(order, lambda text: None)
    return order.engine


def test_engines_are_read_and_refused_in_the_gpus_context(
    family: Family, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, depths = built_by(family, tmp_path), []
    read = family.library.Runtime.deserialize_cuda_engine

    def noted(runtime: Any, content: bytes) -> Any:
        depths.append(world.depth())
        return read(runtime, content)

    monkeypatch.setattr(family.library.Runtime, "deserialize_cuda_engine", noted)
    family.backend.load(engine, SEGMENT).bind(PLACES)(7)
    assert len(family.library.ENQUEUED) == 1
    engine.write_bytes(b"garbage")
    message = refusal_of(lambda: family.backend.load(engine, SEGMENT))
    assert message.startswith(f"{family.library.__name__} 10.3.0 cannot read the engine of segment_0.onnx (")
    assert depths == [1, 1]
    assert world.depth() == 0


def test_a_runtime_that_does_not_come_to_be_is_an_error_that_names_the_segment(
    family: Family, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = built_by(family, tmp_path)
    monkeypatch.setenv(stand_in.WITHOUT_CUDA, "1")
    assert "the engine of segment_0.onnx" in refusal_of(lambda: family.backend.load(engine, SEGMENT))
    assert world.depth() == 0


def write_models_of(spec: PrecisionSpec, folder: Path) -> None:
    """Write segments again as the stand-in reads them."""

    def shapes(tensors: Iterable[TensorSpec]) -> dict[str, list[int]]:
        return {tensor.name: [-1 if size is None else size for size in tensor.shape] for tensor in tensors}

    for segment in spec.segments:
        write_model(folder, segment.file, inputs=shapes(segment.inputs), outputs=shapes(segment.outputs))


def test_slots_bind_engines_to_memory_that_the_library_takes(family: Family, world: World, tmp_path: Path) -> None:
    spec = written(tmp_path / "fp32", compiled("tiny cnn", "fp32"), "fp32")
    write_models_of(spec, tmp_path / "fp32")
    engines = load_engines(tmp_path / "fp32", spec.segments, family.backend)
    classifier = Classifier(input_spec=INPUT, precision=spec, engines=engines, make_slot=family.backend.make_slot)
    for slot in (classifier.new_slot(), classifier.new_slot()):
        [slot.frame] = random_images(1)
        for _ in range(3):
            slot.load()
            assert slot.infer().exit_index == len(engines) - 1  # where nothing is computed, no exit is sure
    runs = family.library.ENQUEUED
    assert len(runs) == 2 * 4 * len(engines)  # in each slot as it is, tried in a capture, alone and in the whole chain
    assert len({id(context) for context, *_ in runs}) == 2 * len(engines)
    assert all(stream in world.streams for _, stream, *_ in runs)
    assert all(world.array(place, np.uint8).size for *_, places, _ in runs for place in places.values())


def test_batches_are_as_large_as_engines_take_and_get_smaller_as_images_leave(
    family: Family, world: World, tmp_path: Path
) -> None:
    spec = written(tmp_path / "fp32", compiled("tiny cnn", "fp32"), "fp32")
    write_models_of(spec, tmp_path / "fp32")
    engines = load_engines(tmp_path / "fp32", spec.segments, family.backend, batch=None)
    batch = family.backend.make_batch(Classifier(input_spec=INPUT, precision=spec, engines=engines))
    for count in (50, 3):
        batch.classify(random_images(count))
    batch.close()
    shapes = [shapes for *_, shapes in family.library.ENQUEUED]
    assert [one["image"][0] for one in shapes if "image" in one] == [32, 18, 3]
    assert [one["cut_0"][0] for one in shapes if "cut_0" in one] == [32, 18, 3]  # where nothing is computed, all go on
    assert all(one["threshold_0"] == (1,) for one in shapes if "threshold_0" in one)


def test_engines_for_one_image_refuse_a_batch_in_words(family: Family, world: World, tmp_path: Path) -> None:
    spec = written(tmp_path / "fp32", compiled("tiny cnn", "fp32"), "fp32")
    write_models_of(spec, tmp_path / "fp32")
    engines = load_engines(tmp_path / "fp32", spec.segments, family.backend)
    batch = family.backend.make_batch(Classifier(input_spec=INPUT, precision=spec, engines=engines))
    message = refusal_of(lambda: batch.classify(random_images(2)))
    assert "the engine of fp32/segment_0.onnx does not take image with shape (2, 3, 12, 12)" in message


def test_a_machine_without_tensorrt_is_told_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "edge.engines.tensorrt", raising=False)
    with pytest.raises(EngineError, match=r"backend tensorrt needs a library that is not installed .*; pip install"):
        backend_named("tensorrt")


# Builds that fail


def watch_builds(monkeypatch: pytest.MonkeyPatch, on_progress: Callable[[str], None]) -> None:
    """Let the cache tell builds' progress to this."""
    monkeypatch.setattr("edge.engines.cache.busy", lambda description: nullcontext(on_progress))


def engines(root: Path) -> list[str]:
    """Return what a cache holds that is, or could be taken for, an engine."""
    return [path.name for path in root.iterdir() if not path.name.startswith("timings-")]


REMEDY = re.compile(r"[;,] (or )?(close|compile|install|leave|report|run|update)\b")
FAILURES = {
    "unparsable": "node 7 (Magic), line 73: no importer; node 9 (Wand), line 73: no importer either",
    "unparsable without a word": "it gave no reason",
    "unbuildable": stand_in.NO_KERNEL,
    "unbuildable without a word": "it gave no reason",
    "unreadable engine": "built for another GPU",
    "exception": "std::bad_alloc",
    "no CUDA": "CUDA initialization failure",
}


@pytest.mark.parametrize("trouble", FAILURES)
def test_a_failing_library_is_an_error_that_names_version_file_and_remedy(
    trouble: str,
    backend: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if trouble == "no CUDA":
        monkeypatch.setenv(stand_in.WITHOUT_CUDA, "1")
    segment = write_model(tmp_path, trouble="" if trouble == "no CUDA" else trouble)
    with pytest.raises(EngineError) as failure:
        EngineCache(tmp_path / "cache").built(segment, backend, 1)
    message = str(failure.value)
    assert "tensorrt 10.3.0" in message
    assert str(segment) in message
    assert FAILURES[trouble] in message
    assert REMEDY.search(message), message
    assert engines(tmp_path / "cache") == []
    assert capfd.readouterr().err == ""


DEATHS = {
    "SIGKILL": "was ended by SIGKILL, most likely for lack of memory; close other programs, add swap",
    "SIGSEGV": "was ended by SIGSEGV, the library crashed; report it with this segment",
    "exit 3": "ended with exit code 3",
    "exit 0": "segment_0.onnx",
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_build_whose_process_dies_is_an_error_and_the_next_one_is_well(
    death: str, backend: Backend, tmp_path: Path
) -> None:
    cache = EngineCache(tmp_path / "cache")
    segment = write_model(tmp_path, trouble=death)
    with pytest.raises(EngineError, match=DEATHS[death]) as failure:
        cache.built(segment, backend, 1)
    assert str(segment) in str(failure.value)
    assert engines(tmp_path / "cache") == []
    assert not cache.built(write_model(tmp_path), backend, 1).was_cached


def test_a_build_that_somebody_kills_speaks_of_memory(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch_builds(monkeypatch, lambda text: multiprocessing.active_children()[0].kill())
    with pytest.raises(EngineError, match="for lack of memory"):
        EngineCache(tmp_path / "cache").built(write_model(tmp_path, trouble="hang"), backend, 1)
    assert engines(tmp_path / "cache") == []


@pytest.fixture
def children() -> Iterator[list[Any]]:
    """Collect processes; those still alive after the test are ended."""
    collected: list[Any] = []
    yield collected
    for child in collected:
        child.kill()
        child.join()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_build_that_is_given_up_does_not_go_on_in_secret(
    error: type[BaseException],
    backend: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    children: list[Any],
) -> None:
    def give_up(text: str) -> None:
        children.extend(multiprocessing.active_children())
        raise error

    watch_builds(monkeypatch, give_up)
    with pytest.raises(error):
        EngineCache(tmp_path / "cache").built(write_model(tmp_path, trouble="hang"), backend, 1)
    assert len(children) == 1
    assert not children[0].is_alive()
    assert engines(tmp_path / "cache") == []


def test_ctrl_c_reaches_a_build_through_us_only(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal sends it to both: whoever started the build ends it, and says so in one line."""

    def interrupt(text: str) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGINT)

    watch_builds(monkeypatch, interrupt)
    kernels = [f"conv {index}" for index in range(200)]
    assert EngineCache(tmp_path / "cache").built(write_model(tmp_path, kernels=kernels), backend, 1).path.exists()
