"""Fuzzer of a registry's answers: a pull gives the signed bundle or nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.signing import SIGNATURE
from edge.errors import BundleError, RegistryError
from edge.registry import client
from edge.registry.address import RegistryAddress, parse_registry_address
from edge.registry.artifact import TITLE, encode_artifact
from edge.registry.transfer import pull
from tests.fuzz.base import Input
from tests.fuzz.readers.manifest import as_text, odd_or_raw
from tests.fuzz.stand_in import empty, signed_stand_in
from tests.fuzz.values import damage, mutate_tree, odd_json
from tests.support.commands import contents
from tests.support.registry import NAME, TAG, Answer, ScriptedRegistry, artifact_path, blob_of

KINDS = ("artifact", "artifact", "artifact", "manifest", "manifest", "blob", "answer", "answer", "token")
STATUSES = (200, 201, 204, 206, 301, 302, 304, 307, 308, 400, 401, 403, 404, 418, 429, 500, 503)
HEADERS = (
    ("Www-Authenticate", ("Basic", 'Basic realm="x"', "Bearer", 'Bearer realm=""', 'Bearer realm="http://192.0.2.1/"',
                          'Bearer realm="file:///etc/passwd"', 'Bearer realm="/token"', "\u00e9", "x" * 5000)),
    ("Location", ("", "/", "//", "http://192.0.2.1/", "https://", "file:///etc/passwd", "ftp://x", "http://[", "../..")),
    ("Content-Length", ("0", "1", "-1", "99999999999999999999", "1e3", "x")),
    ("Content-Encoding", ("gzip", "deflate", "br", "x", "gzip, gzip")),
    ("Transfer-Encoding", ("chunked", "gzip", "x")),
    ("Content-Type", ("", "text/html", "application/json; charset=utf-7", "x" * 5000)),
    ("Docker-Content-Digest", ("", "sha256:0", "md5:0")),
    ("Set-Cookie", ("a=b", "\x7f=;")),
)  # fmt: skip
TIMEOUT_S = 1.0


class RegistryReader:
    """A registry on loopback whose answers are mutated; the published bundle is of stand-ins."""

    errors = (BundleError, RegistryError)
    rooms = ("edge.registry.client", "edge.registry.artifact", "edge.registry.transfer")

    def __init__(self, base: Path, scratch: Path) -> None:
        self._bundle, self._key = signed_stand_in(base, scratch)
        self._registry, self._target = ScriptedRegistry(), scratch / "device"
        self._published, self._folder = contents(self._bundle), scratch
        self._address: RegistryAddress = parse_registry_address(f"oci://{self._registry.host}/{NAME}:{TAG}")
        self._manifest = (self._bundle / MANIFEST).read_text()
        client.TIMEOUT_S = TIMEOUT_S
        self._registry.serve(self._bundle)
        self._valid = dict(self._registry.answers)
        # The signature is of a key of this process: inputs name it by its title, so that they depend on the seed only.
        self._artifact = self._layers_by_title()

    def generate(self, random: Random) -> Input:
        kind = random.choice(KINDS)
        generators: dict[str, Callable[[Random], bytes]] = {
            "artifact": self._odd_artifact,
            "manifest": self._odd_manifest,
            "blob": lambda random: damage(random, b"stand-in of a file"),
            "answer": odd_answer,
            "token": lambda random: as_text(random, {"token": odd_json(random)}).encode(errors="surrogatepass"),
        }
        return Input(kind, generators[kind](random))

    def passes_first_step(self, given: Input) -> bool:
        try:
            return given.kind in ("blob", "token") or json.loads(given.content) is not None
        except (ValueError, RecursionError):
            return False

    def prepare(self) -> None:
        self._registry.answers = dict(self._valid)
        empty(self._target)
        self._pull(signed=True)

    def read(self, given: Input) -> None:
        registry = self._registry
        registry.answers = dict(self._valid)
        registry.requests.clear()
        empty(self._target)
        getattr(self, f"_serve_{given.kind}")(given.content)
        self._pull(signed=given.kind != "manifest")

    def _pull(self, *, signed: bool) -> None:
        pulled = self._target / "bundle"
        try:
            pull(self._address, pulled, self._key if signed else None)
        finally:
            left = sorted(path.name for path in self._target.iterdir())
            assert left in ([], ["bundle"]), f"the folder has {left}"
            assert sorted(path.name for path in self._folder.iterdir()) == ["bundle", "device", "keys"]
        if signed:
            assert contents(pulled) == self._published, "another bundle than the signed one was accepted"
        Bundle.open(pulled)

    def _layers_by_title(self) -> str:
        artifact = json.loads(self._valid[artifact_path()].body)
        for layer in artifact["layers"]:
            if layer["annotations"][TITLE] == SIGNATURE:
                self._signature_digest = layer["digest"]
                layer["digest"] = "sha256:" + "5" * 64
        return json.dumps(artifact)

    def _odd_artifact(self, random: Random) -> bytes:
        tree = json.loads(self._artifact)
        for _ in range(random.choice((1, 1, 1, 2, 4))):
            mutate_tree(random, tree, odd_or_raw)
            if not isinstance(tree, dict) or not tree:
                break
        content = as_text(random, tree).encode(errors="surrogatepass")
        return damage(random, content) if random.random() < 0.06 else content

    def _odd_manifest(self, random: Random) -> bytes:
        tree = json.loads(self._manifest)
        if random.random() < 0.5:  # names of files are where an attacker begins
            mutate_tree(random, tree["files"], odd_or_raw)
        else:
            mutate_tree(random, tree, odd_or_raw)
        return as_text(random, tree).encode(errors="surrogatepass")

    def _serve_artifact(self, content: bytes) -> None:
        self._registry.serve_artifact(content.replace(b"sha256:" + b"5" * 64, self._signature_digest.encode()))

    def _serve_manifest(self, content: bytes) -> None:
        """Serve a manifest with all of its files; the signature is not asked for."""
        files = {name: blob_of(data) for name, data in self._published.items() if data is not None}
        self._registry.serve_blob(content)
        self._registry.serve_artifact(encode_artifact({**files, MANIFEST: blob_of(content)}))

    def _serve_blob(self, content: bytes) -> None:
        self._registry.answers[self._path_of(len(content))] = Answer(body=content)

    def _serve_answer(self, content: bytes) -> None:
        answer: dict[str, Any] = json.loads(content)
        path = self._path_of(answer["place"])
        body = self._valid[path].body if answer["keeps_body"] else answer["body"].encode("latin-1")
        # Otherwise the client would wait for bytes that do not come, on a connection that stays open.
        headers = {**answer["headers"], "Connection": "close"}
        self._registry.answers[path] = Answer(answer["status"], body, headers)

    def _serve_token(self, content: bytes) -> None:
        realm = f'Bearer realm="http://{self._registry.host}/token",service="s",scope="x"'
        self._registry.answers["/token"] = Answer(body=content)
        self._registry.answers[artifact_path()] = Answer(401, headers={"Www-Authenticate": realm})

    def _path_of(self, number: int) -> str:
        paths = ["/v2/", artifact_path(), *(path for path in sorted(self._valid) if "/blobs/" in path)]
        return paths[number % len(paths)]


def odd_answer(random: Random) -> bytes:
    """Return an answer as JSON."""
    headers = {}
    for _ in range(random.choice((0, 1, 1, 2))):
        name, values = random.choice(HEADERS)
        headers[name] = random.choice(values)
    body = random.choice(
        ("", "{}", "[]", "null", '{"errors": [{"message": 1}]}', "<html>", "\x1f\x8b", "0\r\n\r\n", "\xff" * 99)
    )
    answer = {"place": random.randrange(99), "status": random.choice(STATUSES), "headers": headers}
    return json.dumps({**answer, "keeps_body": random.random() < 0.5, "body": body}).encode()


READER = RegistryReader
