"""The OCI artifact of a bundle: a layer for each file, titled with its path, so that other clients can pull it too."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge.bundle.files import MANIFEST
from edge.errors import RegistryError

ARTIFACT_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.early-exit.bundle.v1+json"
FILE_TYPE = "application/vnd.early-exit.file.v1"
TITLE = "org.opencontainers.image.title"
MAX_ARTIFACT_BYTES = 4 << 20
"""Registries accept no larger ones."""
DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Blob:
    """A file's content in a registry."""

    sha256: str
    size: int
    """Bytes."""

    def descriptor(self, media_type: str) -> dict[str, Any]:
        """Return the blob as the OCI specification writes it."""
        return {"mediaType": media_type, "digest": f"sha256:{self.sha256}", "size": self.size}


def encode_artifact(files: Mapping[str, Blob]) -> bytes:
    """Return the artifact of a bundle's files, by path. Equal bundles have equal artifacts."""
    layers = [{**blob.descriptor(FILE_TYPE), "annotations": {TITLE: name}} for name, blob in sorted(files.items())]
    config = files[MANIFEST].descriptor(CONFIG_TYPE)
    artifact = {"schemaVersion": 2, "mediaType": ARTIFACT_TYPE, "config": config, "layers": layers}
    return json.dumps(artifact, separators=(",", ":")).encode()


def decode_artifact(content: bytes, origin: object) -> dict[str, Blob]:
    """Return the blobs of an artifact by title, which may be any text. Other fields are ignored.

    Raises:
        RegistryError: the content is no artifact of files.
    """
    try:
        layers = json.loads(content)["layers"]
        blobs = [(layer["annotations"][TITLE], _blob(layer)) for layer in layers]
        by_title = dict(blobs)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RegistryError(f"{origin} is not a bundle; give an address that `edge push` pushed to") from error
    if len(by_title) < len(blobs):
        raise RegistryError(f"{origin} has several files of the same name; push the bundle again")
    return by_title


def _blob(layer: dict[str, Any]) -> Blob:
    match, size = DIGEST.fullmatch(layer["digest"]), layer["size"]
    if match is None or type(size) is not int or size < 0:
        raise ValueError("not a descriptor")
    return Blob(match[1], size)
