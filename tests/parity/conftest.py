"""A bundle whose engines do not match its reference."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from edge.bundle.bundle import MANIFEST, Bundle, file_hashes, write_reference
from edge.bundle.manifest import manifest_to_json


@pytest.fixture
def tampered_bundle(digits_bundle: Bundle, tmp_path: Path) -> Path:
    """Return a bundle with other reference logits than the trained network's; all hashes are right."""
    path = tmp_path / "bundle"
    shutil.copytree(digits_bundle.path, path)
    reference = digits_bundle.reference()
    write_reference(path / digits_bundle.manifest.reference, reference._replace(logits=-reference.logits))
    manifest = dataclasses.replace(digits_bundle.manifest, files=file_hashes(path))
    (path / MANIFEST).write_text(manifest_to_json(manifest))
    return path
