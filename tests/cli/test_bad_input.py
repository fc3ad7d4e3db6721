"""Wrong input: one line that says what is wrong, exit code 2, no traceback, and everything left as it was."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from calibration.__main__ import main as calibration
from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.manifest import MANIFEST_VERSION
from edge.bundle.scores import LabelledScores, write_scores
from edge.cli.main import main as edge
from edge.decision import Scores
from tests.support.commands import (
    Result,
    call,
    class_folder,
    complaint,
    contents,
    full_disk,
    json_lines,
    random_frames,
    run_command,
    started_command,
    write_video,
)

if TYPE_CHECKING:
    from edge.training.checkpoint import Checkpoint


@pytest.fixture
def bundle(digits_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "video.avi", random_frames(12))


def one_line(result: Any) -> str:
    """Return the complaint of a command that says nothing else."""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return complaint(result)


# Bundles


def manifest_edit(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(bundle: Path) -> None:
        data = json.loads((bundle / MANIFEST).read_text())
        edit(data)
        (bundle / MANIFEST).write_text(json.dumps(data))

    return damage


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def moved_out(bundle: Path) -> None:
    """Put a link to the same content elsewhere in the place of a file."""
    (bundle / "reference.npz").rename(bundle.parent / "reference.npz")
    (bundle / "reference.npz").symlink_to(bundle.parent / "reference.npz")


DAMAGES = [
    pytest.param(shutil.rmtree, "there is no bundle at", id="missing"),
    pytest.param(lambda b: shutil.rmtree(b) or b.write_text("x"), "there is no bundle at", id="a file"),
    pytest.param(lambda b: (b / MANIFEST).unlink(), "is no bundle: it has no manifest.json", id="no manifest"),
    pytest.param(lambda b: cut_off(b / MANIFEST), "manifest.json is not valid JSON", id="manifest cut off"),
    pytest.param(lambda b: (b / MANIFEST).write_bytes(b""), "manifest.json is not valid JSON", id="manifest empty"),
    pytest.param(lambda b: (b / MANIFEST).write_bytes(bytes(range(256))), "is not valid JSON", id="manifest binary"),
    pytest.param(lambda b: (b / MANIFEST).unlink() or (b / MANIFEST).mkdir(), MANIFEST, id="manifest a folder"),
    pytest.param(
        manifest_edit(lambda m: m.update(version=MANIFEST_VERSION + 1)), "manifest version 3, this", id="newer version"
    ),
    pytest.param(
        manifest_edit(lambda m: m.update(version=MANIFEST_VERSION - 1)), "manifest version 1, this", id="older version"
    ),
    pytest.param(
        manifest_edit(lambda m: m["precisions"]["int8"].update(temperatures=[1.0, 0.0, 1.0])), "int8 has temperatures",
        id="temperature of 0",
    ),
    pytest.param(
        manifest_edit(lambda m: m.update(samples="../samples.npz")), "../samples.npz", id="samples outside"
    ),
    pytest.param(lambda b: flip(b / "samples.npz"), "samples.npz is not the file", id="other samples"),
    pytest.param(manifest_edit(lambda m: m.update(x=1)), "unknown field manifest.x", id="unknown field"),
    pytest.param(manifest_edit(lambda m: m.pop("labels")), "missing field manifest.labels", id="missing field"),
    pytest.param(manifest_edit(lambda m: m.update(labels="0")), "manifest.labels is '0', expected a list", id="type"),
    pytest.param(
        manifest_edit(lambda m: m["files"].update({"../../etc/passwd": "0" * 64})), "../../etc/passwd", id="path out"
    ),
    pytest.param(manifest_edit(lambda m: m["files"].update({"/etc/passwd": "0" * 64})), "/etc/passwd", id="root path"),
    pytest.param(
        manifest_edit(lambda m: m.update(reference="../reference.npz")), "../reference.npz", id="reference outside"
    ),
    pytest.param(moved_out, "reference.npz is not among the files", id="link out"),
    pytest.param(manifest_edit(lambda m: m["files"].pop("reference.npz")), "reference.npz", id="nobody vouches"),
    pytest.param(
        manifest_edit(lambda m: m["files"].update({"a\0b": "0"})), "a", id="name with a zero byte"
    ),
    pytest.param(lambda b: (b / "fp32/segment_1.onnx").unlink(), "lacks fp32/segment_1.onnx", id="file missing"),
    pytest.param(lambda b: cut_off(b / "int8/segment_0.onnx"), "segment_0.onnx is not the file", id="file cut off"),
    pytest.param(lambda b: flip(b / "fp32/whole.onnx"), "fp32/whole.onnx is not the file", id="bit flipped"),
    pytest.param(lambda b: (b / "fp32/scores.npz").write_bytes(b""), "fp32/scores.npz is not the file", id="emptied"),
    pytest.param(
        lambda b: shutil.copy(b / "fp32/segment_0.onnx", b / "fp32/segment_1.onnx"), "segment_1.onnx", id="swapped"
    ),
    pytest.param(lambda b: shutil.rmtree(b / "int8"), "lacks int8/", id="precision missing"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "what"), DAMAGES)
def test_a_damaged_bundle_is_refused_by_what_is_wrong_with_it(
    damage: Callable[[Path], object], what: str, bundle: Path, tmp_path: Path
) -> None:
    damage(bundle)
    before = contents(tmp_path)
    message = one_line(call(edge, "info", bundle))
    assert what in message
    assert str(bundle) in message
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (edge, ("info", "{bundle}")),
        (edge, ("build", "{bundle}")),
        (edge, ("run", "{bundle}", "--source", "{video}", "--output", "{lines}")),
        (edge, ("verify", "{bundle}")),
        (edge, ("record", "{bundle}", "--images", "{bundle}", "--output", "{lines}")),
        (edge, ("bench", "{bundle}")),
        (calibration, ("{bundle}",)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_every_command_refuses_a_damaged_bundle_and_writes_nothing(
    main: Callable[[], int], words: tuple[str, ...], bundle: Path, video: Path, tmp_path: Path
) -> None:
    flip(bundle / "fp32/segment_0.onnx")
    before = contents(tmp_path)
    where = {"bundle": bundle, "video": video, "lines": tmp_path / "lines"}
    assert "segment_0.onnx is not the file" in one_line(call(main, *(word.format(**where) for word in words)))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [(("labels",), ["0", "1"]), (("input", "std"), [0.0]), (("input", "mean"), []), (("input", "colour"), "rgb")],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_a_manifest_that_contradicts_its_network_never_gives_an_answer(
    field: tuple[str, ...], value: object, bundle: Path, video: Path
) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        *path, last = field
        for key in path:
            manifest = manifest[key]
        manifest[last] = value

    manifest_edit(edit)(bundle)
    one_line(call(edge, "run", bundle, "--source", video, "--json"))


def test_brackets_in_a_name_are_printed_as_they_are(bundle: Path) -> None:
    manifest_edit(lambda manifest: manifest.update(name="[/b] [red]digits"))(bundle)
    result = call(edge, "info", bundle)
    assert result.code == 0
    assert "[/b] [red]digits" in result.stdout


def test_a_real_process_says_it_in_one_line_too(tmp_path: Path) -> None:
    done = run_command("edge", "info", tmp_path / "nowhere")
    assert one_line(done) == f"there is no bundle at {tmp_path / 'nowhere'}; make one with `python -m compile`"
    assert done.stdout == ""


# Sources


def run(bundle: Path, source: object, *more: object) -> Result:
    return call(edge, "run", bundle, "--source", source, "--precision", "fp32", *more)


def answers(stdout: str) -> list[dict[str, Any]]:
    """Return what was said of the frames, without how long it took."""
    lines = json_lines(stdout)
    assert [line["frame"] for line in lines] == list(range(len(lines)))
    return [{name: value for name, value in line.items() if not name.endswith("_ms")} for line in lines]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_a_video_that_ends_early_is_answered_up_to_there(share: float, bundle: Path, video: Path) -> None:
    whole = answers(run(bundle, video, "--json").stdout)
    assert len(whole) == 12
    cut_off(video, share)
    result = run(bundle, video, "--json")
    message = one_line(result)
    found = answers(result.stdout)
    assert found == whole[: len(found)]
    if share > 0.1:
        assert 0 < len(found) < 12
        assert f"ended after {len(found)} of 12 frames; the file is damaged or was cut off" in message
    else:
        assert "cannot be opened" in message


def test_a_folder_is_answered_up_to_a_damaged_image(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index, frame in enumerate(random_frames(6)):
        cv2.imwrite(str(folder / f"{index}.png"), frame)
    whole = answers(run(bundle, folder, "--json").stdout)
    cut_off(folder / "4.png")
    result = run(bundle, folder, "--json", "--output", tmp_path / "lines")
    assert "4.png cannot be read as an image; remove or replace it" in complaint(result)
    assert answers(result.stdout) == whole[:4]
    assert answers((tmp_path / "lines").read_text()) == whole[:4]


def test_a_photo_cut_off_is_not_answered(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.jpg"), random_frames(1, 64, 64)[0])
    cut_off(tmp_path / "images" / "0.jpg")
    assert "0.jpg" in complaint(run(bundle, tmp_path / "images", "--json"))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path.mkdir(), "holds no images"),
        (lambda path: path.mkdir() or (path / "notes.txt").write_text("x"), "holds no images"),
        (lambda path: path.write_text("not a video\n" * 1000), "cannot be opened; is it a video?"),
        (lambda path: path.write_bytes(b""), "cannot be opened; is it a video?"),
        (lambda path: None, "there is no video or folder"),
        (
            lambda path: path.mkdir() or np.save(path / "0.npy", np.zeros((1, 32, 32))),
            "this network reads 8-bit images",
        ),
    ],
    ids=["empty folder", "folder of texts", "text", "empty file", "nothing", "arrays for an image network"],
)
def test_a_source_without_frames_for_this_network_is_refused(
    make: Callable[[Path], object], what: str, bundle: Path, tmp_path: Path
) -> None:
    make(tmp_path / "source")
    result = run(bundle, tmp_path / "source", "--json")
    assert what in one_line(result)
    assert result.stdout == ""


def test_a_camera_that_is_not_there_is_refused_by_its_number(bundle: Path) -> None:
    done = run_command("edge", "run", bundle, "--source", "99")
    assert one_line(done).startswith("camera 99 cannot be opened; ")


@pytest.fixture
def closed_port() -> int:
    """A port of this machine nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_stream_nobody_sends_is_given_up_soon(bundle: Path, closed_port: int) -> None:
    address = f"rtsp://127.0.0.1:{closed_port}/stream"
    started = time.monotonic()
    done = run_command("edge", "run", bundle, "--source", address)
    assert time.monotonic() - started < 20
    assert address in complaint(done)


