"""Fuzzer of checkpoints, unfinished training states and files of weights."""

import collections
import copy
import dataclasses
import io
import json
import math
import pickle
import pickletools
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from edge.bundle.manifest import SplitSpec
from edge.errors import CheckpointError
from edge.frames.base import Frame, PixelFormat
from edge.frames.preprocess import preprocess_for
from edge.training.backbones import build_network
from edge.training.checkpoint import Checkpoint, read_checkpoint
from edge.training.pretrained import load_pretrained
from edge.training.settings import Settings
from edge.training.state import StateFile
from tests.fuzz.base import Input
from tests.fuzz.values import damage, mutate_tree, odd_json
from tests.fuzz.zips import bomb, odd_zip, zip_of

KINDS = ("checkpoint", "checkpoint", "checkpoint", "state", "weights")
BOMB_SHARE = 0.0005
MAX_VALUES = 1 << 24
"""Values of a tensor or an image beyond which the fuzzer takes no memory for it."""
CALLED: list[str] = []
"""What a pickle of ours called: nothing, as none may be executed."""


class Call:
    """Pickles as a call of a function, which must not happen."""

    def __init__(self, *call: Any) -> None:
        self._call = call

    def __reduce__(self) -> Any:
        return self._call[0], self._call[1:]


def called(text: str) -> None:
    """Note that a pickle was executed."""
    CALLED.append(text)


class CheckpointReader:
    """A small network's checkpoint, and a state and weights made from it."""

    errors = (CheckpointError,)
    rooms = ("edge.training.checkpoint", "edge.training.state", "edge.training.pretrained", "edge.bundle.decoding")

    def __init__(self, base: Path, scratch: Path) -> None:
        self._data = torch.load(base / "checkpoint.pt", weights_only=True)
        settings = self._data["settings"] | {
            "backbone": "cnn-small",
            "truncated_at": 0,
        }  # fewer weights are read faster
        channels, classes = self._data["input"]["channels"], len(self._data["classes"])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self._network = build_network("cnn-small", channels, classes, truncated_at=0)
        self._data |= {"settings": settings, "weights": dict(self._network.state_dict())}
        splits = {name: SplitSpec(**spec) for name, spec in self._data["splits"].items()}
        self._files = {kind: scratch / f"{kind}.pt" for kind in KINDS}
        self._state = StateFile(self._files["state"], Settings(**settings), splits)
        self._state.write({"epoch": 1})
        self._trees: dict[str, Any] = {
            "checkpoint": plain(self._data),
            "state": plain(torch.load(self._files["state"], weights_only=True)),
            "weights": {"state_dict": self._data["weights"]},
        }

    def generate(self, random: Random) -> Input:
        kind = random.choice(KINDS)
        if random.random() < BOMB_SHARE:
            return Input(kind, bomb("archive/data.pkl", b"\x80\x02", 100 << 20))
        if random.random() < 0.1:
            return Input(kind, zip_of(odd_pickle(random, self._members(kind))))
        tree = shallow(self._trees[kind])
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            if random.random() < 0.3:
                self._odd_tensor(random, tree)
            elif random.random() < 0.7:  # the few fields beside the many weights
                fields = {name: value for name, value in tree.items() if name not in ("weights", "state_dict")}
                if fields:
                    mutate_tree(random, fields, odd_value)
                tree = fields | {name: value for name, value in tree.items() if name in ("weights", "state_dict")}
            else:
                mutate_tree(random, tree, odd_value)
            if not tree:
                break
        if random.random() < 0.02:
            tree = random.choice((odd_value(random), [tree], list(tree)))
        content = saved(tree, legacy=random.random() < 0.02)
        action = random.random()
        if action < 0.06 and content.startswith(b"PK"):
            return Input(kind, odd_zip(random, members_of(content)))
        return Input(kind, damage(random, content, keep=4) if action < 0.12 else content)

    def _members(self, kind: str) -> dict[str, bytes]:
        return members_of(saved(self._trees[kind]))

    def _odd_tensor(self, random: Random, tree: Any) -> None:
        """Change one of the weights."""
        weights = tree.get("weights", tree.get("state_dict")) if isinstance(tree, dict) else None
        if not isinstance(weights, dict) or not weights:
            return
        name = random.choice(tuple(weights))
        if isinstance(weights[name], torch.Tensor):
            weights[name] = odd_version(random, weights[name])

    def passes_first_step(self, given: Input) -> bool:
        try:
            with zipfile.ZipFile(io.BytesIO(given.content)) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                for _ in pickletools.genops(archive.read(name)):
                    pass
        except Exception:  # a damaged archive can raise anything
            return False
        return True

    def prepare(self) -> None:
        pass

    def read(self, given: Input) -> None:
        path = self._files[given.kind]
        path.write_bytes(given.content)
        try:
            if given.kind == "checkpoint":
                use(read_checkpoint(path))
            elif given.kind == "state":
                self._state.read()
            else:
                load_pretrained(copy.deepcopy(self._network), path)
        finally:
            assert not CALLED, "a pickle was executed"


