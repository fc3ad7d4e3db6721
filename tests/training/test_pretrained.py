"""Pretrained weights of the same backbone are loaded, with any number of classes; all other files are refused.

Tests of weights that timm publishes are in `test_timm.py`.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edge.bundle.manifest import InputSpec
from edge.errors import CheckpointError, DataError
from edge.training.backbones import build_network
from edge.training.checkpoint import Checkpoint, write_checkpoint
from edge.training.datasets import load_dataset
from edge.training.network import MultiExitNetwork
from edge.training.pretrained import load_pretrained
from edge.training.settings import Settings
from edge.training.train import CHECKPOINT, prepare, train
from tests.support.networks import seeded_network

SHAPE = (1, 16, 16)
SETTINGS = Settings(dataset="digits", image_size=16, epochs=1, batch_size=256)
Weights = dict[str, torch.Tensor]


def network_of(classes: int, seed: int, backbone: str = "cnn", truncated_at: int | None = None) -> MultiExitNetwork:
    torch.manual_seed(seed)
    return build_network(backbone, SHAPE[0], classes, truncated_at)


def write_network(path: Path, network: MultiExitNetwork, classes: int, settings: Settings = SETTINGS) -> Path:
    """Write a network's checkpoint."""
    spec = InputSpec("image", "gray", *SHAPE, (0.5,), (0.25,))
    names = tuple(f"class {label}" for label in range(classes))
    write_checkpoint(path, Checkpoint(settings, spec, names, {}, {}, network.state_dict()))
    return path


@pytest.fixture
def donor() -> MultiExitNetwork:
    """Return a network for seven classes with the batch statistics of a trained network."""
    return seeded_network(lambda: build_network("cnn", SHAPE[0], 7), SHAPE)


def equal(first: Weights, second: Weights) -> set[str]:
    """Return the names of the tensors that are equal in both."""
    return {name for name in first if name in second and torch.equal(first[name], second[name])}


def test_a_checkpoint_of_other_classes_provides_all_weights_but_the_classifiers(
    tmp_path: Path, donor: MultiExitNetwork
) -> None:
    network = network_of(10, seed=2)
    initial = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    summary = load_pretrained(network, write_network(tmp_path / "checkpoint.pt", donor, 7))
    loaded = network.state_dict()
    classifiers = {f"heads.{k}.classify.{kind}" for k in range(3) for kind in ("weight", "bias")}
    assert equal(loaded, donor.state_dict()) == set(loaded) - classifiers  # running means and variances, too
    assert classifiers <= equal(loaded, initial)
    assert "100% of the backbone's parameters" in summary
    assert f"{len(loaded) - 6} of {len(loaded)} tensors" in summary


def test_a_checkpoint_of_the_same_classes_provides_all_weights(tmp_path: Path, donor: MultiExitNetwork) -> None:
    network = network_of(7, seed=2)
    summary = load_pretrained(network, write_network(tmp_path / "checkpoint.pt", donor, 7))
    images = torch.randn(2, *SHAPE)
    for output, expected in zip(network.eval()(images), donor(images), strict=True):
        assert torch.equal(output.logits, expected.logits)
    assert f"{len(donor.state_dict())} of {len(donor.state_dict())} tensors" in summary


def test_a_truncated_network_loads_the_stages_of_a_whole_network(tmp_path: Path, donor: MultiExitNetwork) -> None:
    """Its only head has the name of the whole network's first head, and loads the tensors that fit."""
    network = network_of(10, seed=2, truncated_at=1)
    load_pretrained(network, write_network(tmp_path / "checkpoint.pt", donor, 7))
    backbone = {name for name in network.state_dict() if name.startswith("backbone.")}
    assert backbone <= equal(network.state_dict(), donor.state_dict())


