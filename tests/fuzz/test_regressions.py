"""Inputs that fuzzers found, reduced to the essential: each ended in a foreign exception, a hang or a crash."""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fuzz.base import Input, Reader, reader_named
from tests.fuzz.readers.segments import SegmentReader
from tests.fuzz.zips import array_file, join_header, zip_of

Content = Callable[[Any], bytes]
"""Makes an input from its reader."""
HUGE = 10**400


@pytest.fixture
def reader_of(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Reader]]:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "engines"))
    with ExitStack() as opened:

        def named(name: str) -> Reader:
            reader = reader_named(name, base, tmp_path)
            if isinstance(reader, SegmentReader):
                opened.callback(reader.close)
            return reader

        yield named


def manifest(edit: Callable[[dict[str, Any]], object]) -> Content:
    def content(reader: Any) -> bytes:
        tree = json.loads(reader._short_text)
        edit(tree)
        return json.dumps(tree).encode()

    return content


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def first_segment(tree: dict[str, Any]) -> dict[str, Any]:
    segment: dict[str, Any] = tree["precisions"]["fp32"]["segments"][0]
    return segment


def arrays(kind: str, **changed: Any) -> Content:
    """Return a file of a kind with arrays replaced; bytes stand for a whole member."""

    def content(reader: Any) -> bytes:
        members = reader._members[kind] | changed
        files = {name: item if isinstance(item, bytes) else array_file(item) for name, item in members.items()}
        return zip_of({f"{name}.npy": file for name, file in files.items()})

    return content


def member(shape: str, descr: str = "<f4", body: bytes = b"") -> bytes:
    """Return an array's file with a made-up header."""
    return join_header((1, 0), f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}", body)


def encrypted(kind: str) -> Content:
    def content(reader: Any) -> bytes:
        data = bytearray(arrays(kind)(reader))
        for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.find(mark) + place] |= 1
        return bytes(data)

    return content


def exactly(content: bytes) -> Content:
    return lambda reader: content


def video(old: bytes, new: bytes) -> Content:
    def content(reader: Any) -> bytes:
        base: bytes = reader._videos["mkv"]
        assert old in base
        return base.replace(old, new, 1)

    return content


def saved(edit: Callable[[dict[Any, Any]], object], kind: str = "checkpoint") -> Content:
    def content(reader: Any) -> bytes:
        import torch

        data = {name: dict(value) if isinstance(value, dict) else value for name, value in reader._trees[kind].items()}
        edit(data)
        file = io.BytesIO()
        torch.save(data, file)
        return file.getvalue()

    return content


def tensor() -> Any:
    import torch

    return torch.tensor([1, 2])


def counter_of_tensors() -> Any:
    """Return a value that a checkpoint can hold and Python cannot print."""
    return Counter({"a": tensor(), "b": tensor()})  # type: ignore[dict-item]


def node_attribute(value: int) -> Content:
    """Return a segment whose first convolution has this number of groups."""

    def content(reader: Any) -> bytes:
        import onnx

        model = onnx.load_from_string(reader._valid["fp32_0"])
        convolution = next(node for node in model.graph.node if node.op_type == "Conv")
        for attribute in list(convolution.attribute):
            if attribute.name == "group":
                convolution.attribute.remove(attribute)
        convolution.attribute.append(onnx.helper.make_attribute("group", value))
        return bytes(model.SerializeToString())

    return content


