"""Checks of a bundle's files: complete, unchanged, regular, inside its folder and without external data."""

import errno
import hashlib
import os
import re
from pathlib import Path, PurePosixPath

from edge.bundle.external_data import NEEDLE, has_external_data
from edge.bundle.manifest import Manifest, manifest_from_json, manifest_to_json
from edge.bundle.signing import SIGNATURE
from edge.errors import BundleError, SignatureError
from edge.storage import find_retired, open_regular, read_file, sha256_of

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20
MAX_FILE_BYTES = 4 << 30
CHUNK = 1 << 20
COPY = "copy the whole bundle again"
LEFTOVER = re.compile(r"\.(manifest\.json|manifest\.sig)\.[0-9a-f]{8}\.partial")
"""Files of a writer that runs or was killed, which nothing reads and the next writer removes."""


def read_manifest(path: Path) -> bytes:
    """Return the content of a bundle's manifest.

    Raises:
        BundleError: there is no bundle, or its manifest cannot be read.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise BundleError(f"there is no bundle at {path}{_how_to_get(path)}") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); check its path and permissions") from error
    if not path.is_dir():
        raise BundleError(f"{path} is a file, not a bundle; give a folder made by `python -m compile`")
    try:
        return read_file(path / MANIFEST, MAX_MANIFEST_BYTES, follow_links=False)
    except FileNotFoundError:
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}; make one with `python -m compile`") from None
    except OSError as error:
        raise _unreadable(path / MANIFEST, error) from error


def check_files(path: Path, manifest: Manifest) -> None:
    """Check every file of a bundle.

    Raises:
        BundleError: a file is missing, changed, a link, outside the bundle, or refers to other files.
    """
    root = os.path.realpath(path)
    segments = _segment_files(manifest)
    check_names(path, manifest)
    for name in sorted(manifest.files):
        file = path / name
        if os.path.realpath(file) != os.path.join(root, name):
            raise BundleError(f"{file} is a link or in a linked folder; {COPY}, with files instead of links (cp -rL)")
        try:
            digest, may_refer = _inspect(file)
            if digest != manifest.files[name]:
                raise BundleError(f"{file} has another sha256 than its manifest; {COPY}")
            if may_refer and name in segments and has_external_data(read_file(file, MAX_FILE_BYTES)):
                raise BundleError(
                    f"{file} has its weights in another file (ONNX external data), which the manifest does not "
                    "protect; save it with its weights inside, and compile the bundle again"
                )
        except (FileNotFoundError, NotADirectoryError):
            raise BundleError(f"{path} lacks {name}; {COPY}") from None
        except OSError as error:
            raise _unreadable(file, error) from error


def check_names(path: Path, manifest: Manifest) -> None:
    """Check that a manifest lists every file that it names, and only files inside the bundle.

    Raises:
        BundleError: a file is not listed, outside the bundle, or the manifest or signature itself.
    """
    scores = {spec.scores for spec in manifest.precisions.values()}
    named = {manifest.reference, manifest.samples, *scores, *_segment_files(manifest)}
    for name in sorted(named | set(manifest.files)):
        if name not in manifest.files or not _is_inside(name) or name in (MANIFEST, SIGNATURE):
            raise BundleError(
                f"{path}: its manifest does not list {name} as a file inside it; compile the bundle again"
            )


def check_no_other_files(path: Path, manifest: Manifest) -> None:
    """Check that a folder holds no file, link or device that a signature does not cover.

    Raises:
        SignatureError: there is one.
    """
    listed = {MANIFEST, SIGNATURE, *manifest.files}
    for folder, folders, files in os.walk(path):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*files, *links]):
            relative = os.path.relpath(os.path.join(folder, name), path)
            if relative not in listed and not LEFTOVER.fullmatch(relative):
                raise SignatureError(f"{path} holds {relative}, which its manifest does not list; remove it, or {COPY}")


def read_unchanged(file: Path, sha256: str) -> bytes:
    """Return the content of a file of an open bundle.

    Raises:
        BundleError: the file has another sha256, or cannot be read.
    """
    try:
        content = read_file(file, MAX_FILE_BYTES, follow_links=False)
    except OSError as error:
        raise _unreadable(file, error) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BundleError(f"{file} changed while the bundle was in use (other sha256); run the command again")
    return content


def read_unchanged_manifest(path: Path, manifest: Manifest) -> bytes:
    """Return the content of an open bundle's manifest.

    Raises:
        BundleError: it is another manifest now, or cannot be read.
    """
    content = read_manifest(path)
    current = manifest_from_json(content, path / MANIFEST)
    if manifest_to_json(current) != manifest_to_json(manifest):  # as text, NaN equals NaN
        raise BundleError(f"{path} changed while the bundle was in use (other manifest); run the command again")
    return content


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file in a bundle's folder except the manifest and its signature."""
    own = {folder / MANIFEST, folder / SIGNATURE}
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file not in own)
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in files}


def _segment_files(manifest: Manifest) -> set[str]:
    return {s.file for spec in manifest.precisions.values() for s in (*spec.segments, spec.whole)}


def _how_to_get(path: Path) -> str:
    """Return the remedy for a missing bundle."""
    former = find_retired(path)
    if former is None:
        return "; make one with `python -m compile`"
    return f": a writer was killed while it replaced it; rename {former} to {path}, or make a new one"


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        path.as_posix() == name and name != "." and not path.is_absolute() and not {"..", "\0"} & {*path.parts, *name}
    )


def _inspect(file: Path) -> tuple[str, bool]:
    """Return a file's sha256, and True if it has the bytes that every ONNX external data entry has."""
    digest, has_needle, tail = hashlib.sha256(), False, b""
    with open_regular(file, follow_links=False) as opened:
        if os.fstat(opened.fileno()).st_size > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"is larger than {MAX_FILE_BYTES >> 30} GiB", str(file))
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
            has_needle = has_needle or NEEDLE in chunk or NEEDLE in tail + chunk[: len(NEEDLE)]
            tail = chunk[-len(NEEDLE) :]
    return digest.hexdigest(), has_needle


def _unreadable(file: Path, error: OSError) -> BundleError:
    return BundleError(f"{file} cannot be read ({error.strerror}); check its permissions, or {COPY}")