def test_a_stream_nobody_sends_is_complained_of_once(bundle: Path, closed_port: int) -> None:
    done = run_command("edge", "run", bundle, "--source", f"rtsp://127.0.0.1:{closed_port}/stream")
    assert "is it a video?" not in one_line(done)


# Settings of a run


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (["-0.1", "0.5"], "threshold 0 is -0.1"),
        (["0.5", "nan"], "threshold 1 is nan"),
        (["inf", "0.5"], "threshold 0 is inf"),
        (["-inf", "0.5"], "threshold 0 is -inf"),
        (["0.5"], "got 1 thresholds for 3 exits; give 2"),
        (["0.5", "0.5", "0.5"], "got 3 thresholds for 3 exits; give 2"),
        (["1e39", "0.5"], "threshold 0 is inf"),
    ],
)
def test_thresholds_that_are_none_are_refused_by_position(
    values: list[str], what: str, bundle: Path, video: Path, tmp_path: Path
) -> None:
    words = [f"--threshold={value}" for value in values]
    assert what in one_line(run(bundle, video, "--output", tmp_path / "lines", *words))
    assert not (tmp_path / "lines").exists()


@pytest.mark.parametrize(
    "words", [["--threshold=high"], ["--backend=coral"], ["--policy=some"], ["--frames=few"], ["--threads=many"]]
)
def test_words_that_are_none_are_refused(words: list[str], bundle: Path, video: Path) -> None:
    result = run(bundle, video, *words)
    assert result.code == 2
    assert words[0].split("=")[0] in result.stderr.splitlines()[-1]
    assert result.stdout == ""


