"""A signed bundle whose other files are stand-ins of some bytes, so that reading it takes a millisecond."""

import json
import shutil
from pathlib import Path

from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.signing import (
    PRIVATE_KEY,
    PUBLIC_KEY,
    VerifyingKey,
    generate_keys,
    read_signing_key,
    read_verifying_key,
)
from edge.storage import sha256_of


def signed_stand_in(base: Path, scratch: Path) -> tuple[Path, VerifyingKey]:
    """Return a small bundle in fp32, and the key that signed it; the keys are in `scratch/keys`."""
    tree = json.loads((base / "bundle" / MANIFEST).read_text())
    tree["precisions"] = {"fp32": tree["precisions"]["fp32"]}
    bundle = scratch / "bundle"
    tree["files"] = {name: stand_in(bundle / name) for name in tree["files"] if not name.startswith("int8/")}
    (bundle / MANIFEST).write_text(json.dumps(tree))
    generate_keys(scratch / "keys")
    Bundle.open(bundle).sign(read_signing_key(scratch / "keys" / PRIVATE_KEY))
    return bundle, read_verifying_key(scratch / "keys" / PUBLIC_KEY)


def stand_in(file: Path) -> str:
    """Write a file with its own name, and return its sha256."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(file.name)
    return sha256_of(file)


def empty(folder: Path) -> None:
    """Remove everything in a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
