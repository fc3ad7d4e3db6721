"""Pulling from a registry in the hands of an attacker: a bundle appears as its publisher signed it, or not at all."""

import json
import shutil
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest
from requests import Request

from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.signing import (
    PUBLIC_KEY,
    SIGNATURE,
    VerifyingKey,
    read_verifying_key,
)
from edge.cli.main import main as edge
from edge.errors import BundleError, EdgeError, RegistryError, SignatureError
from edge.registry import client
from edge.registry.address import parse_registry_address
from edge.registry.artifact import MAX_ARTIFACT_BYTES, TITLE, Blob, decode_artifact, encode_artifact
from edge.registry.transfer import bundle_digest, pull
from edge.storage.locks import FOLDER_LIMIT_S
from tests.support.commands import call, contents, error_line, full_disk
from tests.support.damage import flip_bit, manifest_edit
from tests.support.registry import NAME, TAG, Answer, ScriptedRegistry, artifact_path, blob_path


@pytest.fixture
def key(keys: Path) -> VerifyingKey:
    return read_verifying_key(keys / PUBLIC_KEY)


@pytest.fixture
def registry(signed: Path) -> Iterator[ScriptedRegistry]:
    registry = ScriptedRegistry()
    registry.serve(signed)
    yield registry
    registry.close()


def address(registry: ScriptedRegistry, reference: str = f":{TAG}") -> str:
    return f"oci://{registry.host}/{NAME}{reference}"


def edit_layers(registry: ScriptedRegistry, edit: Callable[[list[dict]], object]) -> None:
    artifact = json.loads(registry.answers[artifact_path()].body)
    edit(artifact["layers"])
    registry.serve_artifact(json.dumps(artifact).encode())


def replace_content(registry: ScriptedRegistry, path: Path, new: bytes) -> None:
    """Give other content for the digest of a file."""
    registry.answers[blob_path(path.read_bytes())] = Answer(body=new)


def serve_changed(registry: ScriptedRegistry, signed: Path, change: Callable[[Path], object]) -> None:
    """Serve a changed bundle, with hashes and digests that agree; the attacker lacks the key only."""
    change(signed)
    registry.serve(signed)


def serve_unsigned(registry: ScriptedRegistry, signed: Path) -> None:
    (signed / SIGNATURE).unlink()
    registry.serve(signed)


def same_size(path: Path) -> bytes:
    content = path.read_bytes()
    return content[:-1] + bytes([content[-1] ^ 1])


def add_redirect(registry: ScriptedRegistry, signed: Path, to: str) -> None:
    registry.answers[blob_path((signed / "samples.npz").read_bytes())] = Answer(307, headers={"Location": to})