@pytest.mark.parametrize("words", [["--frames=0"], ["--frames=-3"], ["--threads=-2"]])
def test_numbers_that_make_no_sense_are_refused(words: list[str], bundle: Path, video: Path) -> None:
    assert run(bundle, video, *words).code == 2


@pytest.mark.parametrize(
    ("main", "words"),
    [(edge, ("run", "--source", "x")), (edge, ("build",)), (edge, ("verify",)), (edge, ("bench",)), (calibration, ())],
    ids=["run", "build", "verify", "bench", "calibration"],
)
def test_an_unknown_precision_is_refused_with_those_there_are(
    main: Callable[[], int], words: tuple[str, ...], bundle: Path
) -> None:
    before = contents(bundle)
    message = one_line(call(main, *words[:1], bundle, *words[1:], "--precision", "fp4"))
    assert "no precision 'fp4'; it has fp32, int8" in message
    assert contents(bundle) == before


@pytest.mark.parametrize("place", ["missing folder", "below a file", "/proc", "a folder", "full disk"])
def test_an_output_that_cannot_be_written_is_refused_by_name(
    place: str, bundle: Path, video: Path, tmp_path: Path
) -> None:
    output = {
        "missing folder": tmp_path / "missing" / "lines",
        "below a file": video / "lines",
        "/proc": Path("/proc/lines"),
        "a folder": bundle,
        "full disk": Path("/dev/full"),
    }[place]
    before = contents(tmp_path)
    message = one_line(run(bundle, video, "--output", output, "--json"))
    assert str(output) in message or place == "full disk"
    assert contents(tmp_path) == before


