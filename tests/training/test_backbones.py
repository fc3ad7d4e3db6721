"""Every built-in backbone: outputs, truncation at each exit, and compilation."""

import pytest
import torch

from compile.check import assert_chain_equals_whole
from compile.graph import int8_macs_share, total_macs
from edge.errors import CheckpointError
from edge.training.backbones import BACKBONES, build_network
from edge.training.backbones.mobilenet import InvertedResidual
from edge.training.network import MultiExitNetwork, Stages
from tests.support.networks import built_in_graph, compile_graph, random_images, seeded_network

SHAPES = {
    "cnn": (1, 28, 28),
    "cnn-small": (1, 28, 28),
    "cnn-deep": (1, 28, 28),
    "resnet18": (3, 96, 96),
    "resnet18-cifar": (3, 32, 32),
    "mobilenet": (3, 64, 64),
}
"""Small inputs of about the size that each backbone is made for."""
EXITS, CLASSES = 3, 10

each_backbone = pytest.mark.parametrize("backbone", SHAPES)


def network_of(backbone: str) -> MultiExitNetwork:
    return seeded_network(lambda: build_network(backbone, SHAPES[backbone][0], CLASSES), SHAPES[backbone])


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_every_built_in_backbone_is_tested_here() -> None:
    assert set(SHAPES) == set(BACKBONES)


@each_backbone
@pytest.mark.parametrize("channels", [1, 3])
def test_every_exit_returns_logits_and_a_map_and_early_exits_a_cut(backbone: str, channels: int) -> None:
    network = build_network(backbone, channels, CLASSES).eval()
    with torch.no_grad():
        outputs = network(torch.randn(2, channels, *SHAPES[backbone][1:]))
    assert len(outputs) == EXITS
    for output in outputs:
        assert output.logits.shape == (2, CLASSES)
        assert output.attention.shape[:2] == (2, 1)
        assert min(output.attention.shape[2:]) >= 2  # a map of a single pixel explains nothing
        assert 0 <= output.attention.min() <= output.attention.max() <= 1
    assert [len(output.cut) for output in outputs] == [1, 1, 0]


@pytest.mark.parametrize("backbone", ["cnn", "cnn-small"])
@pytest.mark.parametrize("size", [5, 8])
def test_cnns_read_patches_of_a_few_pixels_and_compile(backbone: str, size: int) -> None:
    shape = (30, size, size)
    whole, segments = compile_graph(built_in_graph(backbone, shape, "fp32"))
    assert_chain_equals_whole(whole, segments, random_images(3, shape=shape))


@each_backbone
def test_every_weight_gets_a_gradient(backbone: str) -> None:
    network = build_network(backbone, SHAPES[backbone][0], CLASSES)
    outputs = network(torch.randn(2, *SHAPES[backbone]))
    torch.stack([output.logits.square().sum() for output in outputs]).sum().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


@each_backbone
@pytest.mark.parametrize("exit_index", range(EXITS))
def test_a_truncated_network_has_the_outputs_of_the_whole_network_at_that_exit(backbone: str, exit_index: int) -> None:
    network = network_of(backbone)
    images = torch.from_numpy(random_images(3, shape=SHAPES[backbone]))
    truncated = network.truncated(exit_index)
    with torch.no_grad():
        expected, outputs = network(images)[exit_index], truncated(images)
    assert len(outputs) == 1
    assert torch.equal(outputs[0].logits, expected.logits)
    assert torch.equal(outputs[0].attention, expected.attention)
    assert outputs[0].cut == ()


@each_backbone
def test_earlier_truncation_leaves_fewer_weights(backbone: str) -> None:
    truncated = [build_network(backbone, 3, CLASSES, truncated_at=k) for k in range(EXITS)]
    sizes = [parameters(network.backbone) for network in truncated]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == parameters(build_network(backbone, 3, CLASSES).backbone)
    assert all(len(network.heads) == 1 for network in truncated)


@pytest.mark.parametrize("exit_index", range(EXITS))
def test_a_truncated_network_loads_its_own_weights(exit_index: int) -> None:
    written = seeded_network(lambda: build_network("cnn", 1, CLASSES), SHAPES["cnn"]).truncated(exit_index)
    loaded = build_network("cnn", 1, CLASSES, truncated_at=exit_index)
    loaded.load_state_dict(written.state_dict())
    images = torch.from_numpy(random_images(2, shape=SHAPES["cnn"]))
    assert torch.equal(loaded.eval()(images)[0].logits, written.eval()(images)[0].logits)


