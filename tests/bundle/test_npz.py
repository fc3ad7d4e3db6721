"""Arrays in a bundle's files: hostile or damaged archives are refused before memory is taken for them."""

import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bundle import npz
from edge.bundle.bundle import Reference, read_reference, write_reference
from edge.bundle.npz import ArraySpec, read_npz
from edge.bundle.scores import LabelledScores, read_scores, write_scores
from edge.decision import Scores
from edge.errors import BundleError

SPEC = {"a": ArraySpec(("f4",), (2,)), "text": ArraySpec(("U",), (0,))}
EXPECTED = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "text": np.array("segments")}
Write = Callable[[Path], object]


def saved(**arrays: Any) -> Write:
    return lambda path: np.savez_compressed(path, **{**EXPECTED, **arrays})


def with_header(header: str, body: bytes = b"") -> Write:
    """Return a function that writes the member `a` with a header of one's own."""

    def write(path: Path) -> None:
        text = header.encode() + b"\n"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body)
            archive.writestr("text.npy", b"")

    return write


def header(dtype: str, shape: str) -> str:
    return f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in SPEC:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                for _ in range(200):
                    member.write(bytes(1 << 20))


def an_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def twice(path: Path) -> None:
    saved()(path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a.npy", b"")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        pytest.param(lambda path: path.write_bytes(b""), "not a zip file", id="empty"),
        pytest.param(lambda path: path.write_bytes(b"text" * 100), "not a zip file", id="text"),
        pytest.param(an_array, "not a zip file", id="an array"),
        pytest.param(lambda path: np.savez(path, a=EXPECTED["a"]), "it holds a, expected a, text", id="member missing"),
        pytest.param(saved(b=np.zeros(3)), "it holds a, b, text, expected a, text", id="member too many"),
        pytest.param(twice, "it holds a, a, text", id="member twice"),
        pytest.param(saved(a=np.zeros((2, 3), np.float64)), "a is float64 of shape", id="other type"),
        pytest.param(saved(a=np.zeros((2, 3), ">f4")), "a is >f4 of shape", id="other byte order"),
        pytest.param(saved(a=np.zeros(3, np.float32)), "expected float32 of 2 dimensions", id="other rank"),
        pytest.param(saved(a=np.array([[{}]], object)), "a is object of shape", id="objects"),
        pytest.param(saved(text=np.array(b"segments")), "text is |S8 of shape (), expected text", id="bytes"),
        pytest.param(with_header(header("|V0", "(2**40, 1)")), "a has a damaged header", id="shape that is no number"),
        pytest.param(with_header(header("|V0", f"({10**12}, 1)")), "a is |V0 of shape", id="void and huge"),
        pytest.param(with_header(header("<f4", f"({10**12}, 1)")), "a is truncated", id="huge"),
        pytest.param(with_header(header("<f4", f"({'9' * 400}, 0)"), b"x"), "does not have the size", id="huge and 0"),
        pytest.param(with_header(header("<f4", "(-1, -4)"), bytes(16)), "a has shape (-1, -4)", id="negative"),
        pytest.param(with_header(header("<f4", "(2, 3)"), bytes(23)), "does not have the size", id="too short"),
        pytest.param(with_header(header("<f4", "(2, 3)"), bytes(25)), "does not have the size", id="too long"),
        pytest.param(with_header("(" * 5000), "a has a damaged header", id="nested header"),
        pytest.param(with_header("[1]"), "a has a damaged header", id="header a list"),
        pytest.param(bomb, "it would take 400 MiB of memory, at most 256 MiB", id="bomb"),
    ],
)
def test_other_archives_are_refused_with_the_reason(write: Write, reason: str, tmp_path: Path) -> None:
    write(tmp_path / "file.npz")
    with pytest.raises(ValueError, match=re.escape(reason)):
        read_npz(tmp_path / "file.npz", SPEC)


def test_text_without_characters_is_refused(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            text = header("<U0", f"({10**12},)").encode() + b"\n"
            archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)

    write(tmp_path / "file.npz")
    with pytest.raises(ValueError, match="a is truncated"):
        read_npz(tmp_path / "file.npz", {"a": ArraySpec(("U",), (1,))})


def test_arrays_are_read_as_they_were_written(tmp_path: Path) -> None:
    saved(a=EXPECTED["a"].T)(tmp_path / "file.npz")
    arrays = read_npz(tmp_path / "file.npz", SPEC)
    assert np.array_equal(arrays["a"], EXPECTED["a"].T)
    assert arrays["a"].flags.writeable
    assert str(arrays["text"]) == "segments"


def test_a_file_may_hold_much_where_it_is_large_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved()(tmp_path / "file.npz")
    monkeypatch.setattr(npz, "FREE_BYTES", 0)
    assert read_npz(tmp_path / "file.npz", SPEC)["a"].shape == (2, 3)


def reference(exits: int = 2, samples: int = 4) -> Reference:
    frames = np.zeros((samples, 8, 8), np.uint8)
    return Reference(frames, np.zeros(samples, np.int64), np.zeros((exits, samples, 3), np.float32))


def scores() -> LabelledScores:
    flat = np.zeros((2, 4), np.float32)
    digests = np.zeros((4, 2), np.uint64)
    return LabelledScores(
        np.zeros((2, 4, 3), np.float32), Scores(flat, flat.astype(np.int32)), np.zeros(4, np.int64), digests, "0" * 32
    )


def test_a_pipe_is_no_scores_and_no_reference(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (read_scores, read_reference):
        with pytest.raises(BundleError, match=r"pipe holds no .* \(is not a regular file\)"):
            read(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"logits": np.zeros((2, 4), np.float32)}, "logits is float32 of shape (2, 4), expected float32 of 3"),
        ({"logits": np.zeros((0, 4, 3), np.float32)}, "and is empty"),
        ({"truth": np.zeros(3, np.int64)}, "truth has shape (3,), expected (4,)"),
        ({"truth": np.full(4, 3)}, "truth has classes 3 to 3, expected 0 to 2"),
        ({"samples": np.zeros((4, 3), np.uint64)}, "samples has shape (4, 3), expected (4, 2)"),
        ({"scores": scores().scores._replace(label=np.full((2, 4), -1, np.int32))}, "label has classes -1 to -1"),
        ({"scores": scores().scores._replace(confidence=np.zeros((3, 4), np.float32))}, "confidence has shape (3, 4)"),
    ],
)
def test_scores_that_do_not_fit_one_another_are_refused(fields: dict[str, Any], reason: str, tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.npz", scores())
    assert read_scores(tmp_path / "scores.npz").segments == "0" * 32
    write_scores(tmp_path / "scores.npz", scores()._replace(**fields))
    with pytest.raises(BundleError, match=r"scores\.npz holds no scores .*record them with `edge record`") as error:
        read_scores(tmp_path / "scores.npz")
    assert reason in str(error.value)


def test_references_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_reference(tmp_path / "reference.npz", reference())
    for read, written in zip(read_reference(tmp_path / "reference.npz"), reference(), strict=True):
        assert np.array_equal(read, written)