def test_a_full_disk_is_reported_with_the_file_that_did_not_fit(bundle: Path, video: Path) -> None:
    assert "/dev/full" in one_line(run(bundle, video, "--output", "/dev/full", "--json"))


AS_USUAL = {"PYTHONUNBUFFERED": ""}
"""What is printed waits in a buffer, unless a test machine asks for something else."""


@pytest.mark.parametrize(
    "words",
    [("info", "{bundle}"), ("info", "{bundle}", "--json"), ("run", "{bundle}", "--source", "{video}", "--json")],
)
def test_a_result_that_cannot_be_printed_is_an_error(words: tuple[str, ...], bundle: Path, video: Path) -> None:
    command = ["edge", *(word.format(bundle=bundle, video=video) for word in words)]
    with (
        Path("/dev/full").open("w") as full,
        started_command(*command, env=AS_USUAL, stdout=full, stderr=subprocess.PIPE) as process,
    ):
        said = process.communicate()[1]
    one_line(subprocess.CompletedProcess(command, process.returncode, "", said))


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("info", "{bundle}")),
        ("info", "{bundle}", "--json"),
        ("run", "{bundle}", "--source", "{video}", "--json"),
    ],
)
def test_a_reader_who_has_seen_enough_is_no_error(words: tuple[str, ...], bundle: Path, video: Path) -> None:
    command = ["edge", *(word.format(bundle=bundle, video=video) for word in words)]
    read_end, write_end = os.pipe()
    os.close(read_end)
    with (
        os.fdopen(write_end, "w") as nobody_reads,
        started_command(*command, env=AS_USUAL, stdout=nobody_reads, stderr=subprocess.PIPE) as process,
    ):
        said = process.communicate()[1]
    assert (process.returncode, said) == (0, "")


# Recording and calibration


