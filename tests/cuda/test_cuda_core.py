"""The names of cuda.core and of the driver that the stand-in for a GPU has exist in the real libraries."""

import inspect
from pathlib import Path
from typing import Any

import cuda.core
import cuda.core.graph as real
import pytest
from cuda.bindings import driver

import edge
from tests.support import cuda_stand_in as stand_in
from tests.support.cuda_modules import bindings_module
from tests.support.cuda_stand_in import World

EDGE = Path(edge.__file__).parent
CLASSES: dict[type, Any] = {
    stand_in.GraphDefinition: real.GraphDefinition,
    stand_in.GraphNode: real.GraphNode,
    stand_in.Graph: real.Graph,
}


def public_functions(owner: type) -> dict[str, Any]:
    return {name: value for name, value in vars(owner).items() if not name.startswith("_") and callable(value)}


@pytest.mark.parametrize("owner", CLASSES)
def test_graphs_are_built_with_methods_that_cuda_core_has(owner: type) -> None:
    assert public_functions(owner)
    for name, function in public_functions(owner).items():
        takes = [*inspect.signature(function).parameters.values()][1:]
        [*expected] = [*inspect.signature(getattr(CLASSES[owner], name)).parameters.values()][1:]
        for parameter, other in zip(takes, expected, strict=False):
            assert (parameter.name, parameter.kind) == (other.name, other.kind), f"{owner.__name__}.{name}"
        assert all(other.default is not other.empty for other in expected[len(takes) :]), f"{owner.__name__}.{name}"


def test_a_body_and_the_handles_of_graphs_exist() -> None:
    assert hasattr(real.IfNode, "then")
    assert hasattr(real.GraphDefinition, "handle")
    assert hasattr(cuda.core.Stream, "from_handle")


def test_the_driver_has_the_functions_that_capture_a_segment(world: World) -> None:
    names = {name for name in vars(bindings_module(world)) if name.startswith("cu")}
    assert len(names) == 4
    assert not [name for name in names if not hasattr(driver, name)]


def test_only_one_module_captures_and_none_uses_a_graph_builder() -> None:
    """A spoilt capture into the body of a conditional node ends the process, a builder's when it is freed."""
    sources = {
        file.stem: file.read_text() for room in ("cuda", "engines", "inference") for file in (EDGE / room).rglob("*.py")
    }
    begins = {name for name, text in sources.items() if "BeginCapture" in text or "begin_building" in text}
    assert begins == {"capture"}
    assert not any("create_graph_builder" in text or "BeginCaptureToGraph" in text for text in sources.values())
