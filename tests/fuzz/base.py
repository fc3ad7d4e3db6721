"""Valid material that fuzzers mutate, and the interface of a fuzzed reader."""

import os
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported


class Input(NamedTuple):
    """A mutated input."""

    kind: str
    """Which of a reader's inputs it is, such as `scores`; the suffix of its file where a failure is kept."""
    content: bytes


class Reader(Protocol):
    """One of the project's readers under mutation. Made from the base's folder and a folder to write in."""

    errors: tuple[type[Exception], ...]
    """The right errors for bad input."""
    rooms: tuple[str, ...]
    """Modules whose executed lines are reported; a package stands for all its modules."""

    def generate(self, random: Random) -> Input:
        """Return a mutated input."""

    def passes_first_step(self, given: Input) -> bool:
        """Check that the first decoding step accepts an input: JSON parses, a zip lists its members, and so on."""

    def prepare(self) -> None:
        """Do slow work once, before the first `read`."""

    def read(self, given: Input) -> None:
        """Read an input as the project does, and use the result."""


def make_base(folder: Path) -> Path:
    """Train and compile a small network on real digits once; return the folder with `bundle` and `checkpoint.pt`."""
    from calibration.thresholds import RiskGuarantee
    from compile.recipe import compile_bundle
    from edge.storage import atomic_dir
    from edge.training.checkpoint import write_checkpoint
    from edge.training.settings import Settings
    from edge.training.train import train

    if folder.exists():
        return folder
    with atomic_dir(folder) as partial:
        settings = Settings(dataset="digits", image_size=16, backbone="cnn-small", epochs=1, batch_size=64)
        checkpoint = train(settings, partial / "training")
        write_checkpoint(partial / "checkpoint.pt", checkpoint)
        guarantee = RiskGuarantee(limit=0.01, method="none")
        compile_bundle(checkpoint, partial / "bundle", precisions=("fp32", "int8"), guarantee=guarantee)
    return folder


def reader_named(name: str, base: Path, scratch: Path) -> Reader:
    """Return a reader; its libraries are imported now."""
    from importlib import import_module

    module: Any = import_module(f"tests.fuzz.readers.{name}")
    reader: Reader = module.READER(base, scratch)
    return reader


READERS = ("manifest", "npz", "segments", "frames", "checkpoints", "signatures", "registry")
