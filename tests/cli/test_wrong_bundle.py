"""Damaged bundles: every command refuses them in one line, with exit code 2, and changes nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibration.__main__ import main as calibration
from edge.bundle.bundle import MANIFEST
from edge.bundle.manifest import MANIFEST_VERSION
from edge.cli.main import main as edge
from tests.support.commands import call, contents, only_error_line, run_command
from tests.support.damage import flip_bit, manifest_edit, truncate


def link_outside(bundle: Path) -> None:
    """Replace a file by a link to the same content outside the bundle."""
    (bundle / "reference.npz").rename(bundle.parent / "reference.npz")
    (bundle / "reference.npz").symlink_to(bundle.parent / "reference.npz")


DAMAGES = [
    pytest.param(shutil.rmtree, "there is no bundle at", id="missing"),
    pytest.param(lambda b: shutil.rmtree(b) or b.write_text("x"), "there is no bundle at", id="bundle is a file"),
    pytest.param(lambda b: (b / MANIFEST).unlink(), "is no bundle: it has no manifest.json", id="no manifest"),
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
    pytest.param(lambda b: flip_bit(b / "samples.npz"), "samples.npz is not the file", id="samples changed"),
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
    pytest.param(link_outside, "reference.npz is not listed in its manifest", id="link outside"),
    pytest.param(manifest_edit(lambda m: m["files"].pop("reference.npz")), "reference.npz", id="file not listed"),
    pytest.param(manifest_edit(lambda m: m["files"].update({"a\0b": "0"})), "a", id="name with a zero byte"),
    pytest.param(lambda b: (b / "fp32/segment_1.onnx").unlink(), "lacks fp32/segment_1.onnx", id="file missing"),
    pytest.param(lambda b: truncate(b / "int8/segment_0.onnx"), "segment_0.onnx is not the file", id="file truncated"),
    pytest.param(lambda b: flip_bit(b / "fp32/whole.onnx"), "fp32/whole.onnx is not the file", id="bit flipped"),
    pytest.param(
        lambda b: (b / "fp32/scores.npz").write_bytes(b""), "fp32/scores.npz is not the file", id="file emptied"
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
    message = only_error_line(call(edge, "info", bundle))
    assert message in message
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
    flip_bit(bundle / "fp32/segment_0.onnx")
    before = contents(tmp_path)
    paths = {"bundle": bundle, "video": video, "lines": tmp_path / "lines"}
    assert "segment_0.onnx is not the file" in only_error_line(call(main, *(word.format(**paths) for word in words)))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [(("labels",), ["0", "1"]), (("input", "std"), [0.0]), (("input", "mean"), []), (("input", "colour"), "rgb")],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_a_manifest_that_contradicts_its_network_is_refused(
    field: tuple[str, ...], value: object, bundle: Path, video: Path
) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        *path, last = field
        for key in path:
            manifest = manifest[key]
        manifest[last] = value

    manifest_edit(edit)(bundle)
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