def test_loaded_weights_are_copies(tmp_path: Path, donor: MultiExitNetwork) -> None:
    path = write_network(tmp_path / "checkpoint.pt", donor, 7)
    first, second = network_of(10, seed=2), network_of(10, seed=3)
    load_pretrained(first, path)
    load_pretrained(second, path)
    with torch.no_grad():
        for weight in first.parameters():
            weight.zero_()
    assert all(weight.abs().sum() > 0 for name, weight in second.named_parameters() if name.startswith("backbone."))


@pytest.mark.parametrize(
    "wrapped",
    [None, "state_dict", "model", "weights", "model_state_dict", "net", "ema", "state_dict_ema", "model_ema"],
)
def test_weights_are_loaded_from_the_usual_wrappers(
    tmp_path: Path, donor: MultiExitNetwork, wrapped: str | None
) -> None:
    weights: Any = donor.state_dict()
    torch.save(weights if wrapped is None else {"epoch": 3, wrapped: weights}, tmp_path / "weights.pth")
    network = network_of(7, seed=2)
    load_pretrained(network, tmp_path / "weights.pth")
    assert equal(network.state_dict(), donor.state_dict()) == set(donor.state_dict())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_removed(tmp_path: Path, donor: MultiExitNetwork, prefix: str) -> None:
    weights = {prefix + name: tensor for name, tensor in donor.state_dict().items()}
    torch.save({"epoch": 3, "model": {"state_dict": weights}}, tmp_path / "weights.pth")
    network = network_of(7, seed=2)
    load_pretrained(network, tmp_path / "weights.pth")
    assert equal(network.state_dict(), donor.state_dict()) == set(donor.state_dict())


def test_averaged_weights_are_preferred(tmp_path: Path, donor: MultiExitNetwork) -> None:
    others = network_of(7, seed=9).state_dict()
    torch.save({"state_dict": others, "state_dict_ema": donor.state_dict()}, tmp_path / "weights.pth")
    network = network_of(7, seed=2)
    load_pretrained(network, tmp_path / "weights.pth")
    assert equal(network.state_dict(), donor.state_dict()) == set(donor.state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, donor: MultiExitNetwork, value: float) -> None:
    weights = {name: tensor.clone() for name, tensor in donor.state_dict().items()}
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name][0] = value
    torch.save(weights, tmp_path / "weights.pth")
    assert_refused(tmp_path / "weights.pth", f"has NaN or infinity in {name}")


def test_weights_are_loaded_from_safetensors(tmp_path: Path, donor: MultiExitNetwork) -> None:
    save_file(donor.state_dict(), tmp_path / "weights.safetensors")
    network = network_of(7, seed=2)
    load_pretrained(network, tmp_path / "weights.safetensors")
    assert equal(network.state_dict(), donor.state_dict()) == set(donor.state_dict())


def test_training_starts_from_the_pretrained_weights(tmp_path: Path, donor: MultiExitNetwork) -> None:
    path = write_network(tmp_path / "donor.pt", donor, 7, dataclasses.replace(SETTINGS, dataset="others"))
    frozen = dataclasses.replace(SETTINGS, pretrained=str(path), learning_rate=0.0)
    weights = train(frozen, tmp_path / "run").weights
    backbone = {name for name, _ in donor.named_parameters() if name.startswith("backbone.")}
    assert backbone <= equal(weights, donor.state_dict())


# Splits of earlier runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a network, `first.pt`, and one of other images that starts from it, `second.pt`."""
    folder = tmp_path_factory.mktemp("runs")
    images = load_dataset("digits", None, 16)
    train(SETTINGS, folder / "first")
    second = dataclasses.replace(SETTINGS, dataset="others", pretrained=str(folder / "first" / CHECKPOINT), seed=1)
    train(second, folder / "second", dataclasses.replace(images, name="others"))
    (folder / "first" / CHECKPOINT).rename(folder / "first.pt")
    (folder / "second" / CHECKPOINT).rename(folder / "second.pt")
    return folder


