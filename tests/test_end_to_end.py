"""The commands of the pipeline one after the other, on a folder of images and on arrays."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import edge
from edge.bundle.bundle import Bundle
from edge.errors import SourceError
from edge.training.datasets import load_dataset
from tests.support.commands import NO_GUARANTEE, run_command


def command(*words: object, code: int = 0) -> str:
    """Run `python -m words...` and return its stdout, or its stderr where it has to fail."""
    done = run_command(*words, timeout=300)
    assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout if code == 0 else done.stderr)


def write_pictures(folder: Path, classes: int = 3, each: int = 160, seed: int = 0) -> None:
    """Write images of discs, whose colour tells the class, of different sizes and file formats."""
    generator = np.random.default_rng(seed)
    for label in range(classes):
        subfolder = folder / f"colour-{label}"
        subfolder.mkdir(parents=True)
        for index in range(each):
            height, width = generator.integers(40, 90, 2)
            picture = generator.integers(0, 80, (height, width, 3), dtype=np.uint8)
            colour = [255 if channel == label else 40 for channel in range(3)]
            cv2.circle(picture, (int(width) // 2, int(height) // 2), 15, colour, -1)
            cv2.imwrite(str(subfolder / f"{index:03}.{'jpg' if index % 2 else 'png'}"), picture)


def test_a_folder_of_images_becomes_a_classifier(tmp_path: Path) -> None:
    pictures, bundle = tmp_path / "pictures", tmp_path / "bundle"
    write_pictures(pictures)
    command("edge.training", "--dataset", "folder", "--data", pictures, "--image-size", 32, "--epochs", 3,
            "--batch-size", 16, "--output", tmp_path / "training")  # fmt: skip
    compile_command = ("compile", tmp_path / "training/checkpoint.pt", "--output", bundle, *NO_GUARANTEE)
    compiled = json.loads(command(*compile_command, "--precision", "fp32", "int8", "--json"))
    assert compiled["labels"] == ["colour-0", "colour-1", "colour-2"]

    lines = command("edge", "run", bundle, "--source", pictures, "--json").splitlines()
    predictions = [json.loads(line) for line in lines]
    assert [prediction["frame"] for prediction in predictions] == list(range(480))
    assert np.mean([prediction["label_index"] == prediction["frame"] // 160 for prediction in predictions]) > 0.95
    with edge.load(bundle) as classifier:
        assert classifier.predict(pictures / "colour-1" / "000.png").label == "colour-1"

    scores, others = tmp_path / "scores.npz", tmp_path / "others"
    write_pictures(others, each=110, seed=1)
    command("edge", "record", bundle, "--images", others, "--precision", "int8", "--output", scores)
    before = (bundle / "int8/segment_0.onnx").stat().st_mtime_ns
    refit = ("calibration", bundle, "--scores", scores, "--precision", "int8", "--limit", 0.02, "--json")
    fitted = json.loads(command(*refit))
    assert fitted["int8"]["samples"] == 330
    assert Bundle.open(bundle).manifest.precisions["int8"].thresholds.limit == 0.02
    assert (bundle / "int8/segment_0.onnx").stat().st_mtime_ns == before


def test_arrays_become_a_classifier_which_refuses_cameras(tmp_path: Path) -> None:
    bundle, arrays = tmp_path / "bundle", tmp_path / "arrays"
    command("edge.training", "--dataset", "indian-pines", "--epochs", 1, "--output", tmp_path / "training")
    command("compile", tmp_path / "training/checkpoint.pt", "--output", bundle, "--precision", "fp32", *NO_GUARANTEE)
    verified = json.loads(command("edge", "verify", bundle, "--precision", "fp32", "--json"))
    assert verified["passed"]
    assert Bundle.open(bundle).manifest.input.kind == "array"

    arrays.mkdir()
    reference = Bundle.open(bundle).reference()
    for index, frame in enumerate(reference.frames[:5]):
        np.save(arrays / f"{index}.npy", frame)
    lines = command("edge", "run", bundle, "--source", arrays, "--precision", "fp32", "--json").splitlines()
    with edge.load(bundle, backend="onnxruntime") as classifier:
        expected = classifier.predict_batch(reference.frames[:5])
        assert [classifier.predict(arrays / f"{index}.npy").label for index in range(5)] == [p.label for p in expected]
        assert [result.label for result in classifier.stream(arrays)] == [p.label for p in expected]
        with pytest.raises(SourceError, match="this bundle reads arrays of numbers"):
            classifier.predict(np.zeros((8, 8, 3), np.uint8))
    assert [json.loads(line)["label"] for line in lines] == [p.label for p in expected]
    assert "reads arrays" in command("edge", "run", bundle, "--source", "0", code=2)


def test_every_sample_of_indian_pines_has_the_shape_of_the_input() -> None:
    images = load_dataset("indian-pines")
    assert images.frames[0].shape == images.frames[len(images.frames) - 1].shape == images.size
