"""Bundles on disk: open, verify, change, write."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edge.bundle.chain import ChainSpec
from edge.bundle.files import (
    MANIFEST,
    check_files,
    check_no_other_files,
    file_hashes,
    read_manifest,
    read_unchanged,
    read_unchanged_manifest,
)
from edge.bundle.manifest import Manifest, PrecisionSpec, manifest_from_json, manifest_to_json
from edge.bundle.npz import ArraySpec, read_npz, write_npz
from edge.bundle.reference import Reference, check_reference, read_reference, write_reference
from edge.bundle.sample_ids import Digests
from edge.bundle.scores import LabelledScores, check_scores, combined_digest, read_scores
from edge.bundle.signing import SIGNATURE, VerifyingKey, read_signature
from edge.bundle.validation import validation_errors
from edge.errors import BundleError
from edge.storage import atomic_dir, locked_dir, remove_stale, write_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "MANIFEST",
    "Bundle",
    "Reference",
    "bundle_writer",
    "check_bundle",
    "file_hashes",
    "is_bundle",
    "read_reference",
    "valid_manifest",
    "write_reference",
    "write_samples",
]

SAMPLE_DIGESTS = ArraySpec(("u8",), (1,))


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk, with its manifest.

    Files are read when they are needed and checked against the hashes in the manifest: if another process replaces the
    bundle meanwhile, reading fails instead of mixing both bundles.
    """

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | Path, signed_by: VerifyingKey | None = None) -> "Bundle":
        """Open a bundle: validate its manifest and check every file against its hash.

        Args:
            path: The folder.
            signed_by: Key that must have signed the bundle, checked before anything is decoded; the folder may then
                hold no further files. None to open unsigned bundles, too.

        Raises:
            BundleError: the bundle is missing, damaged, or of another version.
            SignatureError: the bundle is not signed by the key.
        """
        path = Path(path)
        try:
            return check_bundle(path, signed_by)
        except BundleError as error:
            try:
                with locked_dir(path):  # another process may have replaced it while it was read
                    return check_bundle(path, signed_by)
            except (OSError, ValueError):  # there is no such folder
                raise error from None

    def precision(self, name: str) -> PrecisionSpec:
        """Return the specification of one precision.

        Raises:
            BundleError: the bundle does not have it.
        """
        if not isinstance(name, str) or name not in self.manifest.precisions:
            available = ", ".join(self.manifest.precisions)
            raise BundleError(f"{self.path} has no precision {name!r}; choose one of {available}")
        return self.manifest.precisions[name]

    def reference(self, file: Path | None = None) -> Reference:
        """Return the reference samples of the bundle, or of another file.

        Raises:
            BundleError: there are none, or they belong to another network.
        """
        if file is None:
            name = self.manifest.reference
            file, reference = self.path / name, read_reference(self.path / name, self._content(name))
        else:
            reference = read_reference(file)
        check_reference(reference, self.manifest, file)
        return reference

    def scores(self, precision: str) -> LabelledScores:
        """Return the recorded scores of one precision on the threshold-fitting split.

        Raises:
            BundleError: the file has other contents, or the bundle does not have the precision.
        """
        name = self.precision(precision).scores
        recorded = read_scores(self.path / name, self._content(name))
        check_scores(recorded, len(self.manifest.exits), len(self.manifest.labels), self.path / name)
        return recorded

    def segments_digest(self, precision: str) -> str:
        """Return the digest of one precision's segments, which identifies them in recorded scores."""
        return combined_digest(self.manifest.files[segment.file] for segment in self.precision(precision).segments)

    def chain(self, precision: str) -> ChainSpec:
        """Return the chain of one precision."""
        spec, manifest = self.precision(precision), self.manifest
        return ChainSpec(manifest.input, manifest.labels, spec.segments, spec.temperatures, spec.rejection)

    def whole_network(self, precision: str) -> ChainSpec:
        """Return the network without early exits, as a chain with a single segment."""
        spec, manifest = self.precision(precision), self.manifest
        return ChainSpec(manifest.input, manifest.labels, (spec.whole,), spec.temperatures[-1:])

    def used_samples(self) -> dict[str, Digests]:
        """Return the sample digests of the splits that thresholds must not be fitted to.

        Raises:
            BundleError: the file has other contents.
        """
        name = self.manifest.samples
        members = dict.fromkeys((split for split in self.manifest.splits if split != "thresholds"), SAMPLE_DIGESTS)
        try:
            return read_npz(self.path / name, members, self._content(name))
        except ValueError as error:
            raise BundleError(f"{self.path / name} holds no sample digests ({error}); compile it again") from error

    def with_precisions(self, refitted: Mapping[str, PrecisionSpec]) -> "Bundle":
        """Replace precisions in the manifest on disk, and return the updated bundle.

        Precisions that another process changed since this bundle was opened keep that change. A signature is removed,
        since it does not cover the change.

        Raises:
            BundleError: the bundle was replaced by another meanwhile.
            OSError: the manifest cannot be written, and is unchanged.
        """
        folder = self.path.resolve()  # a link may be changed meanwhile
        with locked_dir(folder):
            current = manifest_from_json(read_manifest(folder), folder / MANIFEST)
            if current.files != self.manifest.files or current.exits != self.manifest.exits:
                raise BundleError(
                    f"{self.path} was replaced by another bundle meanwhile and is unchanged; run the command again"
                )
            manifest = dataclasses.replace(current, precisions={**current.precisions, **refitted})
            (folder / SIGNATURE).unlink(missing_ok=True)
            write_file(folder / MANIFEST, manifest_to_json(manifest))
        return Bundle(self.path, manifest)

    def sign(self, key: "Ed25519PrivateKey") -> None:
        """Write the signature of this bundle beside its manifest.

        Raises:
            BundleError: the bundle changed since it was opened, or holds files that the manifest does not list.
            OSError: the signature cannot be written; an earlier one is unchanged.
        """
        folder = self.path.resolve()
        with locked_dir(folder):
            remove_stale(folder)
            content = read_unchanged_manifest(folder, self.manifest)
            check_no_other_files(folder, self.manifest)
            write_file(folder / SIGNATURE, key.sign(content))

    @property
    def is_signed(self) -> bool:
        """True if there is a signature, by whichever key."""
        return (self.path / SIGNATURE).exists()

    def _content(self, name: str) -> bytes:
        return read_unchanged(self.path / name, self.manifest.files[name])


