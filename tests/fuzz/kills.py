"""Commands killed at random moments: the next one works, nothing is lost, nothing half-written is ever read."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from edge.bundle.bundle import Bundle
from edge.bundle.scores import read_scores
from edge.bundle.signing import (
    PRIVATE_KEY,
    PUBLIC_KEY,
    SIGNATURE,
    VerifyingKey,
    generate_keys,
    read_signing_key,
    read_verifying_key,
)
from edge.engines.cache import ENGINE, ENTRY
from edge.storage import sha256_of
from tests.fuzz.coverage import ROOT
from tests.support.commands import NO_GUARANTEE, class_folder, contents, json_lines, random_frames, write_video
from tests.support.damage import manifest_edit

TIMEOUT_S = 300
FRAMES = 600
"""Frames of the video that a killed run reads."""


class Scene:
    """A command that is killed again and again, with its output.

    Subclasses prepare a folder, name the command, and check what lies there at any time.
    """

    name: str
    share: int
    """Kills of this command among those of all scenes."""

    def __init__(self, base: Path, folder: Path) -> None:
        """Use a folder of its own; the command writes to `output` in it."""
        self.base, self.folder, self.output = base, folder, folder / "output"
        self.resources = contextlib.ExitStack()
        """Servers that the command needs, closed at the end."""
        folder.mkdir()
        self.prepare()

    def prepare(self) -> None:
        """Make the command's inputs."""

    def before(self, random: Random) -> None:
        """Bring the folder into the state in which the command has something to do."""

    def words(self) -> list[object]:
        """Return the command, a module and its arguments."""
        raise NotImplementedError

    def check(self) -> None:
        """Read everything that is there; called after each kill and after each complete command."""

    def leftovers(self) -> list[str]:
        """Return files that a complete command should have removed."""
        return [name for name in sorted(os.listdir(self.folder)) if name.endswith((".partial", ".retired"))]


class Train(Scene):
    name, share = "train", 2

    def words(self) -> list[object]:
        quick = ("--dataset", "digits", "--image-size", 16, "--batch-size", 128, "--epochs", 2, "--seed", 3)
        return ["edge.training", *quick, "--backbone", "cnn-small", "--output", self.output]

    def check(self) -> None:
        from edge.training.checkpoint import read_checkpoint, read_torch

        if (self.output / "state.pt").exists():
            read_torch(self.output / "state.pt")
        read_checkpoint(self.output / "checkpoint.pt").network()  # an earlier run left one
        json.loads((self.output / "metrics.json").read_text())

    def leftovers(self) -> list[str]:
        return [name for name in sorted(os.listdir(self.output)) if name == "state.pt" or name.startswith(".")]


class Compile(Scene):
    name, share = "compile", 2

    def words(self) -> list[object]:
        checkpoint = self.base / "checkpoint.pt"
        return ["compile", checkpoint, "--output", self.output, "--precision", "fp32", *NO_GUARANTEE]

    def check(self) -> None:
        bundle = Bundle.open(self.output)
        bundle.reference(), bundle.scores("fp32"), bundle.used_samples()


class Replace(Compile):
    name, share = "replace", 8

    def words(self) -> list[object]:
        return ["tests.fuzz.replace", self.base / "bundle", self.output]