CASES: tuple[tuple[str, str, str, Content], ...] = (
    ("manifest", "fifo", "a pipe", exactly(b"")),
    ("manifest", "endless", "a link to a device without an end", exactly(b"")),
    ("manifest", "json", "training nested", manifest(lambda tree: tree.update(training={"a": nested(450)}))),
    ("manifest", "json", "huge macs", manifest(lambda tree: tree["exits"][0].update(macs=HUGE))),
    ("manifest", "json", "huge mean", manifest(lambda tree: tree["input"].update(mean=[HUGE]))),
    ("manifest", "json", "long file name", manifest(lambda tree: first_segment(tree).update(file="a" * 300))),
    ("manifest", "json", "surrogate in a label", manifest(lambda tree: tree["labels"].__setitem__(0, "\ud800"))),
    ("npz", "samples", "header without end", arrays("samples", train=b"\x93NUMPY\1\0\x2c\1" + b"(" * 300)),
    ("npz", "samples", "huge shape", arrays("samples", train=member(f"({HUGE},)", "<u8"))),
    ("npz", "samples", "text", arrays("samples", train=np.array(["a"]))),
    ("npz", "samples", "encrypted", encrypted("samples")),
    ("npz", "samples", "no zip", exactly(b"PK\x05\x06")),
    ("npz", "scores", "void of huge shape", arrays("scores", logits=member("(1000000000000,)", "|V0"))),
    ("npz", "scores", "empty text of huge shape", arrays("scores", truth=member("(1000000000000,)", "<U0"))),
    ("npz", "scores", "a member that is no array", arrays("scores", logits=b"text")),
    ("npz", "scores", "a scalar", arrays("scores", truth=np.array(1))),
    ("npz", "scores", "digests as dates", arrays("scores", samples=np.zeros((24, 2), "M8[s]"))),
    ("npz", "reference", "a member that is no array", arrays("reference", frames=b"text")),
    ("npz", "reference", "a scalar", arrays("reference", frames=np.array(1))),
    ("npz", "reference", "labels as text", arrays("reference", labels=np.array(["a"] * 4))),
    ("npz", "reference", "complex logits", arrays("reference", logits=np.zeros((3, 4, 10), "c8"))),
    ("npz", "reference", "logits as dates", arrays("reference", logits=np.zeros((3, 4, 10), "M8[s]"))),
    ("frames", "npy", "header without end", exactly(b"\x93NUMPY\1\0\x2c\1" + b"(" * 300)),
    ("frames", "npy", "huge shape", exactly(member(f"({HUGE},)"))),
    ("frames", "npy", "more than memory", exactly(member("(1099511627776,)"))),
    ("frames", "npy", "shape of a yes", exactly(member("(True,)", body=bytes(4)))),
    ("frames", "mkv", "unknown codec", video(b"V_FFV1", b"V_XXX1")),
    ("checkpoints", "checkpoint", "a tensor as version", saved(lambda data: data.update(version=tensor()))),
    ("checkpoints", "checkpoint", "a number as name", saved(lambda data: data["settings"].update({1: 1}))),
    ("checkpoints", "checkpoint", "a number as split", saved(lambda data: data["splits"].update({1: 1}))),
    ("checkpoints", "checkpoint", "many channels", saved(lambda data: data["input"].update(channels=10**12))),
    ("checkpoints", "checkpoint", "a tensor among metrics", saved(lambda data: data["metrics"].update(a=[tensor()]))),
    ("checkpoints", "checkpoint", "bytes among metrics", saved(lambda data: data["metrics"].update(a=b"x"))),
    ("checkpoints", "checkpoint", "a counter of tensors", saved(lambda data: data.update(input=counter_of_tensors()))),
    ("checkpoints", "checkpoint", "no mean", saved(lambda data: data["input"].update(mean=[]))),
    ("checkpoints", "checkpoint", "a tiny std", saved(lambda data: data["input"].update(std=[1e-300]))),
    ("checkpoints", "state", "a tensor as version", saved(lambda data: data.update(version=tensor()), "state")),
    ("checkpoints", "state", "a tensor as split", saved(lambda data: data["splits"].update(train=tensor()), "state")),
    ("segments", "fp32_0", "a convolution of 0 groups", node_attribute(0)),
    ("segments", "fp32_0", "a convolution of -1 groups", node_attribute(-1)),
)


@pytest.mark.parametrize(
    ("name", "kind", "content"), [pytest.param(*case[:2], case[3], id=" ".join(case[:3])) for case in CASES]
)
def test_inputs_that_failed_once_are_refused(
    name: str, kind: str, content: Content, reader_of: Callable[[str], Reader]
) -> None:
    reader = reader_of(name)
    with pytest.raises(reader.errors):
        reader.read(Input(kind, content(reader)))


def test_a_video_with_metadata_that_is_no_text_is_read(reader_of: Callable[[str], Reader]) -> None:
    reader = reader_of("frames")
    reader.read(Input("mkv", video(b"DURATION", b"\x87URATION")(reader)))


def test_a_failure_is_kept_with_the_command_that_repeats_it(tmp_path: Path) -> None:
    from tests.fuzz.worker import Tally, read

    class Failing:
        errors = (OSError,)
        rooms = ()

        def passes_first_step(self, given: Input) -> bool:
            return True

        def read(self, given: Input) -> None:
            raise ValueError("foreign")

    tally = Tally()
    read(Failing(), Input("json", b"content"), tally, tmp_path / "manifest-0-17")  # type: ignore[arg-type]
    assert sum(tally.failures.values()) == 1
    assert (tmp_path / "manifest-0-17.json").read_bytes() == b"content"
    story = (tmp_path / "manifest-0-17.txt").read_text()
    assert story.startswith("python -m tests.fuzz replay manifest-0-17.json\n")
    assert "ValueError: foreign" in story