@pytest.mark.parametrize("name", ["first.pt", "second.pt"])
@pytest.mark.parametrize("change", [{"seed": 1}, {"fold": 0}])
def test_weights_that_were_trained_on_images_of_the_test_split_are_refused(
    name: str, change: dict[str, int], runs: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, pretrained=str(runs / name), **change)
    with pytest.raises(DataError, match=f"{name} was trained on images of this run's test split.* use --seed 0 "):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["first.pt", "second.pt"])
def test_weights_of_the_same_splits_are_accepted(name: str, runs: Path) -> None:
    assert prepare(dataclasses.replace(SETTINGS, pretrained=str(runs / name))).earlier_runs


def test_weights_that_know_some_of_the_added_images_are_refused(runs: Path) -> None:
    """Added images are drawn among the others."""
    images = load_dataset("digits", None, 16)
    fewer = dataclasses.replace(
        images, frames=images.frames[:1700], labels=images.labels[:1700], digests=images.digests[:1700]
    )
    with pytest.raises(DataError, match="with the same images and image size"):
        prepare(dataclasses.replace(SETTINGS, pretrained=str(runs / "first.pt")), fewer)


def assert_refused(path: Path, message: str, backbone: str = "cnn") -> None:
    """Check that a file is refused, and the network unchanged."""
    network = network_of(10, seed=2, backbone=backbone)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}.*{message}|{message}.*{re.escape(str(path))}"):
        load_pretrained(network, path)
    assert equal(network.state_dict(), before) == set(before)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", ""])
def test_a_missing_weights_file_is_refused(tmp_path: Path, name: str) -> None:
    assert_refused(tmp_path / name, "there is no file of weights at")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "checkpoint.pt"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02}q\x00.", bytes(1000)])
def test_a_file_without_weights_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, r"cannot be read as weights .*; choose a|holds 0% of the backbone's parameters")


@pytest.mark.parametrize("left", [0.1, 0.5, 0.99])
def test_a_truncated_weights_file_is_refused(tmp_path: Path, donor: MultiExitNetwork, left: float) -> None:
    torch.save(donor.state_dict(), tmp_path / "weights.pth")
    save_file(donor.state_dict(), tmp_path / "weights.safetensors")
    for path in (tmp_path / "weights.pth", tmp_path / "weights.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[: int(left * len(content))])
        assert_refused(path, "cannot be read as weights")


class Malicious:
    """An object that creates a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return (Path.touch, (self.witness,))


def test_code_in_a_weights_file_is_not_executed(tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    torch.save({"state_dict": Malicious(witness)}, tmp_path / "weights.pth")
    assert_refused(tmp_path / "weights.pth", "cannot be read as weights")
    assert not witness.exists()


@pytest.mark.parametrize("content", [[1, 2, 3], 7, {}, {"state_dict": {}}, {"model": "cnn"}, torch.zeros(3)])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pth")
    assert_refused(tmp_path / "weights.pth", "holds 0% of the backbone's parameters")


@pytest.mark.parametrize(("donor_of", "backbone"), [("resnet18-cifar", "cnn"), ("cnn", "mobilenet")])
def test_weights_of_another_backbone_are_refused_with_a_remedy(tmp_path: Path, donor_of: str, backbone: str) -> None:
    torch.save(network_of(10, seed=1, backbone=donor_of).state_dict(), tmp_path / "weights.pth")
    message = "of the backbone's parameters by name and shape; choose a file with weights of this backbone"
    assert_refused(tmp_path / "weights.pth", message, backbone)


def test_a_file_with_heads_only_is_refused(tmp_path: Path, donor: MultiExitNetwork) -> None:
    heads = {name: tensor for name, tensor in donor.state_dict().items() if name.startswith("heads.")}
    torch.save(heads, tmp_path / "weights.pth")
    assert_refused(tmp_path / "weights.pth", "holds 0% of the backbone's parameters")
