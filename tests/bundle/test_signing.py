"""Signed bundles: whoever requires a signature never reads a byte that its key did not sign."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import edge
from calibration.__main__ import main as calibration
from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.signing import (
    PRIVATE_KEY,
    PUBLIC_KEY,
    SIGNATURE,
    generate_keys,
    read_signing_key,
    read_verifying_key,
)
from edge.cli.main import main as edge_command
from edge.errors import BundleError, SignatureError
from tests.support.commands import call, contents, only_error_line, run_command
from tests.support.damage import flip_bit, manifest_edit, truncate


def sign_with_another_key(bundle: Path) -> None:
    generate_keys(bundle.parent / "other")
    Bundle.open(bundle).sign(read_signing_key(bundle.parent / "other" / PRIVATE_KEY))


def swap_signature(bundle: Path) -> None:
    """Take the signature of another bundle, by the right key."""
    other = Path(shutil.copytree(bundle, bundle.parent / "second"))
    manifest_edit(lambda manifest: manifest.update(name="second"))(other)
    Bundle.open(other).sign(read_signing_key(bundle.parent / "keys" / PRIVATE_KEY))
    shutil.copy(other / SIGNATURE, bundle / SIGNATURE)


def link_signature(bundle: Path) -> None:
    (bundle / SIGNATURE).rename(bundle.parent / SIGNATURE)
    (bundle / SIGNATURE).symlink_to(bundle.parent / SIGNATURE)


def pipe_as_signature(bundle: Path) -> None:
    (bundle / SIGNATURE).unlink()
    os.mkfifo(bundle / SIGNATURE)


ATTACKS: list[tuple[str, Callable[[Path], object], str]] = [
    ("no signature", lambda b: (b / SIGNATURE).unlink(), "is not signed: it has no manifest.sig"),
    ("signature truncated", lambda b: truncate(b / SIGNATURE), "manifest.sig has 32 bytes, a signature has 64"),
    (
        "signature too long",
        lambda b: (b / SIGNATURE).write_bytes(bytes(65)),
        "manifest.sig has 65 bytes, a signature has 64",
    ),
    ("signature damaged", lambda b: flip_bit(b / SIGNATURE), "is not signed by"),
    ("signature is zero", lambda b: (b / SIGNATURE).write_bytes(bytes(64)), "is not signed by"),
    ("signature is a link", link_signature, "manifest.sig cannot be read"),
    ("signature is a pipe", pipe_as_signature, "manifest.sig cannot be read (is not a regular file)"),
    ("signature of another bundle", swap_signature, "is not signed by"),
    ("another key", sign_with_another_key, "is not signed by"),
    ("manifest changed", manifest_edit(lambda m: m.update(name="x")), "is not signed by"),
    ("manifest is no JSON", lambda b: (b / MANIFEST).write_text("{"), "is not signed by"),
    ("manifest truncated", lambda b: truncate(b / MANIFEST), "is not signed by"),
    ("file changed", lambda b: flip_bit(b / "fp32/whole.onnx"), "whole.onnx has another sha256 than its manifest"),
    ("file missing", lambda b: (b / "samples.npz").unlink(), "lacks samples.npz"),
    ("further file", lambda b: (b / "fp32/weights.bin").touch(), "holds fp32/weights.bin, which its manifest does not"),
    ("further link", lambda b: (b / "int8/x").symlink_to("/etc"), "holds int8/x, which its manifest does not list"),
]


@pytest.mark.parametrize(("attack", "message"), [each[1:] for each in ATTACKS], ids=[each[0] for each in ATTACKS])
def test_an_attack_on_a_signed_bundle_is_refused_with_its_reason(
    attack: Callable[[Path], object], message: str, signed: Path, keys: Path
) -> None:
    attack(signed)
    printed = only_error_line(call(edge_command, "info", signed, "--require-signature", keys / PUBLIC_KEY))
    assert message in printed
    assert str(signed) in printed


def test_a_signed_bundle_opens_with_its_key_and_without_any(signed: Path, keys: Path) -> None:
    key = read_verifying_key(keys / PUBLIC_KEY)
    assert Bundle.open(signed, key).manifest == Bundle.open(signed).manifest
    with edge.load(signed, require_signature=keys / PUBLIC_KEY) as classifier:
        assert classifier.chain.exits == 3


def test_load_refuses_an_unsigned_bundle_where_a_signature_is_required(digits_bundle: Bundle, keys: Path) -> None:
    with pytest.raises(SignatureError, match="is not signed"):
        edge.load(digits_bundle.path, require_signature=str(keys / PUBLIC_KEY))


@pytest.mark.parametrize(
    "subcommand", ["build", "run", "verify", "record", "bench", "score", "push", "sign", "calibration"]
)
def test_every_command_that_opens_a_bundle_refuses_a_forged_one(
    subcommand: str, signed: Path, keys: Path, tmp_path: Path
) -> None:
    if subcommand == "score":
        pytest.importorskip("ray")
    manifest_edit(lambda manifest: manifest.update(name="forged"))(signed)
    more = {
        "run": ("--source", "test://?frames=1"),
        "record": ("--images", signed, "--output", tmp_path / "scores.npz"),
        "score": (signed, "--output", tmp_path / "scores"),
        "push": ("oci://127.0.0.1:1/x:y",),
        "sign": ("--key", keys / PRIVATE_KEY),
    }.get(subcommand, ())
    before = contents(tmp_path)
    main = calibration if subcommand == "calibration" else edge_command
    words = [signed, *more, "--require-signature", keys / PUBLIC_KEY]
    printed = only_error_line(call(main, *([] if main is calibration else [subcommand]), *words))
    assert "is not signed by" in printed
    assert contents(tmp_path) == before


def test_the_signature_is_checked_before_the_manifest_is_decoded(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest_edit(lambda manifest: manifest.update(name="forged"))(signed)
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("the manifest was decoded"))
    with pytest.raises(SignatureError):
        Bundle.open(signed, read_verifying_key(keys / PUBLIC_KEY))


def test_openssl_verifies_a_signature_and_makes_one(signed: Path, keys: Path) -> None:
    command = ["openssl", "pkeyutl", "-rawin", "-in", signed / MANIFEST]
    public = ["-verify", "-pubin", "-inkey", keys / PUBLIC_KEY, "-sigfile", signed / SIGNATURE]
    assert b"Verified Successfully" in subprocess.run([*command, *public], capture_output=True, check=True).stdout
    (signed / SIGNATURE).unlink()
    private = ["-sign", "-inkey", keys / PRIVATE_KEY, "-out", signed / SIGNATURE]
    subprocess.run([*command, *private], check=True)
    assert Bundle.open(signed, read_verifying_key(keys / PUBLIC_KEY))


def test_keygen_and_sign_make_what_require_signature_accepts(digits_bundle: Bundle, tmp_path: Path) -> None:
    bundle, keys = shutil.copytree(digits_bundle.path, tmp_path / "bundle"), tmp_path / "new"
    made = json.loads(call(edge_command, "keygen", keys, "--json").stdout)
    assert (os.stat(keys).st_mode & 0o777, os.stat(made["private_key"]).st_mode & 0o777) == (0o700, 0o600)
    assert call(edge_command, "sign", bundle, "--key", made["private_key"]).code == 0
    assert call(edge_command, "info", bundle, "--require-signature", made["public_key"]).code == 0


def test_keys_are_never_overwritten(keys: Path) -> None:
    before = contents(keys)
    assert "exists, and keys are never overwritten" in only_error_line(call(edge_command, "keygen", keys))
    assert contents(keys) == before


def encrypted(keys: Path) -> bytes:
    protection = serialization.BestAvailableEncryption(b"secret")
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def of_another_kind(keys: Path) -> bytes:
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return generate_private_key(SECP256R1()).private_bytes(pem, form, serialization.NoEncryption())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda keys: (keys / PUBLIC_KEY).read_bytes(), "holds no private Ed25519 key"),
        (lambda keys: (keys / PRIVATE_KEY).read_bytes()[:60], "holds no private Ed25519 key"),
        (of_another_kind, "holds no private Ed25519 key"),
        (encrypted, "is protected by a passphrase"),
        (lambda keys: b"", "holds no private Ed25519 key"),
        (lambda keys: bytes(2 << 20), "cannot be read (is larger than"),
    ],
    ids=["public", "truncated", "another kind", "encrypted", "empty", "huge"],
)
def test_a_file_that_is_no_private_key_is_refused(
    content: Callable[[Path], bytes], message: str, keys: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_bytes(content(keys))
    with pytest.raises(SignatureError) as raised:
        read_signing_key(tmp_path / "key")
    assert message in str(raised.value)


@pytest.mark.parametrize("name", [PRIVATE_KEY, "missing.pem", "."])
def test_a_file_that_is_no_public_key_is_refused(name: str, keys: Path) -> None:
    with pytest.raises(SignatureError, match=r"holds no public Ed25519 key|the key .* cannot be read"):
        read_verifying_key(keys / name)


def test_refitted_thresholds_remove_the_signature(signed: Path, keys: Path) -> None:
    result = call(calibration, signed, "--mean-macs", 0.6, "--require-signature", keys / PUBLIC_KEY)
    assert result.code == 0
    assert "sign the bundle again with `edge sign`" in result.stderr
    assert not (signed / SIGNATURE).exists()
    Bundle.open(signed)


def test_a_bundle_with_further_files_is_not_signed(signed: Path, keys: Path) -> None:
    (signed / "notes.txt").touch()
    before = contents(signed)
    with pytest.raises(BundleError, match=r"holds notes\.txt, which its manifest does not list; remove it"):
        Bundle.open(signed).sign(read_signing_key(keys / PRIVATE_KEY))
    assert contents(signed) == before


def test_leftovers_of_a_killed_writer_are_removed_and_not_signed(signed: Path, keys: Path) -> None:
    (signed / ".manifest.json.0123abcd.partial").touch()
    Bundle.open(signed).sign(read_signing_key(keys / PRIVATE_KEY))
    assert Bundle.open(signed, read_verifying_key(keys / PUBLIC_KEY))


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE])
def test_a_writer_that_was_killed_does_not_make_a_signed_bundle_unreadable(name: str, signed: Path, keys: Path) -> None:
    (signed / f".{name}.0123abcd.partial").write_text("half")
    assert Bundle.open(signed, read_verifying_key(keys / PUBLIC_KEY))


@pytest.mark.parametrize("name", [".other.0123abcd.partial", "fp32/.manifest.sig.0123abcd.partial", ".manifest.sig.x"])
def test_only_leftovers_of_the_manifest_and_its_signature_may_lie_beside_them(
    name: str, signed: Path, keys: Path
) -> None:
    (signed / name).touch()
    with pytest.raises(SignatureError, match="which its manifest does not list"):
        Bundle.open(signed, read_verifying_key(keys / PUBLIC_KEY))


def test_a_bundle_that_changed_after_it_was_checked_is_not_signed(signed: Path, keys: Path) -> None:
    opened = Bundle.open(signed)
    manifest_edit(lambda manifest: manifest.update(name="changed"))(signed)
    with pytest.raises(BundleError, match=r"changed while the bundle was in use \(other manifest\)"):
        opened.sign(read_signing_key(keys / PRIVATE_KEY))


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE])
def test_a_manifest_that_lists_itself_or_its_signature_is_refused(name: str, signed: Path) -> None:
    manifest_edit(lambda manifest: manifest["files"].update({name: "0" * 64}))(signed)
    with pytest.raises(BundleError, match=f"does not list {name} as a file inside it"):
        Bundle.open(signed)


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(signed: Path) -> None:
    os.truncate(signed / "samples.npz", 5 << 30)
    with pytest.raises(BundleError, match=r"samples\.npz cannot be read \(is larger than 4 GiB\)"):
        Bundle.open(signed)


def test_without_the_library_the_command_names_the_extra(signed: Path, keys: Path) -> None:
    hide = "import sys, runpy; sys.modules['cryptography'] = None; sys.argv = ['edge', *sys.argv[1:]]; "
    script = hide + "runpy.run_module('edge', run_name='__main__')"
    words = ["info", str(signed), "--require-signature", str(keys / PUBLIC_KEY)]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert "[trust]" in done.stderr
    assert run_command("edge", "info", signed, "--require-signature", keys / PUBLIC_KEY).returncode == 0
