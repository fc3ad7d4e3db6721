"""Bundles pushed to and pulled from Debian's docker-registry on loopback."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.bundle.bundle import Bundle
from edge.cli.main import main
from tests.support.commands import Result, call
from tests.support.outputs import free_port, server

pytestmark = pytest.mark.services

CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: 127.0.0.1:{port}}}
"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Run a registry, and return an address in it."""
    port, config = free_port(), tmp_path / "registry.yml"
    config.write_text(CONFIG.format(root=tmp_path / "storage", port=port))
    with server(["docker-registry", "serve", config], port):
        yield f"oci://127.0.0.1:{port}/cameras/digits:stable"


@pytest.fixture
def signed(tmp_path: Path, digits_bundle: Bundle) -> Path:
    """Return a signed copy of a bundle, beside the folder `keys`."""
    bundle = tmp_path / "bundle"
    shutil.copytree(digits_bundle.path, bundle)
    assert call(main, "keygen", tmp_path / "keys").code == 0
    assert call(main, "sign", bundle, "--key", tmp_path / "keys/private.pem").code == 0
    return bundle


def pull(address: str, folder: Path, key: Path) -> Result:
    return call(main, "pull", address, folder, "--require-signature", key)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_pulled_bundle_equals_the_pushed_one_by_tag_and_by_digest(address: str, signed: Path, tmp_path: Path) -> None:
    pushed = call(main, "push", signed, address)
    assert pushed.code == 0, pushed.stderr
    digest = pushed.stdout.split("digest ")[1].strip()
    by_digest = f"{address.removesuffix(':stable')}@{digest}"
    for name, each in (("tag", address), ("digest", by_digest)):
        result = pull(each, tmp_path / name, tmp_path / "keys/public.pem")
        assert result.code == 0, result.stderr
        assert contents(tmp_path / name) == contents(signed)


def test_a_bundle_of_another_key_is_refused_and_nothing_is_left(address: str, signed: Path, tmp_path: Path) -> None:
    assert call(main, "push", signed, address).code == 0
    assert call(main, "keygen", tmp_path / "other").code == 0
    (tmp_path / "here").mkdir()
    result = pull(address, tmp_path / "here" / "pulled", tmp_path / "other/public.pem")
    assert result.code == 2
    assert "is not signed by" in result.stderr
    assert not list((tmp_path / "here").iterdir())


def test_a_file_changed_in_the_registry_is_refused_and_nothing_is_left(
    address: str, signed: Path, tmp_path: Path
) -> None:
    assert call(main, "push", signed, address).code == 0
    largest = max((tmp_path / "storage").rglob("data"), key=lambda file: file.stat().st_size)
    largest.write_bytes(bytes(byte ^ 1 for byte in largest.read_bytes()))
    (tmp_path / "here").mkdir()
    result = pull(address, tmp_path / "here" / "pulled", tmp_path / "keys/public.pem")
    assert result.code == 2, result.stdout
    assert result.stderr.startswith("error: ")
    assert not list((tmp_path / "here").iterdir())


def test_a_missing_tag_and_an_absent_registry_are_errors(address: str, tmp_path: Path) -> None:
    for missing in (address, f"oci://127.0.0.1:{free_port()}/cameras/digits:stable"):
        result = call(main, "pull", missing, tmp_path / "pulled")
        assert result.code == 2
        assert result.stderr.startswith("error: ")
        assert not (tmp_path / "pulled").exists()
