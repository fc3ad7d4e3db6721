"""`python -m compile` on wrong input: refused in one line, and an old bundle stays as it was."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import pytest

from tests.support.commands import (
    NO_GUARANTEE,
    Result,
    call,
    class_folder,
    contents,
    error_line,
    full_disk,
    random_frames,
)
from tests.support.damage import flip_bit, truncate

if TYPE_CHECKING:
    from edge.training.checkpoint import Checkpoint


def compile_fp32(checkpoint: Path, output: Path, *words: object) -> Result:
    from compile.__main__ import main

    return call(main, checkpoint, "--output", output, "--precision", "fp32", *words)


def checkpoint_edit(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        import torch

        data = torch.load(path, weights_only=True)
        edit(data)
        torch.save(data, path)

    return damage


def smaller_weights(data: dict[str, Any]) -> None:
    name = next(name for name, weight in data["weights"].items() if weight.ndim == 4)
    data["weights"][name] = data["weights"][name][:1]


def weights_of_another_network(data: dict[str, Any]) -> None:
    data["weights"] = {f"features.{name}": weight for name, weight in data["weights"].items()}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(Path.unlink, "there is no checkpoint at", id="missing"),
        pytest.param(lambda path: path.unlink() or path.mkdir(), "there is no checkpoint at", id="a folder"),
        pytest.param(lambda path: path.write_bytes(b""), "checkpoint.pt is damaged", id="empty"),
        pytest.param(truncate, "checkpoint.pt is damaged", id="truncated"),
        pytest.param(lambda path: truncate(path, 0.999), "checkpoint.pt is damaged", id="truncated at the end"),
        pytest.param(lambda path: path.write_text("hello"), "checkpoint.pt is damaged", id="text"),
        pytest.param(
            lambda path: cv2.imwrite(f"{path}.png", random_frames(1)[0]) and os.replace(f"{path}.png", path),
            "checkpoint.pt is damaged",
            id="an image",
        ),
        pytest.param(flip_bit, "checkpoint.pt is damaged", id="bit flipped"),
        pytest.param(checkpoint_edit(lambda data: data.update(version=99)), "checkpoint version 99", id="version"),
        pytest.param(checkpoint_edit(dict.clear), "checkpoint version None", id="no checkpoint"),
        pytest.param(
            checkpoint_edit(lambda data: data.pop("splits")), "missing field checkpoint.splits", id="field missing"
        ),
        pytest.param(
            checkpoint_edit(lambda data: data["settings"].update(depth=3)),
            "checkpoint.settings.depth",
            id="field added",
        ),
        pytest.param(checkpoint_edit(lambda data: data.update(splits=[])), "checkpoint.splits is []", id="no splits"),
        pytest.param(
            checkpoint_edit(lambda data: data.update(weights=[])), "checkpoint.weights is []", id="no weights"
        ),
        pytest.param(checkpoint_edit(smaller_weights), "weights do not fit backbone 'cnn'", id="smaller weights"),
        pytest.param(
            checkpoint_edit(weights_of_another_network),
            "weights do not fit backbone 'cnn'",
            id="weights of another network",
        ),
        pytest.param(
            checkpoint_edit(lambda data: data["settings"].update(backbone="resnet18")),
            "weights do not fit backbone 'resnet18'",
            id="another backbone",
        ),
        pytest.param(
            checkpoint_edit(lambda data: data["settings"].update(backbone="vgg")),
            "unknown backbone 'vgg'",
            id="unknown backbone",
        ),
        pytest.param(
            checkpoint_edit(lambda data: data.update(classes=data["classes"][:9])),
            "weights do not fit",
            id="a class missing",
        ),
        pytest.param(
            checkpoint_edit(lambda data: data["settings"].update(dataset="birds")),
            "unknown dataset 'birds'",
            id="unknown dataset",
        ),
        pytest.param(
            checkpoint_edit(lambda data: data["splits"]["train"].update(fingerprint="0")),
            "differs from the dataset that the network was trained on",
            id="another dataset",
        ),
        pytest.param(
            checkpoint_edit(lambda data: data["settings"].update(seed=1)),
            "differs from the dataset that the network was trained on",
            id="another seed",
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_compiled_is_refused_and_the_old_bundle_stays(
    damage: Callable[[Path], object], message: str, checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    damage(checkpoint)
    before = contents(tmp_path)
    assert message in error_line(compile_fp32(checkpoint, bundle))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: cv2.imwrite(str(folder / "cat" / "0.png"), random_frames(1, seed=9)[0]),
        lambda folder: cv2.imwrite(str(folder / "cat" / "new.png"), random_frames(1, seed=9)[0]),
        lambda folder: (folder / "cat" / "0.png").unlink(),
        lambda folder: (folder / "cat").rename(folder / "zebra"),
        lambda folder: (folder / "cat").rename(folder / "bird"),
    ],
    ids=["image changed", "image added", "image removed", "classes reordered", "class renamed"],
)
def test_a_dataset_that_changed_since_training_is_refused(
    change: Callable[[Path], object], digits_checkpoint: "Checkpoint", tmp_path: Path
) -> None:
    from compile.trained_model import load_trained_model
    from edge.training.checkpoint import write_checkpoint
    from edge.training.datasets import load_dataset
    from edge.training.splits import draw_splits, split_specs

    folder = class_folder(tmp_path / "images", ("cat", "dog"), each=12)
    images = load_dataset("folder", folder)
    changed = dataclasses.replace(
        digits_checkpoint,
        settings=dataclasses.replace(digits_checkpoint.settings, dataset="folder", data=str(folder)),
        classes=images.classes,
        splits=split_specs(images, draw_splits(images, digits_checkpoint.settings.seed)),
    )
    load_trained_model(changed, None)
    change(folder)
    write_checkpoint(tmp_path / "checkpoint.pt", changed)
    message = error_line(compile_fp32(tmp_path / "checkpoint.pt", tmp_path / "bundle"))
    assert "differs from the dataset that the network was trained on" in message
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--limit", 5.0), "the limit of the risk is 5.0; give a fraction"),
        (("--confidence", 2.0), "the confidence level is 2.0; give a fraction"),
        (("--limit", 0.01), "269 samples are too few to guarantee a risk of at most 0.01 with the method 'exact'"),
        (("--method", "expectation", "--limit", 0.005, "--reject-limit", 0.1), "179 samples are too few to guarantee"),
        (("--method", "none", "--reject-limit", 5.0), "the limit of the error among the accepted is 5.0"),
        (("--method", "none", "--reject-limit", 0.01), "90 samples are too few to certify an error of at most 0.01"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_guarantee_that_no_scores_could_support_is_refused_before_the_export(
    words: tuple[object, ...], message: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compile.recipe.export_onnx", lambda *_: pytest.fail("exported"))
    before = contents(tmp_path)
    assert message in error_line(compile_fp32(checkpoint, tmp_path / "new", *words))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_output_that_is_not_a_bundle_is_not_overwritten(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    if kind == "file":
        output.write_text("mine")
    else:
        output.mkdir()
        (output / "thesis.tex").write_text("mine")
    before = contents(tmp_path)
    message = error_line(compile_fp32(checkpoint, output, *NO_GUARANTEE))
    assert f"{output} exists and is not a bundle; choose another output, or move it" in message
    assert contents(tmp_path) == before


def test_a_bundle_below_a_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    error_line(compile_fp32(checkpoint, checkpoint / "bundle", *NO_GUARANTEE))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("free", [1000, 800_000])
def test_a_disk_that_fills_up_while_a_bundle_is_written_leaves_the_old_one(
    free: int, checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    with full_disk(free):
        result = compile_fp32(checkpoint, bundle, *NO_GUARANTEE)
    assert "File too large" in error_line(result)
    assert contents(tmp_path) == before