def valid_manifest(content: bytes, origin: object) -> Manifest:
    """Decode a manifest and check that it is consistent.

    Raises:
        BundleError: it is damaged, of another version, or inconsistent; `origin` names it in the message.
    """
    manifest = manifest_from_json(content, origin)
    for error in validation_errors(manifest):
        raise BundleError(f"{origin}: {error}; compile the bundle again")
    return manifest


def check_bundle(path: Path, signed_by: VerifyingKey | None) -> Bundle:
    """Open a bundle that no other process replaces meanwhile, such as a folder that this process is writing.

    Raises:
        BundleError: the manifest is invalid, or a file is missing, damaged or forbidden.
        SignatureError: the bundle is not signed by the key, or holds files that it does not cover.
    """
    content = read_manifest(path)
    if signed_by is not None:
        signed_by.verify(content, read_signature(path), path)
    manifest = valid_manifest(content, path / MANIFEST)
    if signed_by is not None:
        check_no_other_files(path, manifest)
    check_files(path, manifest)
    return Bundle(path, manifest)


def is_bundle(path: Path) -> bool:
    """Check for a bundle's manifest; other tools write a `manifest.json` too."""
    try:
        manifest_from_json(read_manifest(path), path)
    except BundleError:
        return False
    return True


@contextmanager
def bundle_writer(path: Path) -> Iterator[Path]:
    """Yield a folder to write a bundle to; it replaces `path` when the block ends without an error.

    Raises:
        BundleError: `path` holds something other than a bundle, which is not overwritten.
    """
    if path.exists() and not is_bundle(path) and (not path.is_dir() or any(path.iterdir())):
        raise BundleError(f"{path} exists and is not a bundle; choose another output, or move it")
    with atomic_dir(path) as folder:
        yield folder


def write_samples(path: Path, samples: Mapping[str, Digests]) -> None:
    """Write the sample digests of each split."""
    write_npz(path, samples)
