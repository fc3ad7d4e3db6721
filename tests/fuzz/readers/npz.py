"""Fuzzer of recorded scores, sample digests and reference samples, through calibration and `edge verify`."""

import dataclasses
import io
import shutil
import zipfile
from pathlib import Path
from random import Random

import numpy as np

from calibration.budget import fit_to_macs
from calibration.recorded_scores import scores_to_fit
from calibration.temperature import fit_temperatures
from edge.bundle.bundle import Bundle
from edge.bundle.scores import LabelledScores, write_scores
from edge.decision import Scores
from edge.engines import backend_named
from edge.errors import BundleError, SourceError, ThresholdError
from edge.parity.compare import verify
from edge.storage import sha256_of
from tests.fuzz.base import Input
from tests.fuzz.values import damage
from tests.fuzz.zips import array_file, bomb, join_header, odd_array, odd_header, odd_zip, zip_of

SAMPLES, BUDGET = 24, 0.8
KINDS = ("scores", "scores", "scores", "reference", "reference", "samples")
BOMB_SHARE = 0.0005


class NpzReader:
    """A bundle with small files of arrays."""

    errors = (BundleError, ThresholdError, SourceError)
    rooms = ("edge.bundle.npz", "edge.bundle.scores", "edge.bundle.reference", "calibration.recorded_scores")

    def __init__(self, base: Path, scratch: Path) -> None:
        shutil.copytree(base / "bundle", scratch / "bundle")
        self._bundle = Bundle.open(scratch / "bundle")
        self._backend = backend_named("onnxruntime")
        self._files = {
            "scores": scratch / "scores.npz",
            "reference": self._bundle.path / self._bundle.manifest.reference,
            "samples": self._bundle.path / self._bundle.manifest.samples,
        }
        write_scores(self._files["scores"], self._new_scores())
        self._members = {kind: members_of(path) for kind, path in self._files.items()}
        self._members["reference"] = shortened(self._members["reference"])
        self._valid = {kind: zip_of(map_arrays(members)) for kind, members in self._members.items()}
        for kind, path in self._files.items():
            path.write_bytes(self._valid[kind])

    def _new_scores(self) -> LabelledScores:
        numbers = np.random.default_rng(0)
        exits, classes = len(self._bundle.manifest.exits), len(self._bundle.manifest.labels)
        confidence = numbers.random((exits, SAMPLES), dtype=np.float32)
        label = numbers.integers(0, classes, (exits, SAMPLES), dtype=np.int32)
        logits = numbers.random((exits, SAMPLES, classes), dtype=np.float32)
        digests = numbers.integers(0, 2**64, (SAMPLES, 2), dtype=np.uint64)
        truth = numbers.integers(0, classes, SAMPLES)
        return LabelledScores(logits, Scores(confidence, label), truth, digests, self._bundle.segments_digest("fp32"))

    def generate(self, random: Random) -> Input:
        kind = random.choice(KINDS)
        if random.random() < BOMB_SHARE:
            name = random.choice(tuple(self._members[kind]))
            header = "{'descr': '|u1', 'fortran_order': False, 'shape': (209715200,)}"
            return Input(kind, bomb(f"{name}.npy", join_header((1, 0), header, b"")))
        arrays = dict(self._members[kind])
        changed: dict[str, bytes] = {}
        action = random.choice(("arrays", "arrays", "headers", "headers", "zip", "bytes"))
        for _ in range(random.choice((1, 1, 2))):
            name = random.choice(tuple(arrays))
            if action == "arrays":
                arrays[name] = odd_array(random, arrays[name])
            elif action == "headers":
                changed[f"{name}.npy"] = odd_header(random, array_file(self._members[kind][name]))
        members = map_arrays(arrays) | changed
        if action == "zip":
            return Input(kind, odd_zip(random, members))
        content = zip_of(members, random)
        return Input(kind, damage(random, content) if action == "bytes" else content)

    def passes_first_step(self, given: Input) -> bool:
        try:
            with zipfile.ZipFile(io.BytesIO(given.content)) as archive:
                return bool(archive.namelist())
        except Exception:  # a damaged archive can raise anything
            return False

    def prepare(self) -> None:
        pass

    def read(self, given: Input) -> None:
        path = self._files[given.kind]
        path.write_bytes(given.content)
        try:
            bundle = self._bundle_as_it_is()
            if given.kind == "reference":
                verify(bundle, "fp32", [self._backend])
            else:
                self._fit(bundle)
        finally:
            path.write_bytes(self._valid[given.kind])

    def _bundle_as_it_is(self) -> Bundle:
        """Return the bundle with the hashes of its present files: the fuzzer does not stop at them."""
        manifest = self._bundle.manifest
        names = (manifest.reference, manifest.samples)
        files = manifest.files | {name: sha256_of(self._bundle.path / name) for name in names}
        return Bundle(self._bundle.path, dataclasses.replace(manifest, files=files))

    def _fit(self, bundle: Bundle) -> None:
        """Refit as `python -m calibration --scores` does."""
        recorded, split = scores_to_fit(bundle, self._files["scores"], ["fp32"])
        macs = [exit_.macs for exit_ in bundle.manifest.exits]
        for samples in recorded.values():
            fit_to_macs(samples.scores, samples.truth, macs, BUDGET, split)
            fit_temperatures(samples.logits, samples.truth)


def members_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def shortened(reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the first four reference samples."""
    return {name: array[:, :4] if name == "logits" else array[:4] for name, array in reference.items()}


def map_arrays(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {f"{name}.npy": array_file(array) for name, array in arrays.items()}


READER = NpzReader