def test_stages_truncated_twice_end_at_the_second_truncation() -> None:
    network = network_of("cnn")
    backbone = network.backbone
    assert isinstance(backbone, Stages)
    images = torch.from_numpy(random_images(2, shape=SHAPES["cnn"]))
    [(output,)] = backbone.truncated(1).truncated(0)(images)
    assert torch.equal(output, backbone(images)[0][0])


@each_backbone
@pytest.mark.parametrize("exit_index", [-1, EXITS])
def test_a_missing_exit_is_refused_with_the_range_of_exits(backbone: str, exit_index: int) -> None:
    with pytest.raises(CheckpointError, match=f"{backbone} has no exit {exit_index}; its exits are 0 to 2"):
        build_network(backbone, 3, CLASSES, truncated_at=exit_index)


def test_an_unknown_backbone_is_refused_with_the_names_of_all_backbones() -> None:
    with pytest.raises(
        CheckpointError, match=r"'vgg'; the backbones are cnn, cnn-small, .*mobilenet, cnn:WIDTH and timm:NAME"
    ):
        build_network("vgg", 3, CLASSES)


def test_a_cnn_of_another_width_has_the_layers_of_that_width() -> None:
    shapes = [{name: tensor.shape for name, tensor in build_network(backbone, 1, CLASSES).state_dict().items()}
              for backbone in ("cnn:16", "cnn-small")]  # fmt: skip
    assert shapes[0] == shapes[1]
    assert parameters(build_network("cnn:2", 1, CLASSES)) < parameters(build_network("cnn:10", 1, CLASSES))


@pytest.mark.parametrize("width", ["0", "1", "01", "-4", "8x", "1000", ""])
def test_a_cnn_without_a_possible_width_is_refused(width: str) -> None:
    with pytest.raises(CheckpointError, match="unknown backbone"):
        build_network(f"cnn:{width}", 1, CLASSES)


def test_an_inverted_residual_adds_its_input_only_if_the_shape_stays_the_same() -> None:
    images = torch.randn(2, 8, 6, 6)
    for width, stride, is_residual in ((8, 1, True), (8, 2, False), (12, 1, False)):
        block = InvertedResidual(8, width, stride).eval()
        expected = block.block(images) + images if is_residual else block.block(images)
        assert torch.equal(block(images), expected)


@each_backbone
def test_chained_segments_of_a_backbone_equal_the_whole_network(backbone: str) -> None:
    shape = SHAPES[backbone]
    whole, segments = compile_graph(built_in_graph(backbone, shape, "fp32"))
    assert [list(segment.inputs) for segment in segments] == [
        ["image", "threshold_0"], ["cut_0", "threshold_1"], ["cut_1"],
    ]  # fmt: skip
    assert_chain_equals_whole(whole, segments, random_images(2, shape=shape))


@each_backbone
def test_no_segment_of_a_backbone_has_more_than_three_fifths_of_the_macs(backbone: str) -> None:
    segments = compile_graph(built_in_graph(backbone, SHAPES[backbone], "fp32")).segments
    macs = [total_macs(segment.model) for segment in segments]
    assert max(macs) <= 0.6 * sum(macs)
    assert macs[0] <= 0.4 * sum(macs)  # otherwise an early exit saves little


def test_the_mobilenet_needs_less_than_an_eighth_of_a_resnets_macs_per_pixel() -> None:
    def macs_per_pixel(backbone: str) -> float:
        _, height, width = SHAPES[backbone]
        return total_macs(built_in_graph(backbone, SHAPES[backbone], "fp32").model) / (height * width)

    assert macs_per_pixel("mobilenet") < macs_per_pixel("resnet18") / 8


@each_backbone
def test_nine_tenths_of_a_backbones_convolutions_run_in_int8_in_every_segment(backbone: str) -> None:
    """Including depthwise convolutions and those after an addition."""
    shape = SHAPES[backbone]
    whole, segments = compile_graph(built_in_graph(backbone, shape, "int8"))
    assert min(int8_macs_share(segment.model) for segment in segments) >= 0.9
    assert_chain_equals_whole(whole, segments, random_images(1, shape=shape))
