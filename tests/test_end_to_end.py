"""The commands in a row, as a user types them, on arrays and on a folder of one's own images."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from edge.bundle.bundle import Bundle
from edge.training.datasets import load_dataset
from tests.support.commands import FEW_IMAGES


def command(*words: object, code: int = 0) -> str:
    line = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, f"{' '.join(line)}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def write_pictures(folder: Path, classes: int = 3, each: int = 160, seed: int = 0) -> None:
    """Write discs of a colour for each class, of changing sizes and formats."""
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


def test_a_folder_of_images_becomes_a_classifier_of_such_images(tmp_path: Path) -> None:
    pictures, bundle = tmp_path / "pictures", tmp_path / "bundle"
    write_pictures(pictures)
    command("edge.training", "--dataset", "folder", "--data", pictures, "--image-size", 32, "--epochs", 3,
            "--batch-size", 16, "--output", tmp_path / "training")  # fmt: skip
    compile_command = ("compile", tmp_path / "training/checkpoint.pt", "--output", bundle, *FEW_IMAGES)
    compiled = json.loads(command(*compile_command, "--json"))
    assert compiled["labels"] == ["colour-0", "colour-1", "colour-2"]

    lines = command("edge", "run", bundle, "--source", pictures, "--json").splitlines()
    answers = [json.loads(line) for line in lines]
    assert [answer["frame"] for answer in answers] == list(range(480))
    right = np.mean([answer["label_index"] == answer["frame"] // 160 for answer in answers])
    assert right > 0.95

    scores, others = tmp_path / "scores.npz", tmp_path / "others"
    write_pictures(others, each=110, seed=1)
    command("edge", "record", bundle, "--images", others, "--precision", "int8", "--output", scores)
    before = (bundle / "int8/segment_0.onnx").stat().st_mtime_ns
    refit = ("calibration", bundle, "--scores", scores, "--precision", "int8", "--limit", 0.02, "--json")
    fitted = json.loads(command(*refit))
    assert fitted["int8"]["samples"] == 330
    assert Bundle.open(bundle).manifest.precisions["int8"].thresholds.limit == 0.02
    assert (bundle / "int8/segment_0.onnx").stat().st_mtime_ns == before


def test_arrays_go_the_same_way_and_cameras_are_refused(tmp_path: Path) -> None:
    bundle, arrays = tmp_path / "bundle", tmp_path / "arrays"
    command("edge.training", "--dataset", "indian-pines", "--epochs", 1, "--output", tmp_path / "training")
    command("compile", tmp_path / "training/checkpoint.pt", "--output", bundle, *FEW_IMAGES)
    verified = json.loads(command("edge", "verify", bundle, "--precision", "fp32", "--json"))
    assert verified["passed"]
    assert Bundle.open(bundle).manifest.input.kind == "array"

    arrays.mkdir()
    reference = Bundle.open(bundle).reference()
    for index, frame in enumerate(reference.frames[:5]):
        np.save(arrays / f"{index}.npy", frame)
    answers = [json.loads(line) for line in command("edge", "run", bundle, "--source", arrays, "--json").splitlines()]
    assert len(answers) == 5
    assert "reads arrays" in command("edge", "run", bundle, "--source", "0", code=2)


def test_every_sample_of_indian_pines_is_of_the_shape_its_input_says() -> None:
    images = load_dataset("indian-pines")
    assert images.frames[0].shape == images.frames[len(images.frames) - 1].shape == images.size
