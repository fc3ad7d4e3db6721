"""Bundles on disk: open, verify, write."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import Manifest, PrecisionSpec, manifest_from_json, manifest_to_json
from edge.bundle.sample_ids import Digests
from edge.bundle.scores import LabelledScores, combined_digest, read_scores
from edge.bundle.validation import validation_errors
from edge.errors import BundleError
from edge.storage import atomic_dir, sha256_of, write_file

MANIFEST = "manifest.json"


class Reference(NamedTuple):
    """Reference samples of a bundle, with the fp32 logits of the trained network."""

    frames: NDArray[np.uint8] | NDArray[np.float32]
    """Frames of a source: images (samples, height, width[, 3]) or arrays (samples, channels, height, width)."""
    labels: NDArray[np.int64]
    """True labels, shape (samples,)."""
    logits: NDArray[np.float32]
    """Shape (exits, samples, classes)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk, with its manifest."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: Path) -> "Bundle":
        """Open a bundle: validate its manifest and check every file against its hash.

        Raises:
            BundleError: the bundle is missing, damaged, or of another version.
        """
        manifest_path = path / MANIFEST
        if not path.is_dir():
            raise BundleError(f"there is no bundle at {path}; make one with `python -m compile`")
        if not manifest_path.exists():
            raise BundleError(f"{path} is no bundle: it has no {MANIFEST}; make one with `python -m compile`")
        manifest = manifest_from_json(manifest_path.read_text(errors="replace"), manifest_path)
        for error in validation_errors(manifest):
            raise BundleError(f"{manifest_path}: {error}; compile the bundle again")
        bundle = Bundle(path, manifest)
        bundle._check_files()
        return bundle

    def precision(self, name: str) -> PrecisionSpec:
        """Return the specification of one precision.

        Raises:
            BundleError: the bundle does not have it.
        """
        if name not in self.manifest.precisions:
            raise BundleError(f"{self.path} has no precision {name!r}; it has {', '.join(self.manifest.precisions)}")
        return self.manifest.precisions[name]

    def reference(self) -> Reference:
        """Return the reference samples."""
        return read_reference(self.path / self.manifest.reference)

    def scores(self, precision: str) -> LabelledScores:
        """Return the recorded scores of one precision on the threshold-fitting split."""
        return read_scores(self.path / self.precision(precision).scores)

    def segments_digest(self, precision: str) -> str:
        """Return the digest of one precision's segments, which identifies them in recorded scores."""
        return combined_digest(self.manifest.files[segment.file] for segment in self.precision(precision).segments)

    def chain(self, precision: str) -> ChainSpec:
        """Return the chain of one precision."""
        spec, manifest = self.precision(precision), self.manifest
        return ChainSpec(manifest.input, manifest.labels, spec.segments, spec.temperatures)

    def whole_network(self, precision: str) -> ChainSpec:
        """Return the network without early exits, as a chain with a single segment."""
        spec, manifest = self.precision(precision), self.manifest
        return ChainSpec(manifest.input, manifest.labels, (spec.whole,), spec.temperatures[-1:])

    def used_samples(self) -> dict[str, Digests]:
        """Return the sample digests of the splits that thresholds must not be fitted to."""
        with np.load(self.path / self.manifest.samples) as file:
            return {name: file[name] for name in file.files}

    def with_precisions(self, refitted: Mapping[str, PrecisionSpec]) -> "Bundle":
        """Replace precisions in the manifest on disk, and return the updated bundle."""
        manifest = dataclasses.replace(self.manifest, precisions={**self.manifest.precisions, **refitted})
        write_file(self.path / MANIFEST, manifest_to_json(manifest))
        return Bundle(self.path, manifest)

    def _check_files(self) -> None:
        manifest = self.manifest
        named = {manifest.reference, manifest.samples, *(spec.scores for spec in manifest.precisions.values())}
        named |= {s.file for spec in manifest.precisions.values() for s in (*spec.segments, spec.whole)}
        for name in sorted(named | set(manifest.files)):
            file = self.path / name
            if name not in manifest.files or not _is_inside(file, self.path):
                raise BundleError(f"{self.path}: {name} is not listed in its manifest; compile it again")
            if not file.is_file():
                raise BundleError(f"{self.path} lacks {name}; copy the whole bundle again")
            if sha256_of(file) != manifest.files[name]:
                raise BundleError(
                    f"{file} is not the file its manifest names (other sha256); copy the whole bundle again"
                )


def _is_bundle(path: Path) -> bool:
    """Check for a bundle's manifest; other tools write a `manifest.json` too."""
    try:
        manifest_from_json((path / MANIFEST).read_text(), path)
    except (OSError, ValueError, BundleError):
        return False
    return True


def _is_inside(file: Path, folder: Path) -> bool:
    try:
        return file.resolve().is_relative_to(folder.resolve())
    except (ValueError, OSError):  # not a valid file name
        return False


@contextmanager
def bundle_writer(path: Path) -> Iterator[Path]:
    """Yield a folder to write a bundle to; it replaces `path` when the block ends without an error.

    Raises:
        BundleError: `path` holds something other than a bundle, which is not overwritten.
    """
    if path.exists() and not _is_bundle(path) and (not path.is_dir() or any(path.iterdir())):
        raise BundleError(f"{path} exists and is no bundle; choose another output or move it away")
    with atomic_dir(path) as folder:
        yield folder


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file in a bundle's folder except the manifest."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in files}


def write_samples(path: Path, samples: Mapping[str, Digests]) -> None:
    """Write the sample digests of each split."""
    with path.open("wb") as file:
        np.savez_compressed(file, **samples)  # type: ignore[arg-type]  # its stub takes them for a keyword option


def write_reference(path: Path, reference: Reference) -> None:
    """Write reference samples."""
    with path.open("wb") as file:
        np.savez_compressed(file, **reference._asdict())


def read_reference(path: Path) -> Reference:
    """Read reference samples.

    Raises:
        BundleError: the file is missing, damaged or holds something else.
    """
    try:
        with np.load(path) as file:
            return Reference(file["frames"], file["labels"], file["logits"])
    except Exception as error:  # a damaged archive can raise anything
        raise BundleError(
            f"{path} holds no reference samples ({error}); write them with `python -m compile --references`"
        ) from error