Attack = Callable[[ScriptedRegistry, Path], object]
ATTACKS: list[tuple[str, Attack, type[EdgeError], str]] = [
    (
        "file changed",
        lambda r, b: replace_content(r, b / "fp32/whole.onnx", same_size(b / "fp32/whole.onnx")),
        RegistryError,
        "gave other content than sha256:",
    ),
    (
        "file truncated",
        lambda r, b: replace_content(r, b / "samples.npz", b"short"),
        RegistryError,
        "more or less than",
    ),
    ("file endless", lambda r, b: replace_content(r, b / "samples.npz", bytes(1 << 20)), RegistryError, "more or less"),
    (
        "file missing",
        lambda r, b: r.answers.pop(blob_path((b / "samples.npz").read_bytes())),
        RegistryError,
        "lacks a file",
    ),
    ("file not listed", lambda r, b: edit_layers(r, lambda layers: layers.pop(0)), RegistryError, "does not list"),
    (
        "file cut off",
        lambda r, b: r.answers[blob_path((b / "samples.npz").read_bytes())].headers.update(
            {"Content-Length": "9999999", "Connection": "close"}
        ),
        RegistryError,
        "more or less|cannot be used",
    ),
    (
        "manifest of another",
        lambda r, b: serve_changed(r, b, manifest_edit(lambda m: m.update(name="x"))),
        SignatureError,
        "is not signed by",
    ),
    ("not signed", serve_unsigned, SignatureError, "is not signed: it has no manifest.sig"),
    (
        "signature damaged",
        lambda r, b: serve_changed(r, b, lambda b: flip_bit(b / SIGNATURE)),
        SignatureError,
        "is not signed by",
    ),
    (
        "signature huge",
        lambda r, b: serve_changed(r, b, lambda b: (b / SIGNATURE).write_bytes(bytes(65))),
        RegistryError,
        "has a file of 65 bytes, at most 64",
    ),
    (
        "signature short",
        lambda r, b: serve_changed(r, b, lambda b: (b / SIGNATURE).write_bytes(bytes(5))),
        SignatureError,
        "is not signed by",
    ),
    (
        "no manifest",
        lambda r, b: edit_layers(r, lambda layers: layers[:] and layers.clear()),
        RegistryError,
        "is not a bundle: it has no manifest.json",
    ),
    (
        "size is negative",
        lambda r, b: edit_layers(r, lambda layers: layers[0].update(size=-1)),
        RegistryError,
        "is not a bundle",
    ),
    (
        "size is huge",
        lambda r, b: edit_layers(
            r,
            lambda layers: [
                layer.update(size=5 << 30) for layer in layers if layer["annotations"][TITLE] == "samples.npz"
            ],
        ),
        RegistryError,
        "has a file of 5368709120 bytes",
    ),
    (
        "same name twice",
        lambda r, b: edit_layers(r, lambda layers: layers.append(layers[0])),
        RegistryError,
        "several files of the same name",
    ),
    (
        "digest is a path",
        lambda r, b: edit_layers(r, lambda layers: layers[0].update(digest="../../x")),
        RegistryError,
        "is not a bundle",
    ),
    ("artifact is no JSON", lambda r, b: r.serve_artifact(b"{"), RegistryError, "is not a bundle"),
    ("artifact is nested", lambda r, b: r.serve_artifact(b"[" * 100_000), RegistryError, "is not a bundle"),
    ("artifact is a list", lambda r, b: r.serve_artifact(b"[]"), RegistryError, "is not a bundle"),
    (
        "artifact is huge",
        lambda r, b: r.serve_artifact(bytes(MAX_ARTIFACT_BYTES + 1)),
        RegistryError,
        "larger than 4 MiB",
    ),
    ("artifact missing", lambda r, b: r.answers.pop(artifact_path()), RegistryError, "does not exist"),
    ("server error", lambda r, b: r.answers.update({artifact_path(): Answer(500)}), RegistryError, "answered 500"),
    ("access refused", lambda r, b: r.answers.update({artifact_path(): Answer(403)}), RegistryError, "docker login"),
    (
        "asks for a password",
        lambda r, b: r.answers.update({"/v2/": Answer(401, headers={"Www-Authenticate": 'Basic realm="x"'})}),
        RegistryError,
        "asks for a password",
    ),
    (
        "token without a realm",
        lambda r, b: r.answers.update({artifact_path(): Answer(401, headers={"Www-Authenticate": "Bearer"})}),
        RegistryError,
        "docker login",
    ),
    (
        "token from plain HTTP",
        lambda r, b: r.answers.update(
            {artifact_path(): Answer(401, headers={"Www-Authenticate": 'Bearer realm="http://192.0.2.1/t"'})}
        ),
        RegistryError,
        "plain HTTP to 192.0.2.1, which is refused",
    ),
    ("redirect to plain HTTP", lambda r, b: add_redirect(r, b, "http://192.0.2.1/x"), RegistryError, "plain HTTP to"),
    (
        "redirect to a file",
        lambda r, b: add_redirect(r, b, "file:///etc/passwd"),
        RegistryError,
        "cannot be used|refused",
    ),
    (
        "redirect to itself",
        lambda r, b: add_redirect(r, b, blob_path((b / "samples.npz").read_bytes())),
        RegistryError,
        "cannot be used",
    ),
]


@pytest.mark.parametrize(("attack", "error", "message"), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS])
def test_an_attack_by_the_registry_is_refused_and_leaves_the_earlier_bundle(
    attack: Attack,
    error: type[EdgeError],
    message: str,
    registry: ScriptedRegistry,
    signed: Path,
    key: VerifyingKey,
    digits_bundle: Bundle,
    tmp_path: Path,
) -> None:
    attack(registry, signed)
    target = Path(shutil.copytree(digits_bundle.path, tmp_path / "device" / "bundle"))
    before = contents(tmp_path / "device")
    with pytest.raises(error, match=message):
        pull(parse_registry_address(address(registry)), target, key)
    assert contents(tmp_path / "device") == before