def record(bundle: Path, images: Path, output: Path) -> Result:
    return call(edge, "record", bundle, "--images", images, "--output", output, "--precision", "fp32")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            lambda folder: (folder / "0").rename(folder / "zero"),
            "zero is named like no label of the bundle; there are 0, 1",
        ),
        (lambda folder: cut_off(folder / "1" / "1.png"), "1.png cannot be read as an image; remove or replace it"),
        (lambda folder: [path.unlink() for path in folder.rglob("*.png")], "has no images in subfolders"),
        (shutil.rmtree, "there is no folder"),
        (lambda folder: shutil.rmtree(folder) or folder.write_bytes(b""), "there is no folder"),
    ],
    ids=["no label", "damaged image", "no images", "missing", "a file"],
)
def test_labelled_images_that_cannot_be_recorded_are_refused(
    change: Callable[[Path], object], what: str, bundle: Path, tmp_path: Path
) -> None:
    images = class_folder(tmp_path / "images", ("0", "1"))
    assert record(bundle, images, tmp_path / "scores.npz").code == 0
    change(images)
    before = contents(tmp_path)
    assert what in complaint(record(bundle, images, tmp_path / "scores.npz"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("place", ["below a file", "/proc"])
def test_scores_that_cannot_be_written_are_an_error(place: str, bundle: Path, tmp_path: Path) -> None:
    images = class_folder(tmp_path / "images", ("0", "1"))
    output = {"below a file": bundle / MANIFEST / "scores", "/proc": Path("/proc/scores")}[place]
    before = contents(tmp_path)
    one_line(record(bundle, images, output))
    assert contents(tmp_path) == before


def scores(segments: str, exits: int = 3, samples: int = 40, labels: int = 40, classes: int = 10) -> LabelledScores:
    generator = np.random.default_rng(0)
    logits = generator.random((exits, samples, classes), dtype=np.float32)
    confidence = generator.random((exits, samples), dtype=np.float32)
    label = generator.integers(0, 10, (exits, samples), dtype=np.int32)
    digests = generator.integers(0, 2**64, (labels, 2), dtype=np.uint64)
    return LabelledScores(logits, Scores(confidence, label), generator.integers(0, 10, labels), digests, segments)


def test_scores_of_this_bundle_are_not_refused(bundle: Path, tmp_path: Path) -> None:
    """What the next test damages is in order otherwise."""
    write_scores(tmp_path / "scores.npz", scores(Bundle.open(bundle).segments_digest("fp32")))
    guarantee = ("--method", "none", "--precision", "fp32")
    assert call(calibration, bundle, "--scores", tmp_path / "scores.npz", *guarantee).code == 0


Write = Callable[[Path, str], object]
"""Takes where to write scores and the digest of the segments they shall be of."""


def damaged(edit: Callable[[bytes], bytes]) -> Write:
    def write(path: Path, segments: str) -> None:
        write_scores(path, scores(segments))
        path.write_bytes(edit(path.read_bytes()))

    return write


def made_with(**sizes: int) -> Write:
    return lambda path, segments: write_scores(path, scores(segments, **sizes))


def with_fields(**fields: object) -> Write:
    return lambda path, segments: write_scores(path, scores(segments)._replace(**fields))


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda path, segments: None, id="missing"),
        pytest.param(lambda path, segments: path.mkdir(), id="a folder"),
        pytest.param(damaged(lambda content: b"text"), id="text"),
        pytest.param(damaged(lambda content: b""), id="empty"),
        pytest.param(damaged(lambda content: content[:300]), id="cut off"),
        pytest.param(damaged(lambda content: content[:200] + b"\0" + content[201:]), id="changed"),
        pytest.param(lambda path, segments: np.savez(path.open("wb"), confidence=np.zeros(3)), id="fields missing"),
        pytest.param(lambda path, segments: np.save(path.open("wb"), np.zeros(3)), id="an array"),
        pytest.param(made_with(exits=2), id="two exits"),
        pytest.param(made_with(exits=4), id="four exits"),
        pytest.param(made_with(labels=39), id="a label missing"),
        pytest.param(made_with(samples=0, labels=0), id="no samples"),
        pytest.param(lambda path, segments: write_scores(path, scores("0" * 32)), id="other segments"),
        pytest.param(with_fields(logits=np.zeros((2, 40, 10), np.float32)), id="logits of two exits"),
        pytest.param(with_fields(logits=np.zeros((3, 39, 10), np.float32)), id="logits of a sample missing"),
        pytest.param(with_fields(logits=np.zeros(40, np.float32)), id="logits without classes"),
        pytest.param(with_fields(truth=np.full(40, 10)), id="a class there is not"),
        pytest.param(with_fields(truth=np.full(40, "0")), id="classes by name"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_scores_that_are_none_of_this_bundle_are_refused_and_it_keeps_its_thresholds(
    write: Write, bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "scores.npz"
    write(path, Bundle.open(bundle).segments_digest("fp32"))
    before = contents(bundle)
    one_line(run_command("calibration", bundle, "--scores", path, "--precision", "fp32", "--method", "none"))
    assert contents(bundle) == before


@pytest.mark.parametrize("limit", ["-0.1", "1", "1.5", "nan", "inf"])
@pytest.mark.parametrize("method", ["none", "betting"])
def test_a_risk_that_is_no_fraction_is_refused(method: str, limit: str, bundle: Path) -> None:
    before = contents(bundle)
    assert "the risk to allow is" in one_line(call(calibration, bundle, "--method", method, f"--limit={limit}"))
    assert contents(bundle) == before


# Images to train on


def train(output: Path, *words: object) -> Result:
    from edge.training.__main__ import main

    return call(main, "--output", output, "--epochs", 1, *words)


def refused_training(tmp_path: Path, *words: object) -> str:
    message = complaint(train(tmp_path / "training", *words))
    assert not (tmp_path / "training").exists()
    return message


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda folder: cut_off(folder / "cat" / "7.png"), "cat/7.png cannot be read as an image"),
        (lambda folder: (folder / "cat" / "7.png").write_text("x"), "cat/7.png cannot be read as an image"),
        (lambda folder: (folder / "cow").mkdir(), "cow has no images"),
        (lambda folder: shutil.rmtree(folder / "cat"), "only one class, 'dog'"),
        (lambda folder: [shutil.rmtree(folder / name) for name in ("cat", "dog")], "has no subfolders"),
        (shutil.rmtree, "there is no folder"),
        (lambda folder: [path.unlink() for path in folder.glob("cat/1*.png")], "class 'cat' of folder has 9 distinct"),
        (
            lambda folder: [shutil.copy(folder / "cat" / "0.png", path) for path in folder.glob("cat/1*.png")],
            "class 'cat' of folder has 9 distinct",
        ),
    ],
    ids=["cut off", "no image", "empty class", "one class", "no classes", "missing", "too few", "too many copies"],
)
def test_a_class_folder_that_cannot_be_trained_on_is_refused_by_name(
    change: Callable[[Path], object], what: str, tmp_path: Path
) -> None:
    folder = class_folder(tmp_path / "images", ("cat", "dog"), each=12)
    change(folder)
    message = refused_training(tmp_path, "--dataset", "folder", "--data", folder)
    assert what in message
    assert str(folder) in message or "distinct" in message


