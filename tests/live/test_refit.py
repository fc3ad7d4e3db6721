"""See, collect, label, refit: from a stream to thresholds and a network trained on what it was unsure of."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

import edge
from edge.bundle.bundle import Bundle
from edge.live.messages import Observation
from edge.live.outputs import base
from edge.live.outputs.base import OutputQueue
from edge.live.outputs.collect import Collector
from tests.support.commands import NO_GUARANTEE, run_command
from tests.support.observations import observation

MAX_VIEWS, MAX_FILES = 600, 250


def write_views(folder: Path) -> None:
    """Write digits as a camera sees them: larger, noisy and askew. The name begins with the true label."""
    folder.mkdir()
    digits, rng = load_digits(), np.random.default_rng(0)
    for index, (image, label) in enumerate(zip(digits.images[:MAX_VIEWS], digits.target[:MAX_VIEWS], strict=True)):
        enlarged = cv2.resize(image.astype(np.float32) * 255 / 16, (48, 48), interpolation=cv2.INTER_CUBIC)
        turn = cv2.getRotationMatrix2D((24, 24), rng.uniform(-25, 25), rng.uniform(0.8, 1.0))
        noisy = cv2.warpAffine(enlarged, turn, (48, 48)) + rng.normal(0, 20, (48, 48))
        cv2.imwrite(str(folder / f"{label}-{index:04}.png"), np.clip(noisy, 0, 255).astype(np.uint8))


def watch(classifier: edge.Classifier, source: Path, collected: Path) -> list[Observation]:
    """Classify a source and collect frames, as a live run does."""
    queue = OutputQueue(Collector(collected, lambda: classifier.thresholds, max_files=MAX_FILES))
    seen = []
    for result in classifier.stream(source):
        each = observation(0.0, position=result.position, time=result.time, prediction=result.prediction)
        frame = result.copy_frame() if queue.wants_frame(each) else None
        seen.append(each)
        queue.put(each if frame is None else observation(
            0.0, position=result.position, time=result.time, prediction=result.prediction, frame=frame))  # fmt: skip
    queue.close(limit_s=60)
    return seen


def command(*words: object) -> str:
    done = run_command(*words, timeout=300)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.mark.slow
def test_collected_frames_refit_and_retrain_once_they_are_sorted(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MAX_QUEUED_FRAMES", MAX_VIEWS)  # files come faster than they can be written
    monkeypatch.setattr(base, "MAX_QUEUED", MAX_VIEWS)
    bundle, views, collected = tmp_path / "bundle", tmp_path / "views", tmp_path / "collected"
    shutil.copytree(digits_bundle.path, bundle)
    write_views(views)
    with edge.load(bundle, backend="onnxruntime", precision="int8") as classifier:
        before = classifier.thresholds
        seen = watch(classifier, views, collected)
    assert len(list(collected.glob("*.png"))) == MAX_FILES < len(seen)

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
