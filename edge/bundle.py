"""Open, check and write the portable directory that travels to the device."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.contract import contradictions
from edge.errors import BundleError
from edge.files import folder_aside, sha256_of, write_file
from edge.manifest import Manifest, PrecisionSpec, manifest_from_json, manifest_to_json
from edge.scores import Digests, LabelledScores, read_scores, segments_digest

MANIFEST = "manifest.json"


class Reference(NamedTuple):
    """Samples that travel with the bundle, and what the trained fp32 network said of them."""

    frames: NDArray[np.uint8] | NDArray[np.float32]
    """As a source gives them: images (samples, height, width[, 3]), arrays (samples, channels, height, width)."""
    labels: NDArray[np.int64]
    """True classes, shape (samples,)."""
    logits: NDArray[np.float32]
    """Shape (exits, samples, classes)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose manifest was read and whose files were checked."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: Path) -> "Bundle":
        """Read the manifest and check every file against its hash.

        Raises:
            BundleError: the bundle is missing, damaged, or of another version.
        """
        manifest_path = path / MANIFEST
        if not path.is_dir():
            raise BundleError(f"there is no bundle at {path}; make one with `python -m compile`")
        if not manifest_path.exists():
            raise BundleError(f"{path} is no bundle: it has no {MANIFEST}; make one with `python -m compile`")
        manifest = manifest_from_json(manifest_path.read_text(errors="replace"), manifest_path)
        for contradiction in contradictions(manifest):
            raise BundleError(f"{manifest_path}: {contradiction}; compile the bundle again")
        bundle = Bundle(path, manifest)
        bundle._check_files()
        return bundle

    def precision(self, name: str) -> PrecisionSpec:
        """Return one precision of the network.

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
        """Return what every exit said of the threshold-fitting split."""
        return read_scores(self.path / self.precision(precision).scores)

    def segments_digest(self, precision: str) -> str:
        """Return what tells one precision's segments from all others: recorded scores carry it."""
        return segments_digest(self.manifest.files[segment.file] for segment in self.precision(precision).segments)

    def spoken_for(self) -> dict[str, Digests]:
        """Return the samples of each split that thresholds must not be fitted to."""
        with np.load(self.path / self.manifest.samples) as file:
            return {name: file[name] for name in file.files}

    def with_precisions(self, refitted: Mapping[str, PrecisionSpec]) -> "Bundle":
        """Put refitted thresholds and temperatures into the manifest on disk and return the bundle with them."""
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
                raise BundleError(
                    f"{self.path}: {name} is not among the files its manifest vouches for; compile it again"
                )
            if not file.is_file():
                raise BundleError(f"{self.path} lacks {name}; copy the bundle again, whole")
            if sha256_of(file) != manifest.files[name]:
                raise BundleError(
                    f"{file} is not the file its manifest names (other sha256); copy the bundle again, whole"
                )


def _is_bundle(path: Path) -> bool:
    """Return whether a folder's manifest is one of ours: other things have a `manifest.json` too."""
    try:
        manifest_from_json((path / MANIFEST).read_text(), path)
    except (OSError, ValueError, BundleError):
        return False
    return True


def _is_inside(file: Path, folder: Path) -> bool:
    try:
        return file.resolve().is_relative_to(folder.resolve())
    except (ValueError, OSError):  # no name a file could have
        return False


@contextmanager
def bundle_writer(path: Path) -> Iterator[Path]:
    """Give a folder to fill with a bundle; it takes the place of `path` when the block ends well.

    Raises:
        BundleError: `path` holds something that is no bundle, which is not overwritten.
    """
    if path.exists() and not _is_bundle(path) and (not path.is_dir() or any(path.iterdir())):
        raise BundleError(f"{path} exists and is no bundle; choose another output or move it away")
    with folder_aside(path) as aside:
        yield aside


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file in a folder that is to become a bundle."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in files}


def write_samples(path: Path, samples: Mapping[str, Digests]) -> None:
    """Keep which samples belong to which split in a file."""
    with path.open("wb") as file:
        np.savez_compressed(file, **samples)  # type: ignore[arg-type]  # its stub takes them for an option


def write_reference(path: Path, reference: Reference) -> None:
    """Keep reference samples in a file."""
    with path.open("wb") as file:
        np.savez_compressed(file, **reference._asdict())


def read_reference(path: Path) -> Reference:
    """Read what `write_reference` wrote.

    Raises:
        BundleError: the file is missing or something else.
    """
    try:
        with np.load(path) as file:
            return Reference(file["frames"], file["labels"], file["logits"])
    except Exception as error:  # a damaged archive raises whatever its damage leads to
        raise BundleError(
            f"{path} holds no reference samples ({error}); write them with `python -m compile --references`"
        ) from error