class Build(Scene):
    name, share = "build", 8

    def before(self, random: Random) -> None:
        entries = [path for path in self._cache.glob("*") if (path / ENGINE).exists()]
        for path in random.sample(entries, k=len(entries) // 2 if random.random() < 0.5 else len(entries)):
            shutil.rmtree(path)

    @property
    def _cache(self) -> Path:
        return self.folder / "cache"

    def words(self) -> list[object]:
        return ["edge", "build", self.base / "bundle", "--backend", "onnxruntime"]

    def check(self) -> None:
        for path in self._cache.glob("[!.]*"):
            if path.is_dir():
                assert json.loads((path / ENTRY).read_text())["sha256"] == sha256_of(path / ENGINE), path

    def leftovers(self) -> list[str]:
        return [name for name in sorted(os.listdir(self._cache)) if name.endswith((".partial", ".retired"))]


class Calibrate(Scene):
    name, share = "calibrate", 7

    def prepare(self) -> None:
        shutil.copytree(self.base / "bundle", self.output)
        self._budget = 0.5

    def before(self, random: Random) -> None:
        self._budget = 0.5 + random.randrange(40) / 100

    def words(self) -> list[object]:
        return ["calibration", self.output, "--mean-macs", self._budget]

    def check(self) -> None:
        for name, spec in Bundle.open(self.output).manifest.precisions.items():
            assert 0 < spec.thresholds.limit <= 1, name

    def leftovers(self) -> list[str]:
        names = {path.name for path in self.output.iterdir()}
        return sorted(names - {path.name for path in (self.base / "bundle").iterdir()})


class Run(Scene):
    name, share = "run", 6

    def prepare(self) -> None:
        frames = random_frames(20)
        self._video = write_video(self.folder / "video.avi", [frames[index % 20] for index in range(FRAMES)])
        self._lines: list[dict[str, Any]] = []
        self.output = self.folder / "lines.jsonl"

    def words(self) -> list[object]:
        bundle = self.base / "bundle"
        return ["edge", "run", bundle, "--source", self._video, "--precision", "fp32", "--output", self.output]

    def check(self) -> None:
        """Every line is whole, and those of earlier runs are still the first."""
        lines = json_lines(self.output.read_text()) if self.output.exists() else []
        assert lines[: len(self._lines)] == self._lines, f"{len(self._lines)} earlier lines were lost"
        self._lines = lines


class Record(Scene):
    name, share = "record", 6

    def prepare(self) -> None:
        labels = Bundle.open(self.base / "bundle").manifest.labels
        self._images = class_folder(self.folder / "images", labels, each=20)
        self.output = self.folder / "scores.npz"

    def words(self) -> list[object]:
        bundle = self.base / "bundle"
        words = ("--images", self._images, "--output", self.output, "--precision", "fp32")
        return ["edge", "record", bundle, *words]

    def check(self) -> None:
        assert len(read_scores(self.output).truth) == 200


class Sign(Scene):
    name, share = "sign", 6

    def prepare(self) -> None:
        shutil.copytree(self.base / "bundle", self.output)
        self._key = new_key(self.folder)

    def before(self, random: Random) -> None:
        if random.random() < 0.5:
            (self.output / SIGNATURE).unlink(missing_ok=True)

    def words(self) -> list[object]:
        return ["edge", "sign", self.output, "--key", self.folder / "keys" / PRIVATE_KEY]

    def check(self) -> None:
        Bundle.open(self.output, self._key if (self.output / SIGNATURE).exists() else None)

    def leftovers(self) -> list[str]:
        names = {path.name for path in self.output.iterdir()}
        return sorted(names - {SIGNATURE} - {path.name for path in (self.base / "bundle").iterdir()})


class Push(Scene):
    """Two bundles by turns: at any time the tag is one of the two, whole."""

    name, share = "push", 6

    def prepare(self) -> None:
        from tests.support.registry import docker_registry

        host = self.resources.enter_context(docker_registry(self.folder))
        self._address, self._key = f"oci://{host}/digits:stable", new_key(self.folder)
        self._bundles = [self._signed(name) for name in ("first", "second")]
        self._contents = [contents(bundle) for bundle in self._bundles]
        self._current = self._bundles[0]

    def before(self, random: Random) -> None:
        self._current = random.choice(self._bundles)

    def words(self) -> list[object]:
        return ["edge", "push", self._current, self._address]

    def check(self) -> None:
        from edge.registry.address import parse_registry_address
        from edge.registry.transfer import pull

        with tempfile.TemporaryDirectory() as folder:
            pull(parse_registry_address(self._address), Path(folder) / "bundle", self._key)
            assert contents(Path(folder) / "bundle") in self._contents

    def _signed(self, name: str) -> Path:
        bundle = Path(shutil.copytree(self.base / "bundle", self.folder / name))
        manifest_edit(lambda manifest: manifest.update(name=name))(bundle)
        Bundle.open(bundle).sign(read_signing_key(self.folder / "keys" / PRIVATE_KEY))
        return bundle


class Pull(Push):
    """The same bundles from the registry: at any time the device has one of the two, whole."""

    name, share = "pull", 6

    def before(self, random: Random) -> None:
        from edge.registry.address import parse_registry_address
        from edge.registry.transfer import push

        super().before(random)
        push(Bundle.open(self._current), parse_registry_address(self._address))

    def words(self) -> list[object]:
        if not self.output.exists():
            self.before(Random(0))
        return ["edge", "pull", self._address, self.output, "--require-signature", self.folder / "keys" / PUBLIC_KEY]

    def check(self) -> None:
        Bundle.open(self.output, self._key)
        assert contents(self.output) in self._contents


def new_key(folder: Path) -> VerifyingKey:
    """Write a pair of keys to `folder/keys`, and return the public one."""
    generate_keys(folder / "keys")
    return read_verifying_key(folder / "keys" / PUBLIC_KEY)


SCENES: tuple[type[Scene], ...] = (Train, Compile, Replace, Build, Calibrate, Run, Record, Sign, Push, Pull)


def run_kills(
    base: Path, count: int, seed: int, only: str | None = None
) -> Iterator[tuple[str, tuple[int, list[str]]]]:
    """Kill commands `count` times; yield each command with its kills and their failures."""
    scenes = [scene for scene in SCENES if only in (None, scene.name)]
    total, done = sum(scene.share for scene in scenes), 0
    for kind in scenes:
        wanted = max(1, count - done if kind is scenes[-1] else round(count * kind.share / total))
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            scene = kind(base.resolve(), Path(folder) / "scene")
            with scene.resources:
                failures = Campaign(scene, seed).run(wanted)
        done += wanted
        yield kind.name, (wanted, failures)


class Campaign:
    """The kills of one command."""

    def __init__(self, scene: Scene, seed: int) -> None:
        """Run the command once to its end, to learn how long it takes and how many changes it makes."""
        self._scene, self._random = scene, Random(f"{seed}/{scene.name}")
        self._complete("the first command", counting=True)
        self._changes = Path(f"{scene.folder}.changes").read_text().splitlines()

    def run(self, count: int) -> list[str]:
        """Kill the command `count` times and return the failures."""
        failures, kills, attempts = [], 0, 0
        while kills < count:
            attempts += 1
            assert attempts < 10 * count + 20, f"{self._scene.name} ends before it can be killed"
            self._scene.before(self._random)
            at_change = self._choose_change() if self._random.random() < 0.5 else None
            delay = self._random.uniform(0, self._seconds)
            moment = f"after {delay:.3f} s" if at_change is None else f"before change {at_change}"
            if not self._kill(at_change, delay):
                continue
            kills += 1
            try:
                self._scene.check()
                self._complete(f"the command after a kill {moment}")
            except Exception as error:  # whatever reading raises is a failure
                failures.append(f"killed {moment}: {type(error).__name__}: {str(error)[:300]}")
        return failures

    def _choose_change(self) -> int | None:
        """Return the number of a change to kill before; renames are as likely as the many files written."""
        if not self._changes:
            return None
        event = self._random.choice(sorted(set(self._changes)))
        return 1 + self._random.choice([index for index, name in enumerate(self._changes) if name == event])

    def _kill(self, at_change: int | None, delay: float) -> bool:
        """Start the command and kill it; return False if it ended before."""
        process = self._start(at_change, subprocess.DEVNULL)
        try:
            if at_change is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(delay)
                process.kill()
            return process.wait(TIMEOUT_S) == -signal.SIGKILL
        finally:
            if self._random.random() < 0.5:  # else its children live on for a while, as after a real kill
                self._end_group(process)
            self._orphans = process

    def _complete(self, which: str, *, counting: bool = False) -> None:
        """Run the command to its end, and check its output."""
        started = perf_counter()
        process = self._start(0 if counting else None)
        messages = process.communicate(timeout=TIMEOUT_S)[1]
        self._seconds = perf_counter() - started
        self._end_group(process)
        assert process.returncode == 0, f"{which}: exit code {process.returncode}: {messages[-300:]}"
        if orphans := getattr(self, "_orphans", None):
            self._end_group(orphans)
        self._scene.check()
        assert not self._scene.leftovers(), f"{which} leaves {self._scene.leftovers()}"

    def _start(self, at_change: int | None, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        words: Sequence[object] = self._scene.words()
        if at_change is not None:
            words = ["tests.fuzz.kill_at", at_change, self._scene.folder, *words]
        return subprocess.Popen(
            [sys.executable, "-m", *map(str, words)],
            cwd=ROOT,
            env={**os.environ, "EDGE_CACHE": str(self._scene.folder / "cache"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    @staticmethod
    def _end_group(process: subprocess.Popen[str]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
