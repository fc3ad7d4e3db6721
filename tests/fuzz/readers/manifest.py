"""Fuzzer of `edge.bundle.Bundle.open` and `edge info`: the manifest."""

import dataclasses
import io
import json
import os
import shutil
import sys
from pathlib import Path
from random import Random
from typing import Any

from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.manifest import manifest_from_json, manifest_to_json
from edge.cli.info import print_bundle
from edge.console import print_json
from edge.errors import BundleError
from edge.storage import sha256_of
from tests.fuzz.base import Input
from tests.fuzz.values import damage, mutate_tree, odd_json, places

RAW = {
    "@digits@": "1" + "0" * 400,
    "@too many digits@": "9" * 5000,
    "@exponent@": "1e400",
    "@nested@": "[" * 500 + "]" * 500,
    "@nested without end@": "[" * 100_000,
    "@twice@": '{"a": 1, "a": 2}',
    "@surrogate@": r'"\ud83d"',
    "@nan@": "NaN",
    "@float@": "1.0",
    "@minus zero@": "-0",
}
"""JSON that no Python value is written as, by the text that stands for it in a tree."""
SPECIAL = ("fifo", "folder", "loop", "missing", "endless")
"""Other things than a file in the manifest's place."""


class ManifestReader:
    """A bundle whose other files are intact stand-ins of some bytes."""

    errors = (BundleError,)
    rooms = tuple(f"edge.bundle.{name}" for name in ("bundle", "decoding", "files", "manifest", "validation"))

    def __init__(self, base: Path, scratch: Path) -> None:
        tree = json.loads((base / "bundle" / MANIFEST).read_text())
        self._bundle = scratch / "bundle"
        for name in tree["files"]:
            file = self._bundle / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(name.encode())
            tree["files"][name] = sha256_of(file)
        self._text = json.dumps(tree)
        del tree["precisions"]["int8"]
        self._short_text = json.dumps(tree)
        self._output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")

    def generate(self, random: Random) -> Input:
        if random.random() < 0.002:
            return Input(random.choice(SPECIAL), b"")
        tree = json.loads(self._text if random.random() < 0.2 else self._short_text)
        for _ in range(random.choice((1, 1, 1, 1, 2, 4))):
            if random.random() < 0.05:
                self._edit_together(random, tree)
            else:
                mutate_tree(random, tree, odd_or_raw)
            if not isinstance(tree, dict) or not tree:
                break
        if random.random() < 0.01:
            tree = random.choice((odd_json(random), [tree], list(tree)))
        text = as_text(random, tree)
        content = text.encode("utf-8-sig" if random.random() < 0.01 else "utf-8", errors="surrogatepass")
        return Input("json", damage(random, content) if random.random() < 0.06 else content)

    def _edit_together(self, random: Random, tree: dict[str, Any]) -> None:
        """Change every place that has one of the tree's strings, so that the manifest agrees with itself."""
        texts = sorted({holder[key] for holder, key in places(tree) if isinstance(holder[key], str)})
        if not texts:
            return
        old, new = random.choice(texts), odd_or_raw(random)
        for holder, key in list(places(tree)):
            if holder.get(key) == old if isinstance(holder, dict) else holder[key] == old:
                holder[key] = new

    def passes_first_step(self, given: Input) -> bool:
        try:
            json.loads(given.content)
        except (ValueError, RecursionError):
            return False
        return True

    def prepare(self) -> None:
        pass

    def read(self, given: Input) -> None:
        path = self._bundle / MANIFEST
        place(path, given)
        try:
            bundle = Bundle.open(self._bundle)
            for name, spec in bundle.manifest.precisions.items():
                bundle.chain(name), bundle.whole_network(name), bundle.segments_digest(name)
                for segment in (*spec.segments, spec.whole):
                    sum(tensor.sample_nbytes for tensor in (*segment.inputs, *segment.outputs))
            manifest_from_json(manifest_to_json(bundle.manifest), path)
            self._print(bundle)
        finally:
            remove(path)

    def _print(self, bundle: Bundle) -> None:
        """Print as `edge info` does to a pipe."""
        stdout, sys.stdout = sys.stdout, self._output
        try:
            print_bundle(bundle)
            print_json(dataclasses.asdict(bundle.manifest))
            self._output.flush()
        finally:
            sys.stdout = stdout
            self._output.detach()
            self._output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")


def odd_or_raw(random: Random) -> Any:
    return random.choice(tuple(RAW)) if random.random() < 0.2 else odd_json(random)


def as_text(random: Random, tree: Any) -> str:
    """Return JSON in one of its spellings."""
    text = json.dumps(tree, ensure_ascii=random.random() < 0.7, indent=2 if random.random() < 0.02 else None)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


def place(path: Path, given: Input) -> None:
    """Put an input, or another thing than a file, in a file's place."""
    if given.kind == "fifo":
        os.mkfifo(path)
    elif given.kind == "folder":
        path.mkdir()
    elif given.kind == "loop":
        path.symlink_to(path)
    elif given.kind == "endless":
        path.symlink_to("/dev/full")
    elif given.kind != "missing":
        path.write_bytes(given.content)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


READER = ManifestReader