def test_a_photo_cut_off_is_not_trained_on(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "images", ("cat", "dog"), each=12)
    cv2.imwrite(str(folder / "cat" / "photo.jpg"), random_frames(1, 64, 64)[0])
    cut_off(folder / "cat" / "photo.jpg")
    assert "photo.jpg" in refused_training(tmp_path, "--dataset", "folder", "--data", folder, "--batch-size", 4)


@pytest.mark.parametrize(
    "words",
    [
        ("--batch-size", "100000"),
        ("--batch-size", "0"),
        ("--batch-size", "-4"),
        ("--truncated-at", "3"),
        ("--truncated-at", "-1"),
        ("--epochs", "-1"),
        ("--image-size", "-5"),
        ("--image-size", "0"),
        ("--image-size", "1"),
        ("--seed", "-1"),
        ("--learning-rate", "1e30"),
        ("--learning-rate", "nan"),
        ("--learning-rate", "-0.1"),
        ("--attention-weight", "nan"),
    ],
    ids=" ".join,
)
def test_training_settings_that_make_no_sense_are_refused(words: tuple[str, str], tmp_path: Path) -> None:
    result = train(tmp_path / "training", "--dataset", "digits", *words)
    assert result.code == 2
    assert "error: " in result.stderr.splitlines()[-1]
    assert not (tmp_path / "training").exists()


# Checkpoints


def compiled(checkpoint: Path, output: Path, *words: object) -> Result:
    from compile.__main__ import main

    return call(main, checkpoint, "--output", output, "--precision", "fp32", *words)


