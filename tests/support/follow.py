"""Bundles for a followed tag, and a source that loses no frame."""

import dataclasses
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from time import sleep

import numpy as np
from numpy.typing import NDArray

from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.files import file_hashes
from edge.bundle.manifest import Manifest, Rejection, manifest_to_json
from edge.bundle.reference import write_reference
from edge.bundle.signing import PRIVATE_KEY, read_signing_key
from edge.frames.base import Frame, frame_from_array
from edge.registry.address import parse_registry_address
from edge.registry.transfer import push

PAUSE_S = 0.001


def variant(signed: Path, keys: Path, folder: Path, change: Callable[[Path, Manifest], Manifest]) -> Path:
    """Return a changed copy of a bundle, signed again."""
    shutil.copytree(signed, folder)
    changed = change(folder, Bundle.open(folder).manifest)
    (folder / MANIFEST).write_text(manifest_to_json(dataclasses.replace(changed, files=file_hashes(folder))))
    Bundle.open(folder).sign(read_signing_key(keys / PRIVATE_KEY))
    return folder


def renamed(folder: Path, manifest: Manifest) -> Manifest:
    """Change nothing but the name."""
    return dataclasses.replace(manifest, name=folder.name)


def with_other_labels(folder: Path, manifest: Manifest) -> Manifest:
    return dataclasses.replace(manifest, labels=tuple(f"new {label}" for label in manifest.labels))


def with_other_logits(folder: Path, manifest: Manifest) -> Manifest:
    """Let the trained network have answered differently."""
    reference = Bundle(folder, manifest).reference()
    write_reference(folder / manifest.reference, reference._replace(logits=reference.logits[:, :, ::-1].copy()))
    return manifest


def with_rejection(folder: Path, manifest: Manifest) -> Manifest:
    rejection = Rejection(0.5, 0.1, 0.9, "betting", 0.9, 100, manifest.splits["thresholds"].fingerprint)
    precisions = {name: dataclasses.replace(spec, rejection=rejection) for name, spec in manifest.precisions.items()}
    return dataclasses.replace(manifest, precisions=precisions)


def with_greedy_thresholds(folder: Path, manifest: Manifest) -> Manifest:
    """Exit as early as possible, and claim the same guarantee."""
    precisions = {}
    for name, spec in manifest.precisions.items():
        values = (0.0,) * len(spec.thresholds.values)
        candidates = (dataclasses.replace(spec.thresholds.candidates[-1], values=values),)
        thresholds = dataclasses.replace(spec.thresholds, values=values, limit=0.001, candidates=candidates)
        precisions[name] = dataclasses.replace(spec, thresholds=thresholds)
    return dataclasses.replace(manifest, precisions=precisions)


def publish(bundle: Path, address: str) -> str:
    """Push a bundle, and return its digest as results show it."""
    return push(Bundle.open(bundle), parse_registry_address(address)).removeprefix("sha256:")[:12]


class EndlessSource:
    """Digits, one after another, until it is stopped. It counts the frames that it gave."""

    is_live, frames = False, None

    def __init__(self, digits: NDArray[np.uint8]) -> None:
        self.given, self.stop = 0, threading.Event()
        self._digits = digits

    def read(self, out: Frame | None = None) -> Frame | None:
        if self.stop.is_set():
            return None
        sleep(PAUSE_S)
        self.given += 1
        return frame_from_array(self._digits[(self.given - 1) % len(self._digits)].copy(), "image")

    def close(self) -> None:
        """Nothing to release."""
