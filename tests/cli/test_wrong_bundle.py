"""Damaged bundles: every command refuses them in one line, with exit code 2, and changes nothing."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from calibration.__main__ import main as calibration
from edge.bundle.bundle import MANIFEST
from edge.bundle.manifest import MANIFEST_VERSION
from edge.cli.main import main as edge
from edge.storage import sha256_of
from tests.support.commands import call, contents, only_error_line, run_command
from tests.support.damage import flip_bit, manifest_edit, truncate


def link_outside(bundle: Path) -> None:
    """Replace a file by a link to the same content outside the bundle."""
    (bundle / "reference.npz").rename(bundle.parent / "reference.npz")
    (bundle / "reference.npz").symlink_to(bundle.parent / "reference.npz")


def external_data(bundle: Path) -> None:
    """Move a segment's weights to another file, as onnx does; the hash in the manifest is right."""
    file = bundle / "fp32/segment_1.onnx"
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    manifest_edit(lambda m: m["files"].update({"fp32/segment_1.onnx": sha256_of(file)}))(bundle)


def link_inside(bundle: Path) -> None:
    (bundle / "int8").rename(bundle / "elsewhere")
    (bundle / "int8").symlink_to("elsewhere")


def manifest_pipe(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    os.mkfifo(bundle / MANIFEST)


def manifest_link(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    (bundle / MANIFEST).symlink_to("/dev/zero")


def segment_pipe(bundle: Path) -> None:
    (bundle / "fp32/segment_1.onnx").unlink()
    os.mkfifo(bundle / "fp32/segment_1.onnx")


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


HUGE = 10**400
LONG_NAME = "n" * 300
FIRST = ("precisions", "fp32", "segments", 0)


def field(*path: Any) -> Callable[[Path], None]:
    """Return a function that sets a field of the manifest: the path's last item is the value."""

    def edit(manifest: Any) -> None:
        *keys, last, value = path
        for key in keys:
            manifest = manifest[key]
        manifest[last] = value

    return manifest_edit(edit)


DAMAGES = [
    pytest.param(external_data, "segment_1.onnx has its weights in another file (ONNX external", id="external data"),
    pytest.param(link_inside, "is a link or in a linked folder", id="link inside"),
    pytest.param(manifest_pipe, "manifest.json cannot be read (is not a regular file)", id="manifest is a pipe"),
    pytest.param(manifest_link, "manifest.json cannot be read (", id="manifest is a link to a device"),
    pytest.param(segment_pipe, "segment_1.onnx cannot be read (is not a regular file)", id="segment is a pipe"),
    pytest.param(lambda b: os.truncate(b / MANIFEST, 17 << 20), "is larger than 16 MiB", id="manifest is huge"),
    pytest.param(field("input", "mean", 0, HUGE), "manifest.input.mean[0] is 1000000", id="float beyond limits"),
    pytest.param(field("exits", 0, "macs", HUGE), "manifest.exits[0].macs is 1000000", id="integer beyond limits"),
    pytest.param(field("exits", 0, "macs", 0), "exit 0 has 0 MACs", id="no MACs"),
    pytest.param(field("training", "x", nested(40)), "is nested more than 32 levels deep", id="nested"),
    pytest.param(field("training", "x", nested(900)), "manifest", id="nested deeper"),
    pytest.param(field("name", "\ud800"), "manifest.name has the text '\\ud800', which is not", id="surrogate"),
    pytest.param(field("training", "\ud800", 1), "manifest.training has the text '\\ud800'", id="surrogate as key"),
    pytest.param(field("files", LONG_NAME, "0"), f"{LONG_NAME} cannot be read (File name too long)", id="long name"),
    pytest.param(field("files", "fp32/./a", "0"), "its manifest does not list fp32/./a", id="name of another form"),
    pytest.param(field("precisions", "fp32", "thresholds", "limit", -1), "with the limit -1", id="negative limit"),
    pytest.param(field("precisions", "odd", {}), "missing field manifest.precisions.odd", id="empty precision"),
    pytest.param(field(*FIRST, "int8_macs_share", float("nan")), "has an int8 share of nan", id="share is NaN"),
    pytest.param(field(*FIRST, "outputs", 0, "shape", [None, 10**9, 4]), "cut_0 of shape", id="huge tensor"),
    pytest.param(shutil.rmtree, "there is no bundle at", id="missing"),
    pytest.param(
        lambda b: shutil.rmtree(b) or b.write_text("x"),
        "is a file, not a bundle; give a folder made by",
        id="bundle is a file",
    ),
    pytest.param(lambda b: (b / MANIFEST).unlink(), "is not a bundle: it has no manifest.json", id="no manifest"),
    pytest.param(lambda b: truncate(b / MANIFEST), "manifest.json is not valid JSON", id="manifest truncated"),
    pytest.param(lambda b: (b / MANIFEST).write_bytes(b""), "manifest.json is not valid JSON", id="manifest empty"),
    pytest.param(lambda b: (b / MANIFEST).write_bytes(bytes(range(256))), "is not valid JSON", id="manifest binary"),
    pytest.param(lambda b: (b / MANIFEST).unlink() or (b / MANIFEST).mkdir(), MANIFEST, id="manifest is a folder"),
    pytest.param(
        manifest_edit(lambda m: m.update(version=MANIFEST_VERSION + 1)),
        f"manifest version {MANIFEST_VERSION + 1}, this",
        id="newer version",
    ),
    pytest.param(
        manifest_edit(lambda m: m.update(version=MANIFEST_VERSION - 1)),
        f"manifest version {MANIFEST_VERSION - 1}, this",
        id="older version",
    ),
    pytest.param(
        manifest_edit(lambda m: m["precisions"]["int8"].update(temperatures=[1.0, 0.0, 1.0])),
        "int8 has temperatures",
        id="temperature of 0",
    ),
    pytest.param(manifest_edit(lambda m: m.update(samples="../samples.npz")), "../samples.npz", id="samples outside"),
    pytest.param(
        lambda b: flip_bit(b / "samples.npz"), "samples.npz has another sha256 than its manifest", id="samples changed"
    ),
    pytest.param(manifest_edit(lambda m: m.update(x=1)), "unknown field manifest.x", id="unknown field"),
    pytest.param(manifest_edit(lambda m: m.pop("labels")), "missing field manifest.labels", id="missing field"),
    pytest.param(
        manifest_edit(lambda m: m.update(labels="0")), "manifest.labels is '0', expected a list", id="wrong type"
    ),
    pytest.param(
        manifest_edit(lambda m: m["files"].update({"../../etc/passwd": "0" * 64})),
        "../../etc/passwd",
        id="path outside",
    ),
    pytest.param(
        manifest_edit(lambda m: m["files"].update({"/etc/passwd": "0" * 64})), "/etc/passwd", id="absolute path"
    ),
    pytest.param(
        manifest_edit(lambda m: m.update(reference="../reference.npz")), "../reference.npz", id="reference outside"
    ),
    pytest.param(link_outside, "reference.npz is a link or in a linked folder", id="link outside"),
    pytest.param(manifest_edit(lambda m: m["files"].pop("reference.npz")), "reference.npz", id="file not listed"),
    pytest.param(manifest_edit(lambda m: m["files"].update({"a\0b": "0"})), "a", id="name with a zero byte"),
    pytest.param(lambda b: (b / "fp32/segment_1.onnx").unlink(), "lacks fp32/segment_1.onnx", id="file missing"),
    pytest.param(
        lambda b: truncate(b / "int8/segment_0.onnx"),
        "segment_0.onnx has another sha256 than its manifest",
        id="file truncated",
    ),
    pytest.param(
        lambda b: flip_bit(b / "fp32/whole.onnx"),
        "fp32/whole.onnx has another sha256 than its manifest",
        id="bit flipped",
    ),
    pytest.param(
        lambda b: (b / "fp32/scores.npz").write_bytes(b""),
        "fp32/scores.npz has another sha256 than its manifest",
        id="file emptied",
    ),
    pytest.param(
        lambda b: shutil.copy(b / "fp32/segment_0.onnx", b / "fp32/segment_1.onnx"),
        "segment_1.onnx",
        id="segments swapped",
    ),
    pytest.param(lambda b: shutil.rmtree(b / "int8"), "lacks int8/", id="precision missing"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_bundle_is_refused_with_its_fault(
    damage: Callable[[Path], object], message: str, bundle: Path, tmp_path: Path
) -> None:
    damage(bundle)
    before = contents(tmp_path)
    printed = only_error_line(call(edge, "info", bundle))
    assert message in printed
    assert str(bundle) in printed
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
    flip_bit(bundle / "fp32/segment_0.onnx")
    before = contents(tmp_path)
    paths = {"bundle": bundle, "video": video, "lines": tmp_path / "lines"}
    assert "segment_0.onnx has another sha256 than its manifest" in only_error_line(
        call(main, *(word.format(**paths) for word in words))
    )
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("path", "value"),
    [(("labels",), ["0", "1"]), (("input", "std"), [0.0]), (("input", "mean"), []), (("input", "colour"), "rgb")],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_a_manifest_that_contradicts_its_network_is_refused(
    path: tuple[str, ...], value: object, bundle: Path, video: Path
) -> None:
    field(*path, value)(bundle)
    only_error_line(call(edge, "run", bundle, "--source", video, "--json"))


def test_brackets_in_a_name_are_printed_unchanged(bundle: Path) -> None:
    manifest_edit(lambda manifest: manifest.update(name="[/b] [red]digits"))(bundle)
    result = call(edge, "info", bundle)
    assert result.code == 0
    assert "[/b] [red]digits" in result.stdout


def test_a_process_of_its_own_prints_one_line_too(tmp_path: Path) -> None:
    done = run_command("edge", "info", tmp_path / "nowhere")
    assert only_error_line(done) == f"there is no bundle at {tmp_path / 'nowhere'}; make one with `python -m compile`"
    assert done.stdout == ""