@pytest.fixture
def checkpoint(digits_checkpoint: "Checkpoint", tmp_path: Path) -> Path:
    """A file to damage."""
    from edge.training.checkpoint import write_checkpoint

    write_checkpoint(tmp_path / "checkpoint.pt", digits_checkpoint)
    return tmp_path / "checkpoint.pt"


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
    ("damage", "what"),
    [
        pytest.param(Path.unlink, "there is no checkpoint at", id="missing"),
        pytest.param(lambda path: path.unlink() or path.mkdir(), "there is no checkpoint at", id="a folder"),
        pytest.param(lambda path: path.write_bytes(b""), "checkpoint.pt is damaged", id="empty"),
        pytest.param(cut_off, "checkpoint.pt is damaged", id="cut off"),
        pytest.param(lambda path: cut_off(path, 0.999), "checkpoint.pt is damaged", id="cut off at the end"),
        pytest.param(lambda path: path.write_text("hello"), "checkpoint.pt is damaged", id="text"),
        pytest.param(lambda path: cv2.imwrite(f"{path}.png", random_frames(1)[0]) and os.replace(f"{path}.png", path),
                     "checkpoint.pt is damaged", id="an image"),
        pytest.param(flip, "checkpoint.pt is damaged", id="bit flipped"),
        pytest.param(checkpoint_edit(lambda data: data.update(version=99)), "checkpoint version 99", id="version"),
        pytest.param(checkpoint_edit(dict.clear), "checkpoint version None", id="no checkpoint"),
        pytest.param(checkpoint_edit(lambda data: data.pop("splits")), "missing field checkpoint.splits",
                     id="field missing"),
        pytest.param(checkpoint_edit(lambda data: data["settings"].update(depth=3)), "checkpoint.settings.depth",
                     id="field added"),
        pytest.param(checkpoint_edit(lambda data: data.update(splits=[])), "checkpoint.splits is []",
                     id="no splits"),
        pytest.param(checkpoint_edit(lambda data: data.update(weights=[])), "checkpoint.weights is []",
                     id="no weights"),
        pytest.param(checkpoint_edit(smaller_weights), "weights do not fit backbone 'cnn'", id="smaller weights"),
        pytest.param(checkpoint_edit(weights_of_another_network), "weights do not fit backbone 'cnn'",
                     id="weights of another network"),
        pytest.param(checkpoint_edit(lambda data: data["settings"].update(backbone="resnet18")),
                     "weights do not fit backbone 'resnet18'", id="another backbone"),
        pytest.param(checkpoint_edit(lambda data: data["settings"].update(backbone="vgg")), "unknown backbone 'vgg'",
                     id="unknown backbone"),
        pytest.param(checkpoint_edit(lambda data: data.update(classes=data["classes"][:9])), "weights do not fit",
                     id="a class missing"),
        pytest.param(checkpoint_edit(lambda data: data["settings"].update(dataset="birds")), "unknown dataset 'birds'",
                     id="unknown dataset"),
        pytest.param(checkpoint_edit(lambda data: data["splits"]["train"].update(fingerprint="0")),
                     "is not what the network was trained on", id="another dataset"),
        pytest.param(checkpoint_edit(lambda data: data["settings"].update(seed=1)),
                     "is not what the network was trained on", id="another seed"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_compiled_is_refused_and_the_old_bundle_stays(
    damage: Callable[[Path], object], what: str, checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    damage(checkpoint)
    before = contents(tmp_path)
    assert what in complaint(compiled(checkpoint, bundle))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: cv2.imwrite(str(folder / "cat" / "0.png"), random_frames(1, seed=9)[0]),
        lambda folder: cv2.imwrite(str(folder / "cat" / "new.png"), random_frames(1, seed=9)[0]),
        lambda folder: (folder / "cat" / "0.png").unlink(),
        lambda folder: (folder / "cat").rename(folder / "zebra"),
    ],
    ids=["image changed", "image added", "image removed", "class renamed"],
)
def test_a_dataset_that_changed_since_training_is_noticed(
    change: Callable[[Path], object], digits_checkpoint: "Checkpoint", tmp_path: Path
) -> None:
    from compile.trained_model import load_trained_model
    from edge.training.checkpoint import write_checkpoint
    from edge.training.datasets import load_dataset
    from edge.training.splits import draw_splits, split_specs

    folder = class_folder(tmp_path / "images", ("cat", "dog"), each=12)
    images = load_dataset("folder", folder)
    trained = dataclasses.replace(
        digits_checkpoint,
        settings=dataclasses.replace(digits_checkpoint.settings, dataset="folder", data=str(folder)),
        classes=images.classes,
        splits=split_specs(images, draw_splits(images, digits_checkpoint.settings.seed)),
    )
    load_trained_model(trained, None)
    change(folder)
    write_checkpoint(tmp_path / "checkpoint.pt", trained)
    message = complaint(compiled(tmp_path / "checkpoint.pt", tmp_path / "bundle"))
    assert "is not what the network was trained on" in message
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("what_is_there", ["a folder of other things", "a file"])
def test_an_output_that_is_no_bundle_is_not_overwritten(what_is_there: str, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    if what_is_there == "a file":
        output.write_text("mine")
    else:
        output.mkdir()
        (output / "thesis.tex").write_text("mine")
    before = contents(tmp_path)
    message = complaint(compiled(checkpoint, output))
    assert f"{output} exists and is no bundle; choose another output or move it away" in message
    assert contents(tmp_path) == before


def test_a_bundle_below_a_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    complaint(compiled(checkpoint, checkpoint / "bundle"))
    assert contents(tmp_path) == before


# Full disks


FULL = "File too large"
REFIT = ("--limit", "0.2", "--method", "none")


@pytest.mark.parametrize("free", [1000, 800_000])
def test_a_disk_that_fills_up_while_a_bundle_is_written_leaves_the_old_one(
    free: int, checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    with full_disk(free):
        result = compiled(checkpoint, bundle)
    assert FULL in complaint(result)
    assert contents(tmp_path) == before


def test_a_full_disk_is_reported_with_the_bundle_that_did_not_fit(bundle: Path) -> None:
    with full_disk(1000):
        result = call(calibration, bundle, *REFIT)
    assert str(bundle) in one_line(result)


@pytest.mark.parametrize("free", [0, 1000])
def test_a_disk_that_fills_up_while_thresholds_are_written_leaves_the_old_ones(free: int, bundle: Path) -> None:
    before = contents(bundle)
    with full_disk(free):
        result = call(calibration, bundle, *REFIT)
    assert FULL in one_line(result)
    assert contents(bundle) == before


def test_a_disk_that_fills_up_while_scores_are_written_leaves_the_old_ones(bundle: Path, tmp_path: Path) -> None:
    images = class_folder(tmp_path / "images", ("0", "1"))
    record(bundle, images, tmp_path / "scores.npz")
    before = contents(tmp_path)
    with full_disk(100):
        result = record(bundle, images, tmp_path / "scores.npz")
    assert FULL in one_line(result)
    assert contents(tmp_path) == before


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_leaves_none(tmp_path: Path) -> None:
    with full_disk(100_000):
        result = train(tmp_path / "training", "--dataset", "digits", "--image-size", 16, "--batch-size", 256)
    assert FULL in complaint(result)
    assert [path.name for path in (tmp_path / "training").iterdir()] == ["tensorboard"]


def test_a_disk_that_fills_up_while_an_engine_is_built_leaves_no_engine(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    words = ("build", bundle, "--precision", "fp32")
    with full_disk(1000):
        result = call(edge, *words)
    complaint(result)
    assert not (tmp_path / "cache").exists() or not os.listdir(tmp_path / "cache")
    assert call(edge, *words).code == 0


def test_a_real_process_on_a_full_disk_says_it_in_one_line_too(bundle: Path) -> None:
    before = contents(bundle)
    with full_disk(1000):
        done = run_command("calibration", bundle, *REFIT)
    assert FULL in one_line(done)
    assert contents(bundle) == before


@pytest.mark.parametrize("place", ["below a file", "/proc"])
def test_a_cache_that_cannot_be_written_is_an_error(
    place: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = {"below a file": bundle / MANIFEST / "cache", "/proc": Path("/proc/cache")}[place]
    monkeypatch.setenv("EDGE_CACHE", str(root))
    before = contents(tmp_path)
    assert str(root) in one_line(call(edge, "build", bundle, "--precision", "fp32"))
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_cache_of_another_user_is_not_used(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 12345, 12345)
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    message = one_line(call(edge, "build", bundle, "--precision", "fp32"))
    assert "belongs to another user; set EDGE_CACHE to a folder of your own" in message
    assert os.listdir(tmp_path / "cache") == []
