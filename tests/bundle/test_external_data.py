"""ONNX external data is found wherever a tensor can be, and nowhere else."""

from collections.abc import Callable

import onnx
import pytest
from onnx import TensorProto, helper

from edge.bundle.external_data import has_external_data


def external(name: str = "w", *, is_marked: bool = True) -> TensorProto:
    tensor = TensorProto(name=name, dims=[4], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL if is_marked else TensorProto.DEFAULT
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def model(edit: Callable[[onnx.ModelProto], object] = lambda model: None) -> bytes:
    node = helper.make_node("Constant", [], ["location"], name="location", value=helper.make_tensor("w", 1, [1], [0.0]))
    graph = helper.make_graph([node], "graph", [], [], [helper.make_tensor("w", 1, [2], [0.0, 1.0])])
    made = helper.make_model(graph)
    edit(made)
    return made.SerializeToString()


def add_function(made: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["y"], value=external())
    made.functions.append(helper.make_function("custom", "f", [], ["y"], [node], [helper.make_opsetid("", 20)]))


def add_branch(made: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [external()])
    made.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))


def add_sparse(made: onnx.ModelProto) -> None:
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(external(), indices, [4]))


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda made: made.graph.initializer.append(external()), id="initializer"),
        pytest.param(lambda made: made.graph.initializer.append(external(is_marked=False)), id="not marked"),
        pytest.param(
            lambda made: made.graph.node.append(helper.make_node("Constant", [], ["y"], value=external())),
            id="constant",
        ),
        pytest.param(add_function, id="function"),
        pytest.param(add_branch, id="subgraph"),
        pytest.param(add_sparse, id="sparse"),
    ],
)
def test_external_data_is_found(edit: Callable[[onnx.ModelProto], object]) -> None:
    assert has_external_data(model(edit))


def test_a_model_with_its_weights_inside_has_none_whatever_its_names() -> None:
    assert b"location" in model()
    assert not has_external_data(model())


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_damaged_model_is_not_trusted(share: float) -> None:
    content = model(lambda made: made.graph.initializer.append(external()))
    assert has_external_data(content[: int(len(content) * share)] + b"location")
