"""Pushing to and pulling from a real registry."""

import base64
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.signing import PRIVATE_KEY, PUBLIC_KEY, read_signing_key
from edge.cli.main import main as edge
from tests.support.commands import call, contents, error_line, start_command
from tests.support.damage import manifest_edit
from tests.support.outputs import free_port
from tests.support.registry import docker_registry

pytestmark = pytest.mark.services

HTPASSWD = r"fleet:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW" + "\n"
"""The password is `secret`."""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with docker_registry(tmp_path) as host:
        yield host


def test_a_bundle_travels_by_tag_and_by_digest(registry: str, signed: Path, keys: Path, tmp_path: Path) -> None:
    required = ("--require-signature", keys / PUBLIC_KEY, "--json")
    pushed = json.loads(call(edge, "push", signed, f"oci://{registry}/a/b:stable", *required).stdout)
    pulled = json.loads(call(edge, "pull", f"oci://{registry}/a/b:stable", tmp_path / "tag", *required).stdout)
    assert pulled["digest"] == pushed["digest"]
    assert call(edge, "pull", f"oci://{registry}/a/b@{pushed['digest']}", tmp_path / "digest", *required).code == 0
    assert contents(tmp_path / "tag") == contents(tmp_path / "digest") == contents(signed)


def test_a_tag_moves_to_the_bundle_that_was_pushed_last(
    registry: str, signed: Path, keys: Path, tmp_path: Path
) -> None:
    address, device = f"oci://{registry}/a/b:stable", tmp_path / "device"
    first = json.loads(call(edge, "push", signed, address, "--json").stdout)["digest"]
    assert json.loads(call(edge, "push", signed, address, "--json").stdout)["digest"] == first, (
        "equal bundles are equal"
    )
    assert call(edge, "pull", address, device).code == 0
    manifest_edit(lambda manifest: manifest.update(name="second"))(signed)
    Bundle.open(signed).sign(read_signing_key(keys / PRIVATE_KEY))
    assert json.loads(call(edge, "push", signed, address, "--json").stdout)["digest"] != first
    assert call(edge, "pull", address, device, "--require-signature", keys / PUBLIC_KEY).code == 0
    assert contents(device) == contents(signed)


def test_an_unsigned_bundle_is_pushed_with_a_warning_and_refused_where_a_signature_is_required(
    registry: str, digits_bundle: Bundle, keys: Path, tmp_path: Path
) -> None:
    pushed = call(edge, "push", digits_bundle.path, f"oci://{registry}/a:b")
    assert pushed.code == 0
    assert "is not signed: devices that require a signature refuse it" in pushed.stderr
    refused = call(edge, "pull", f"oci://{registry}/a:b", tmp_path / "x", "--require-signature", keys / PUBLIC_KEY)
    assert "is not signed: it has no manifest.sig" in error_line(refused)
    assert not (tmp_path / "x").exists()


def test_the_password_of_docker_login_is_used_and_without_it_nothing_is_pushed(
    signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    monkeypatch.setenv("HOME", str(tmp_path))
    with docker_registry(tmp_path, htpasswd=tmp_path / "htpasswd") as host:
        words = ("push", signed, f"oci://{host}/a:b")
        assert "asks for a password" in error_line(call(edge, *words))
        (tmp_path / ".docker").mkdir()
        for password, code in (("wrong", 2), ("secret", 0)):
            login = base64.b64encode(f"fleet:{password}".encode()).decode()
            (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": login}}}))
            result = call(edge, *words)
            assert result.code == code, result.stderr
            assert password not in result.stderr
            assert login not in result.stderr
        assert call(edge, "pull", f"oci://{host}/a:b", tmp_path / "pulled").code == 0


def test_a_file_changed_in_the_registry_is_refused_and_nothing_is_left(
    registry: str, signed: Path, tmp_path: Path
) -> None:
    address = f"oci://{registry}/a/b:stable"
    assert call(edge, "push", signed, address).code == 0
    largest = max((tmp_path / "store").rglob("data"), key=lambda file: file.stat().st_size)
    largest.write_bytes(bytes(byte ^ 1 for byte in largest.read_bytes()))
    (tmp_path / "device").mkdir()
    assert "gave" in error_line(call(edge, "pull", address, tmp_path / "device" / "bundle"))
    assert contents(tmp_path / "device") == {}


def test_a_missing_tag_and_an_absent_registry_are_errors(registry: str, tmp_path: Path) -> None:
    missing = error_line(call(edge, "pull", f"oci://{registry}/a/b:stable", tmp_path / "pulled"))
    assert "does not exist" in missing
    absent = error_line(call(edge, "pull", f"oci://127.0.0.1:{free_port()}/a/b:stable", tmp_path / "pulled"))
    assert "Connection refused" in absent
    assert not (tmp_path / "pulled").exists()


def test_a_killed_pull_leaves_the_earlier_bundle_and_the_next_one_cleans_up(
    registry: str, signed: Path, tmp_path: Path
) -> None:
    address, folder = f"oci://{registry}/a/b:stable", tmp_path / "device"
    call(edge, "push", signed, address)
    call(edge, "pull", address, folder / "bundle")
    for _ in range(5):
        with start_command("edge", "pull", address, folder / "bundle", stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and not list(folder.glob(".*.partial/fp32")):
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        assert contents(folder / "bundle") == contents(signed)
    assert call(edge, "pull", address, folder / "bundle").code == 0
    assert [path.name for path in folder.iterdir()] == ["bundle"]
    assert (folder / "bundle" / MANIFEST).exists()
