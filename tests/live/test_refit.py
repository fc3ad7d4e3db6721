"""See, collect, label, refit: from a stream to thresholds and a network trained on its uncertain frames."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits

import edge
from edge.bundle.bundle import Bundle
from edge.live import run
from edge.live.outputs.collect import Collector
from tests.support.commands import NO_GUARANTEE, run_command

MAX_VIEWS, MAX_FILES = 900, 350


def write_views(folder: Path) -> None:
    """Write digits as a camera sees them: larger, noisy and askew. The name begins with the true label."""
    folder.mkdir()
    digits, rng = load_digits(), np.random.default_rng(0)
    for index, (image, label) in enumerate(zip(digits.images[:MAX_VIEWS], digits.target[:MAX_VIEWS], strict=True)):
        enlarged = cv2.resize(image.astype(np.float32) * 255 / 16, (48, 48), interpolation=cv2.INTER_CUBIC)
        turn = cv2.getRotationMatrix2D((24, 24), rng.uniform(-25, 25), rng.uniform(0.8, 1.0))
        noisy = cv2.warpAffine(enlarged, turn, (48, 48)) + rng.normal(0, 20, (48, 48))
        cv2.imwrite(str(folder / f"{label}-{index:04}.png"), np.clip(noisy, 0, 255).astype(np.uint8))


def command(*words: object) -> str:
    done = run_command(*words, timeout=300)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_collected_frames_refit_and_retrain_once_they_are_sorted(digits_bundle: Bundle, tmp_path: Path) -> None:
    bundle, views, collected = tmp_path / "bundle", tmp_path / "views", tmp_path / "collected"
    shutil.copytree(digits_bundle.path, bundle)
    write_views(views)
    with edge.load(bundle, backend="onnxruntime", precision="int8") as classifier:
        before = classifier.thresholds
        run(classifier, [views], [Collector(collected, max_files=MAX_FILES)])
    assert len(list(collected.glob("*.png"))) == MAX_FILES

    for line in (collected / "index.jsonl").read_text().splitlines():  # the human
        entry = json.loads(line)
        path, truth = collected / entry["collected"], collected / entry["file"][0]
        if path.exists():
            truth.mkdir(exist_ok=True)
            shutil.move(path, truth)
    assert not list(collected.glob("*.png"))

    scores = tmp_path / "scores.npz"
    command("edge", "record", bundle, "--images", collected, "--precision", "int8", "--output", scores)
    command("calibration", bundle, "--scores", scores, "--precision", "int8", *NO_GUARANTEE)
    thresholds = Bundle.open(bundle).manifest.precisions["int8"].thresholds
    assert thresholds.samples == MAX_FILES
    assert thresholds.values != before

    command("edge.training", "--dataset", "folder", "--data", collected, "--image-size", 16, "--epochs", 1,
            "--batch-size", 16, "--output", tmp_path / "training")  # fmt: skip
    assert (tmp_path / "training/checkpoint.pt").is_file()
