"""Backends on stand-ins, and an empty cache."""

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import pytest

from edge.engines import backend_named
from edge.engines.base import Backend
from edge.engines.cache import EngineCache
from edge.engines.tensorrt.builder import build_engine
from tests.support.tensorrt_models import import_fresh, install_library

if TYPE_CHECKING:
    from tests.support.cuda_stand_in import World

LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Backends and their modules."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    """Return an empty cache, which is the default cache during the test."""
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "engines"))
    return EngineCache()


@pytest.fixture
def trt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Let `import tensorrt` import the stand-in, here and in subprocesses."""
    return install_library("tensorrt", tmp_path / "site", monkeypatch)


@pytest.fixture
def backend(trt: ModuleType, world: "World", monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Return TensorRT on the stand-in; it builds in a subprocess."""
    import_fresh("edge.engines.tensorrt.tensorrt", monkeypatch)
    return backend_named("tensorrt")


class Family(NamedTuple):
    """A backend of the TensorRT family on the stand-ins; it builds in this process."""

    backend: Backend
    library: ModuleType


@pytest.fixture(params=LIBRARIES)
def family(request: pytest.FixtureRequest, world: "World", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    """Return each backend in turn."""
    name = LIBRARIES[request.param]
    library = install_library(name, tmp_path / "site", monkeypatch)
    ours = import_fresh(f"edge.engines.tensorrt.{name}", monkeypatch)
    monkeypatch.setattr(ours, "build_in_subprocess", build_engine)
    return Family(backend_named(request.param), library)