def use(checkpoint: Checkpoint) -> None:
    """Use every field as `python -m compile` does."""
    checkpoint.network()
    json.dumps({**dataclasses.asdict(checkpoint.settings), **checkpoint.metrics})
    spec = checkpoint.input
    if spec.kind == "image" and math.prod(spec.shape) <= MAX_VALUES:
        frame = Frame(np.zeros((16, 16, 3), np.uint8), PixelFormat.BGR)
        preprocess_for(spec)(frame, np.empty(spec.shape, np.float32))


def plain(value: Any) -> Any:
    """Return a value with lists for tuples, which mutations can change."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def shallow(value: Any) -> Any:
    """Return a copy that shares its tensors."""
    if isinstance(value, dict):
        return {key: shallow(item) for key, item in value.items()}
    return [shallow(item) for item in value] if isinstance(value, list) else value


def saved(tree: Any, *, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    if legacy and isinstance(tree, dict):  # this format names tensors by their addresses, which no seed repeats
        tree = {name: value for name, value in tree.items() if name != "weights"}
    torch.save(tree, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def odd_value(random: Random) -> Any:
    """Return a value that a checkpoint can hold, of any type."""
    choice = random.randrange(14)
    if choice < 4:
        return odd_json(random)
    if choice < 8:
        return odd_tensor(random)
    values = (
        b"bytes", {1, 2}, (1, 2), 1 + 2j, torch.float32, torch.Size([1, 2]), torch.device("cpu"),
        collections.OrderedDict(a=1),
        {1: 2}, {(1,): 2}, bytearray(b"x"), frozenset({1}), {"a": torch.zeros(2)}, [torch.zeros(())], range(3),
        slice(1), ...,
        collections.Counter("aab"), torch.nn.Parameter(torch.zeros(2)), 10**5000,
    )  # fmt: skip
    return random.choice(values)


def odd_tensor(random: Random) -> torch.Tensor:
    """Return a small tensor of an odd type, shape or layout."""
    values = (
        torch.tensor(3), torch.tensor([3]), torch.zeros(0), torch.zeros(2, 3), torch.tensor(float("nan")),
        torch.tensor(True),
        torch.tensor([1, 2, 3]), torch.zeros(2, dtype=torch.complex64), torch.zeros((1,) * 20),
        torch.zeros(3).to_sparse(),
        torch.zeros(1).expand(10**9), torch.empty(2, device="meta"), torch.zeros(2, dtype=torch.float8_e4m3fn),
        torch.zeros(4)[::2], torch.zeros(2, 2).mT,
    )  # fmt: skip
    return random.choice(values)


def odd_version(random: Random, tensor: torch.Tensor) -> torch.Tensor:
    """Return another tensor in a tensor's place."""
    is_odd = tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.numel() > MAX_VALUES
    if is_odd or random.random() < 0.2:
        return odd_tensor(random)
    types = (torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool, torch.complex64, torch.uint8)
    if random.random() < 0.3:
        return tensor.to(random.choice(types))
    if random.random() < 0.4:
        changed = tensor.clone().reshape(-1)
        if changed.numel() and changed.dtype.is_floating_point:
            changed[random.randrange(changed.numel())] = random.choice((float("nan"), float("inf"), -1e38, 0.0))
        return changed.reshape(tensor.shape)
    return random.choice(
        (
            tensor[None],
            tensor[:0] if tensor.ndim else tensor[None],
            tensor.reshape(-1),
            tensor.transpose(0, -1).contiguous() if tensor.ndim > 1 else tensor[None],
            tensor.expand(3, *tensor.shape),
        )
    )


def odd_pickle(random: Random, members: dict[str, bytes]) -> dict[str, bytes]:
    """Return an archive's members with a pickle of other objects, or with changed operations."""
    name = next(name for name in members if name.endswith("data.pkl"))
    made: tuple[Any, ...] = (
        Call(called, "executed"), Call(print, "x"), Call(eval, "1"), {"version": Call(called, "executed")},
        [Call(dict)] * 3,
        Random, Path("/"), {"version": 3, "weights": Call(bytearray, 10**12)}, 2 * 10**5, "text",
        {"version": 3, "a": Call(torch.zeros, 10**9)},
    )  # fmt: skip
    if random.random() < 0.5:
        return members | {name: pickle.dumps(random.choice(made), protocol=random.choice((0, 2, 4)))}
    content = members[name]
    if random.random() < 0.5:
        loops = (b"\x80\x02" + b"(" * 2 * 10**5 + b".", b"\x80\x02]" + b"2" * 10**5 + b".",
        b"\x80\x02" + b"]" * 10**5 + b"a" * 99_999 + b".",
                 b"\x80\x02J\xff\xff\xff\x7f.", b"\x80\xff.", b"\x80\x02\x8b\xff\xff\xff\x7f.", b"", b".",
                 b"\x80\x02N.")  # fmt: skip
        return members | {name: random.choice(loops)}
    return members | {name: damage(random, content, keep=2)}


READER = CheckpointReader
