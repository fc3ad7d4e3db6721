"""Bundles to and from registries.

    push: check ─▶ copy every file ─▶ the tag
    pull: the tag's artifact ─▶ manifest, signature ─▶ check ─▶ every file by the manifest's sha256 ─▶ rename

A pull does not trust the registry: from the artifact it takes only which blob is the manifest, and sizes as limits.
Paths and contents of files come from the manifest, whose signature is checked before it is decoded.
"""

import errno
import hashlib
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from edge.bundle.bundle import Bundle, bundle_writer, check_bundle, valid_manifest
from edge.bundle.files import MANIFEST, MAX_FILE_BYTES, MAX_MANIFEST_BYTES, check_names, read_unchanged_manifest
from edge.bundle.manifest import Manifest
from edge.bundle.signing import SIGNATURE, SIGNATURE_BYTES, VerifyingKey, read_signature
from edge.errors import BundleError, RegistryError, SignatureError
from edge.progress import OnProgress, ignore_progress, track
from edge.registry.address import RegistryAddress
from edge.registry.artifact import Blob, decode_artifact, encode_artifact
from edge.registry.client import Repository


class Pulled(NamedTuple):
    """A bundle from a registry."""

    bundle: Bundle
    digest: str
    """Digest of the artifact, such as `sha256:9f86…`."""


def push(bundle: Bundle, address: RegistryAddress, on_progress: OnProgress = ignore_progress) -> str:
    """Copy an open bundle to a registry, and return the digest of the artifact.

    The tag changes at the end: until then, others pull the content of before.

    Raises:
        BundleError: the bundle changed since it was opened.
        RegistryError: the registry cannot be reached, or refuses.
    """
    files = _blobs(bundle)
    artifact = encode_artifact(files)
    digest = _digest(artifact)
    if address.sha256 is not None and digest != address.reference:
        raise RegistryError(f"{bundle.path} has the digest {digest}, not that of {address}; give a tag")
    with closing(Repository(address)) as repository:
        for name, blob in track(list(files.items()), f"pushing to {address}", on_progress):
            repository.upload(blob, bundle.path / name)
        repository.put_artifact(artifact)
    return digest


def pull(
    address: RegistryAddress,
    folder: Path,
    signed_by: VerifyingKey | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Pulled:
    """Copy a bundle from a registry to a folder, which appears when it is complete and checked.

    Args:
        address: The bundle's address.
        folder: The folder to write; a bundle in it is replaced.
        signed_by: Key that must have signed the bundle; None to accept unsigned bundles, too.
        on_progress: Receives the progress.

    Raises:
        BundleError: the bundle is damaged or of another version, or `folder` holds something else.
        SignatureError: the bundle is not signed by the key.
        RegistryError: the registry cannot be reached, refuses, or gives something else.
        OSError: the folder cannot be written, and is unchanged.
    """
    with closing(Repository(address)) as repository, bundle_writer(folder) as partial:
        artifact = repository.artifact()
        files = decode_artifact(artifact, address)
        manifest = _pull_manifest(repository, files, partial, address, signed_by)
        _pull_files(repository, manifest, files, partial, on_progress)
        opened = check_bundle(partial, signed_by)
    return Pulled(Bundle(folder, opened.manifest), _digest(artifact))


def tag_digest(address: RegistryAddress) -> str:
    """Return the digest of the artifact that an address names now.

    Raises:
        RegistryError: the registry cannot be reached, or refuses.
    """
    with closing(Repository(address)) as repository:
        return _digest(repository.artifact())


def bundle_digest(bundle: Bundle) -> str:
    """Return the digest of the artifact that `push` would make of an open bundle.

    Raises:
        BundleError: the bundle changed since it was opened.
    """
    return _digest(encode_artifact(_blobs(bundle)))


def _digest(artifact: bytes) -> str:
    return f"sha256:{hashlib.sha256(artifact).hexdigest()}"


def _blobs(bundle: Bundle) -> dict[str, Blob]:
    """Return the blobs of all files of a bundle by name.

    Raises:
        BundleError: the manifest changed since the bundle was opened.
    """
    blobs = {MANIFEST: _blob_of(read_unchanged_manifest(bundle.path, bundle.manifest))}
    if bundle.is_signed:
        blobs[SIGNATURE] = _blob_of(read_signature(bundle.path))
    for name, sha256 in bundle.manifest.files.items():
        blobs[name] = Blob(sha256, (bundle.path / name).stat().st_size)
    return blobs


def _blob_of(content: bytes) -> Blob:
    return Blob(hashlib.sha256(content).hexdigest(), len(content))


def _pull_manifest(
    repository: Repository,
    files: Mapping[str, Blob],
    partial: Path,
    address: RegistryAddress,
    signed_by: VerifyingKey | None,
) -> Manifest:
    """Write the manifest and its signature, which is checked before the manifest is decoded."""
    if MANIFEST not in files:
        raise RegistryError(f"{address} is not a bundle: it has no {MANIFEST}; give an address of `edge push`")
    content = repository.content(files[MANIFEST], MAX_MANIFEST_BYTES)
    signature = repository.content(files[SIGNATURE], SIGNATURE_BYTES) if SIGNATURE in files else None
    if signed_by is not None:
        if signature is None:
            raise SignatureError(f"{address} is not signed: it has no {SIGNATURE}; sign the bundle, and push it again")
        signed_by.verify(content, signature, address)
    (partial / MANIFEST).write_bytes(content)
    if signature is not None:
        (partial / SIGNATURE).write_bytes(signature)
    return valid_manifest(content, address)


def _pull_files(
    repository: Repository, manifest: Manifest, files: Mapping[str, Blob], partial: Path, on_progress: OnProgress
) -> None:
    """Write the files that the manifest lists, inside the folder."""
    check_names(partial, manifest)
    blobs = {blob.sha256: blob for blob in files.values()}
    missing = [name for name, sha256 in manifest.files.items() if sha256 not in blobs]
    if missing:
        raise RegistryError(f"the registry does not list {missing[0]} of the bundle's manifest; push the bundle again")
    sizes = [blobs[sha256].size for sha256 in manifest.files.values()]
    if max(sizes, default=0) > MAX_FILE_BYTES:
        raise RegistryError(f"the bundle has a file of {max(sizes)} bytes, at most {MAX_FILE_BYTES} are read")
    if sum(sizes) > shutil.disk_usage(partial).free:
        raise OSError(errno.ENOSPC, f"No space left for {sum(sizes) >> 20} MiB", str(partial.parent))
    for name, sha256 in track(list(manifest.files.items()), "pulling", on_progress):
        file = partial / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            repository.download(blobs[sha256], file)
        except (FileExistsError, NotADirectoryError):
            raise BundleError(
                f"its manifest lists {name} as a file and as a folder; compile the bundle again"
            ) from None
