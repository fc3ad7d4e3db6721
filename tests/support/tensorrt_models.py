"""Models for the TensorRT stand-in, and engines built from them in this process."""

import importlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge.bundle import tensors
from edge.bundle.manifest import PrecisionSpec, SegmentSpec, TensorSpec
from edge.cuda.base import ACTIVATIONS
from edge.engines.base import BuildOrder
from edge.engines.cache import ENGINE, LAYERS
from edge.engines.tensorrt.builder import TensorRtBuild, build_engine
from edge.engines.tensorrt.engine import TensorRtEngine
from edge.errors import EngineError
from tests.support import tensorrt_stand_in as stand_in

IMAGE, LOGITS = tensors.IMAGE, tensors.logits(0)
SHAPES = {"inputs": {IMAGE: [-1, 3, 16, 16]}, "outputs": {LOGITS: [-1, 10]}}
"""Of the tensors of a model, unless a test sets others."""
ADDRESSES = {IMAGE: 0x1000, LOGITS: 0x2000}
MEMORY = {**ADDRESSES, ACTIVATIONS: 0x100000}
"""Addresses to bind an engine to."""
DTYPES = {"float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32", "bool": "BOOL"}


def write_model(folder: Path, name: str = "segment_0.onnx", **content: object) -> Path:
    """Write an ONNX file of the stand-in."""
    model = {**SHAPES, "kernels": ["conv", "relu"], **content}
    (folder / name).write_text(json.dumps(model))
    return folder / name


def write_models(precision: PrecisionSpec, folder: Path) -> None:
    """Replace a precision's ONNX files by the stand-in's."""

    def shapes(specs: Iterable[TensorSpec]) -> dict[str, list[int]]:
        return {spec.name: [-1 if size is None else size for size in spec.shape] for spec in specs}

    for segment in precision.segments:
        dtypes = {spec.name: DTYPES[spec.dtype] for spec in (*segment.inputs, *segment.outputs)}
        write_model(folder, segment.file, inputs=shapes(segment.inputs), outputs=shapes(segment.outputs), dtypes=dtypes)


def segment_spec(**shapes: dict[str, list[int]]) -> SegmentSpec:
    """Return the specification of a model, all float32."""

    def specs(kind: str) -> tuple[TensorSpec, ...]:
        named = {**SHAPES, **shapes}[kind]
        return tuple(TensorSpec(name, "float32", tuple(n if n >= 0 else None for n in s)) for name, s in named.items())

    return SegmentSpec("segment_0.onnx", specs("inputs"), specs("outputs"), 0.0, 0, (), ())


def order_for(segment: Path, batch: int | None = 1) -> BuildOrder:
    folder = segment.parent
    return BuildOrder(segment, batch, folder / ENGINE, folder / LAYERS, folder / "timings")


def build_plan(segment: Path, batch: int | None = 1) -> dict[str, Any]:
    """Build an engine in this process; return the stand-in's content of it."""
    order = order_for(segment, batch)
    build_engine(TensorRtBuild("tensorrt", None, order), lambda phase: None)
    return dict(json.loads(order.engine.read_text()))


def load_model(
    trt: ModuleType, folder: Path, batch: int | None = 1, fault: str = "", **shapes: dict[str, list[int]]
) -> TensorRtEngine:
    """Build an engine in this process and load it; the fault happens after the build."""
    plan = build_plan(write_model(folder, **shapes), batch)
    plan["model"]["fault"] = fault
    (folder / ENGINE).write_text(json.dumps(plan))
    return TensorRtEngine(trt, folder / ENGINE, segment_spec(**shapes))


def install_library(name: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the stand-in as a library of the TensorRT family, from a new folder on the path that holds only it."""
    site.mkdir()
    (site / f"{name}.py").symlink_to(stand_in.__file__)
    monkeypatch.syspath_prepend(site)
    return import_fresh(name, monkeypatch)


def import_fresh(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a module anew, and remove it after the test."""
    monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]  # so that there is something to undo
    del sys.modules[name]
    return importlib.import_module(name)


def error_message(run: Callable[[], object]) -> str:
    """Return the message of the `EngineError` that a call raises."""
    with pytest.raises(EngineError) as failure:
        run()
    return str(failure.value)
