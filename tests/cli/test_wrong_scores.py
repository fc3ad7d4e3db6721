"""`edge record` and `python -m calibration` on wrong input: refused in one line, and old files stay."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calibration.__main__ import main as calibration
from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.scores import LabelledScores, write_scores
from edge.cli.main import main as edge
from edge.decision import Scores
from tests.support.commands import (
    Result,
    call,
    class_folder,
    contents,
    error_line,
    full_disk,
    only_error_line,
    run_command,
)
from tests.support.damage import truncate

FULL = "File too large"
REFIT = ("--limit", "0.2", "--method", "none")


def record(bundle: Path, images: Path, output: Path) -> Result:
    return call(edge, "record", bundle, "--images", images, "--output", output, "--precision", "fp32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "0").rename(folder / "zero"),
            "zero is not named like a label; rename it to one of 0, 1",
        ),
        (
            lambda folder: truncate(folder / "1" / "1.png"),
            "1.png cannot be read as an image: it is damaged",
        ),
        (
            lambda folder: [path.unlink() for path in folder.rglob("*.png")],
            "has no images; add some in subfolders named 0, 1",
        ),
        (shutil.rmtree, "there is no folder"),
        (lambda folder: shutil.rmtree(folder) or folder.write_bytes(b""), "there is no folder"),
    ],
    ids=["not a label", "damaged image", "no images", "missing", "a file"],
)
def test_labelled_images_that_cannot_be_recorded_are_refused(
    change: Callable[[Path], object], message: str, bundle: Path, tmp_path: Path
) -> None:
    images = class_folder(tmp_path / "images", ("0", "1"))
    assert record(bundle, images, tmp_path / "scores.npz").code == 0
    change(images)
    before = contents(tmp_path)
    assert message in error_line(record(bundle, images, tmp_path / "scores.npz"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("place", ["below a file", "/proc"])
def test_scores_that_cannot_be_written_are_an_error(place: str, bundle: Path, tmp_path: Path) -> None:
    images = class_folder(tmp_path / "images", ("0", "1"))
    output = {"below a file": bundle / MANIFEST / "scores", "/proc": Path("/proc/scores")}[place]
    before = contents(tmp_path)
    only_error_line(record(bundle, images, output))
    assert contents(tmp_path) == before


def scores(segments: str, exits: int = 3, samples: int = 40, labels: int = 40, classes: int = 10) -> LabelledScores:
    generator = np.random.default_rng(0)
    logits = generator.random((exits, samples, classes), dtype=np.float32)
    confidence = generator.random((exits, samples), dtype=np.float32)
    label = generator.integers(0, 10, (exits, samples), dtype=np.int32)
    digests = generator.integers(0, 2**64, (labels, 2), dtype=np.uint64)
    return LabelledScores(logits, Scores(confidence, label), generator.integers(0, 10, labels), digests, segments)


def test_scores_of_this_bundle_are_accepted(bundle: Path, tmp_path: Path) -> None:
    """The next test damages these scores."""
    write_scores(tmp_path / "scores.npz", scores(Bundle.open(bundle).segments_digest("fp32")))
    guarantee = ("--method", "none", "--precision", "fp32")
    assert call(calibration, bundle, "--scores", tmp_path / "scores.npz", *guarantee).code == 0


Write = Callable[[Path, str], object]
"""Takes the file to write and the digest of the recorded segments."""


def edited(edit: Callable[[bytes], bytes]) -> Write:
    def write(path: Path, segments: str) -> None:
        write_scores(path, scores(segments))
        path.write_bytes(edit(path.read_bytes()))

    return write


def with_sizes(**sizes: int) -> Write:
    return lambda path, segments: write_scores(path, scores(segments, **sizes))


def with_fields(**fields: object) -> Write:
    return lambda path, segments: write_scores(path, scores(segments)._replace(**fields))


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda path, segments: None, id="missing"),
        pytest.param(lambda path, segments: path.mkdir(), id="a folder"),
        pytest.param(edited(lambda content: b"text"), id="text"),
        pytest.param(edited(lambda content: b""), id="empty"),
        pytest.param(edited(lambda content: content[:300]), id="truncated"),
        pytest.param(edited(lambda content: content[:200] + b"\0" + content[201:]), id="changed"),
        pytest.param(lambda path, segments: np.savez(path.open("wb"), confidence=np.zeros(3)), id="fields missing"),
        pytest.param(lambda path, segments: np.save(path.open("wb"), np.zeros(3)), id="an array"),
        pytest.param(with_sizes(exits=2), id="two exits"),
        pytest.param(with_sizes(exits=4), id="four exits"),
        pytest.param(with_sizes(labels=39), id="a label missing"),
        pytest.param(with_sizes(samples=0, labels=0), id="no samples"),
        pytest.param(lambda path, segments: write_scores(path, scores("0" * 32)), id="other segments"),
        pytest.param(with_fields(logits=np.zeros((2, 40, 10), np.float32)), id="logits of two exits"),
        pytest.param(with_fields(logits=np.zeros((3, 39, 10), np.float32)), id="logits of a sample missing"),
        pytest.param(with_fields(logits=np.zeros(40, np.float32)), id="logits without classes"),
        pytest.param(with_fields(truth=np.full(40, 10)), id="a class out of range"),
        pytest.param(with_fields(truth=np.full(40, "0")), id="classes by name"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_scores_of_anything_else_are_refused_and_the_bundle_keeps_its_thresholds(
    write: Write, bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "scores.npz"
    write(path, Bundle.open(bundle).segments_digest("fp32"))
    before = contents(bundle)
    only_error_line(run_command("calibration", bundle, "--scores", path, "--precision", "fp32", "--method", "none"))
    assert contents(bundle) == before


@pytest.mark.parametrize("limit", ["-0.1", "1", "1.5", "nan", "inf"])
@pytest.mark.parametrize("method", ["none", "betting"])
def test_a_risk_that_is_not_a_fraction_is_refused(method: str, limit: str, bundle: Path) -> None:
    before = contents(bundle)
    assert "the limit of the risk is" in only_error_line(
        call(calibration, bundle, "--method", method, f"--limit={limit}")
    )
    assert contents(bundle) == before


# Full disks


def test_a_full_disk_is_reported_with_the_bundle_that_did_not_fit(bundle: Path) -> None:
    with full_disk(1000):
        result = call(calibration, bundle, *REFIT)
    assert str(bundle) in only_error_line(result)


@pytest.mark.parametrize("free", [0, 1000])
def test_a_disk_that_fills_up_while_thresholds_are_written_leaves_the_old_ones(free: int, bundle: Path) -> None:
    before = contents(bundle)
    with full_disk(free):
        result = call(calibration, bundle, *REFIT)
    assert FULL in only_error_line(result)
    assert contents(bundle) == before


def test_a_disk_that_fills_up_while_scores_are_written_leaves_the_old_ones(bundle: Path, tmp_path: Path) -> None:
    images = class_folder(tmp_path / "images", ("0", "1"))
    record(bundle, images, tmp_path / "scores.npz")
    before = contents(tmp_path)
    with full_disk(100):
        result = record(bundle, images, tmp_path / "scores.npz")
    assert FULL in only_error_line(result)
    assert contents(tmp_path) == before


def test_a_process_of_its_own_on_a_full_disk_prints_one_line_too(bundle: Path) -> None:
    before = contents(bundle)
    with full_disk(1000):
        done = run_command("calibration", bundle, *REFIT)
    assert FULL in only_error_line(done)
    assert contents(bundle) == before
