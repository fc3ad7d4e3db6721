"""Counts of multiply-accumulates and parameters equal those computed by hand and by torch."""

from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from compile.export import export_onnx
from compile.graph import IndexedGraph, int8_macs_share, parameter_count, total_macs
from edge.training.network import AttentionHead, MultiExitNetwork, Stages, conv_bn_relu
from tests.support.networks import CHANNELS, CLASSES, INPUT, WIDTH, multi_exit_graph, seeded_network, tiny_cnn


def model_of(nodes: list[NodeProto], input_shape: list[Any], **weights: tuple[int, ...]) -> ModelProto:
    """Return a model whose nodes compute `y` from `x`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(shape, dtype=np.float32), name) for name, shape in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("kind", "attributes", "input_shape", "weight", "macs"),
    [
        pytest.param("Conv", {}, ["batch", 3, 8, 8], (5, 3, 3, 3), 5 * 6 * 6 * 3 * 9, id="convolution"),
        pytest.param("Conv", {"strides": [2, 2]}, ["batch", 3, 9, 9], (5, 3, 3, 3), 5 * 4 * 4 * 3 * 9, id="stride"),
        pytest.param("Conv", {"pads": [1] * 4}, ["batch", 3, 8, 8], (5, 3, 3, 3), 5 * 8 * 8 * 3 * 9, id="padding"),
        pytest.param("Conv", {"group": 2}, ["batch", 4, 8, 8], (6, 2, 1, 1), 6 * 8 * 8 * 2, id="two groups"),
        pytest.param("Conv", {"group": 4}, ["batch", 4, 5, 7], (4, 1, 3, 3), 4 * 3 * 5 * 9, id="depthwise"),
        pytest.param("Conv", {"dilations": [2, 2]}, [1, 2, 9, 9], (3, 2, 3, 3), 3 * 5 * 5 * 2 * 9, id="dilation"),
        pytest.param(
            "ConvTranspose", {"strides": [2, 2]}, ["batch", 3, 8, 8], (3, 5, 2, 2), 3 * 8 * 8 * 5 * 4, id="transposed"
        ),
        pytest.param(
            "ConvTranspose",
            {"group": 2},
            ["batch", 4, 8, 8],
            (4, 3, 2, 2),
            4 * 8 * 8 * 3 * 4,
            id="transposed in groups",
        ),
        pytest.param("Gemm", {"transB": 1}, ["batch", 12], (5, 12), 12 * 5, id="gemm, weight transposed"),
        pytest.param("Gemm", {"transB": 0}, ["batch", 12], (12, 5), 12 * 5, id="gemm, weight not transposed"),
        pytest.param("Gemm", {}, ["batch", 12], (12, 5), 12 * 5, id="gemm, transB not given"),
        pytest.param("MatMul", {}, ["batch", 12], (12, 5), 12 * 5, id="matrix product"),
        pytest.param("MatMul", {}, ["batch", 7, 12], (12, 5), 7 * 12 * 5, id="matrix product of a sequence"),
    ],
)
def test_multiply_accumulates_are_counted_for_one_image(
    kind: str, attributes: dict[str, Any], input_shape: list[Any], weight: tuple[int, ...], macs: int
) -> None:
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    assert total_macs(model_of([node], input_shape, w=weight)) == macs


def test_nodes_without_weights_have_no_multiply_accumulates() -> None:
    assert total_macs(model_of([helper.make_node("Relu", ["x"], ["y"])], ["batch", 3, 8, 8])) == 0


def test_multiply_accumulates_of_an_exported_network_equal_those_of_torch() -> None:
    network, image = seeded_network(tiny_cnn), torch.zeros(1, *INPUT.shape)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(image)
    assert 2 * total_macs(multi_exit_graph("tiny cnn", "fp32").model) == counter.get_total_flops()


def test_multiply_accumulates_of_transposed_convolutions_equal_those_of_torch() -> None:
    up = torch.nn.ConvTranspose2d(CHANNELS, WIDTH, 3, stride=2, padding=1)
    stages = [torch.nn.Sequential(up, conv_bn_relu(WIDTH, WIDTH))]
    network = MultiExitNetwork(Stages(stages), [AttentionHead(WIDTH, CLASSES)]).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(1, *INPUT.shape))
    assert 2 * total_macs(export_onnx(network, INPUT).model) == counter.get_total_flops()


def test_the_parameter_count_is_that_of_the_network_with_folded_batch_norms() -> None:
    network = seeded_network(tiny_cnn)
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    linears = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    biases = sum(module.weight.shape[0] for module in (*convolutions, *linears))
    expected = sum(module.weight.numel() for module in (*convolutions, *linears)) + biases
    assert parameter_count(multi_exit_graph("tiny cnn", "fp32").model) == expected


def test_quantising_changes_neither_parameters_nor_multiply_accumulates() -> None:
    fp32, int8 = (multi_exit_graph("tiny cnn", precision).model for precision in ("fp32", "int8"))
    assert parameter_count(int8) == parameter_count(fp32)
    assert total_macs(int8) == total_macs(fp32)


def test_the_int8_share_weighs_convolutions_by_their_multiply_accumulates() -> None:
    quantised = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["x_int8"]),
        helper.make_node("DequantizeLinear", ["x_int8", "scale"], ["x_float"]),
        helper.make_node("QuantizeLinear", ["w", "scale"], ["w_int8"]),
        helper.make_node("DequantizeLinear", ["w_int8", "scale"], ["w_float"]),
        helper.make_node("Conv", ["x_float", "w_float"], ["a"]),
    ]
    partly_float = [
        helper.make_node("Conv", ["a", "v"], ["b"]),
        helper.make_node("Conv", ["x_float", "u"], ["c"]),  # quantised on one side only
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    shapes = {"w": (4, 2, 1, 1), "v": (2, 4, 1, 1), "u": (2, 2, 1, 1), "scale": ()}
    assert int8_macs_share(model_of([*quantised, *partly_float], ["batch", 2, 3, 3], **shapes)) == 8 / (8 + 8 + 4)
    assert int8_macs_share(multi_exit_graph("tiny cnn", "fp32").model) == 0


def test_the_symbolic_size_of_a_tensor_is_the_batch() -> None:
    spec = IndexedGraph(multi_exit_graph("tiny cnn", "fp32").model).spec("logits_0")
    assert (spec.dtype, spec.shape) == ("float32", (None, 4))