def test_a_pulled_bundle_is_the_one_that_was_published(
    registry: ScriptedRegistry, signed: Path, keys: Path, tmp_path: Path
) -> None:
    words = ("pull", address(registry), tmp_path / "pulled", "--require-signature", keys / PUBLIC_KEY, "--json")
    printed = json.loads(call(edge, *words).stdout)
    assert contents(tmp_path / "pulled") == contents(signed)
    pinned = address(registry, "@" + printed["digest"])
    registry.answers[artifact_path().replace(TAG, printed["digest"])] = registry.answers[artifact_path()]
    again = call(edge, "pull", pinned, tmp_path / "again")
    assert again.code == 0
    assert "the signature is not checked" in again.stderr
    assert contents(tmp_path / "again") == contents(signed)


def test_a_token_is_fetched_with_the_password_of_docker_login(
    registry: ScriptedRegistry, signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.token, login = "t0ken", b64encode(b"fleet:secret").decode()
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": login}}}))
    assert call(edge, "pull", address(registry), tmp_path / "pulled").code == 0
    assert contents(tmp_path / "pulled") == contents(signed)
    sent = [headers["Authorization"] for path, headers in registry.requests if path.startswith("/token")]
    assert sent == [f"Basic {login}"]


def test_another_artifact_than_that_of_the_digest_is_refused(registry: ScriptedRegistry, tmp_path: Path) -> None:
    digest = f"sha256:{'0' * 64}"
    registry.answers[artifact_path().replace(TAG, digest)] = registry.answers[artifact_path()]
    with pytest.raises(RegistryError, match="gave other content than sha256:000"):
        pull(parse_registry_address(address(registry, f"@{digest}")), tmp_path / "pulled")


def test_the_manifest_is_decoded_after_its_signature_was_checked(
    registry: ScriptedRegistry, signed: Path, key: VerifyingKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_changed(registry, signed, manifest_edit(lambda manifest: manifest.update(name="forged")))
    monkeypatch.setattr("edge.registry.transfer.valid_manifest", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(SignatureError):
        pull(parse_registry_address(address(registry)), tmp_path / "pulled", key)
    assert len([path for path, _ in registry.requests if "/blobs/" in path]) == 2, "further files were asked for"


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside", MANIFEST, SIGNATURE])
def test_a_manifest_with_a_path_outside_of_the_bundle_writes_nothing(
    name: str, registry: ScriptedRegistry, signed: Path, tmp_path: Path
) -> None:
    content = json.loads((signed / MANIFEST).read_text())
    content["files"][name] = content["files"]["samples.npz"]
    (signed / MANIFEST).write_text(json.dumps(content))
    registry.serve(signed)
    before = contents(tmp_path)
    with pytest.raises(BundleError, match="as a file inside it"):
        pull(parse_registry_address(address(registry)), tmp_path / "device" / "bundle")
    assert {name for name in contents(tmp_path) if name not in before} <= {"device"}


def test_a_bundle_that_is_refused_at_the_end_is_refused_at_once(
    registry: ScriptedRegistry, signed: Path, tmp_path: Path
) -> None:
    """The folder that a pull writes is locked by itself: it must not wait for its own lock."""
    manifest_edit(lambda manifest: manifest["exits"][0].update(macs=0))(signed)
    registry.serve(signed)
    started = monotonic()
    with pytest.raises(BundleError, match="exit 0 has 0 MACs"):
        pull(parse_registry_address(address(registry)), tmp_path / "pulled")
    assert monotonic() - started < FOLDER_LIMIT_S / 2


def test_a_name_that_is_both_file_and_folder_is_refused(
    registry: ScriptedRegistry, signed: Path, tmp_path: Path
) -> None:
    manifest_edit(lambda m: m["files"].update({"samples.npz/x": m["files"]["samples.npz"]}))(signed)
    registry.serve(signed)
    with pytest.raises(BundleError, match=r"samples\.npz/x as a file and as a folder"):
        pull(parse_registry_address(address(registry)), tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_no_other_folder_is_overwritten(registry: ScriptedRegistry, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").touch()
    printed = error_line(call(edge, "pull", address(registry), tmp_path / "home"))
    assert "exists and is not a bundle" in printed


def test_a_full_disk_leaves_no_half_pulled_bundle(registry: ScriptedRegistry, tmp_path: Path) -> None:
    folder = tmp_path / "device"
    folder.mkdir()
    with full_disk(free=10_000):
        result = call(edge, "pull", address(registry), folder / "bundle")
    assert error_line(result)
    assert contents(folder) == {}


def test_a_registry_that_falls_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = f"oci://127.0.0.1:{listener.getsockname()[1]}/x:y"
        with pytest.raises(RegistryError, match="timed out"):
            pull(parse_registry_address(silent), tmp_path / "pulled")


def test_credentials_go_to_no_registry_over_plain_http(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A registry that is not on this machine is asked over TLS only, whatever listens there."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(100))

        thread = threading.Thread(target=listen)
        thread.start()
        resolve = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *rest, **options: resolve("127.0.0.1", *rest, **options)
        )
        with pytest.raises(RegistryError):
            pull(parse_registry_address(f"oci://registry.test:{listener.getsockname()[1]}/x:y"), tmp_path / "pulled")
        thread.join()
    assert asked[0][:1] == b"\x16", "a TLS handshake begins with this byte"


@pytest.mark.parametrize(
    "text",
    [
        "host/name:tag", "oci://host/name", "oci://host", "oci:///name:tag", "oci://host/../x:tag", "oci://host/Name:tag",
        "oci://user:password@host/name:tag", "oci://host/name:tag@sha256:" + "0" * 64, "oci://host/name@sha256:0",
        "oci://host/name:tag\n", "oci://host/name?x:tag", "oci://host/" + "a" * 300 + ":tag", "oci://hôst/name:tag", "",
    ],
)  # fmt: skip
def test_a_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(RegistryError, match="is no address in a registry"):
        parse_registry_address(text)


@pytest.mark.parametrize("start", ["oci://me:secret@", "oci://me:secret/@secret@", "me:secret@"])
@pytest.mark.parametrize("end", ["host/name:tag", "host/Name", "host/name@sha256:" + "0" * 64])
def test_a_refused_address_shows_no_password(start: str, end: str) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_registry_address(start + end)
    assert "secret" not in str(caught.value)
    assert f"…@{end}' is no address" in str(caught.value)
    assert "user and password come from `docker login HOST`" in str(caught.value)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.9.9.9:1", True),
        ("[::1]:5000", True),
        ("localhost.test", False),
        ("127.0.0.1.test", False),
        ("10.0.0.1:5000", False),
        ("example.com", False),
        ("[::2]", False),
    ],
)
def test_plain_http_is_for_registries_on_this_machine(host: str, is_loopback: bool) -> None:
    parsed = parse_registry_address(f"oci://{host}/a/b:c")
    assert (str(parsed), parsed.is_loopback) == (f"oci://{host}/a/b:c", is_loopback)


def test_a_bundle_that_changed_after_it_was_opened_has_no_digest(signed: Path) -> None:
    opened = Bundle.open(signed)
    manifest_edit(lambda manifest: manifest.update(name="changed"))(signed)
    with pytest.raises(BundleError, match=r"changed while the bundle was in use \(other manifest\); run the command"):
        bundle_digest(opened)


def test_an_artifact_has_what_was_put_into_it() -> None:
    files = {MANIFEST: Blob("0" * 64, 5), "fp32/a": Blob("1" * 64, 0)}
    assert decode_artifact(encode_artifact(files), "origin") == files
    assert encode_artifact(files) == encode_artifact(dict(reversed(files.items())))


def test_a_password_in_netrc_does_not_replace_a_token(
    registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    session = client.Repository(parse_registry_address(address(registry)))._registry.session
    session.trust_env = True  # as for other hosts, whose proxies come from the environment
    request = Request("GET", f"http://{registry.host}/v2/", headers={"Authorization": "Bearer t0ken"})
    assert session.prepare_request(request).headers["Authorization"] == "Bearer t0ken"
