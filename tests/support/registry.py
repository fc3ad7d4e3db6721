"""Registries: Debian's docker-registry, and one that answers whatever a test wants."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.registry.artifact import Blob, encode_artifact
from tests.support.outputs import free_port, server

NAME, TAG = "models/digits", "stable"


@contextmanager
def docker_registry(folder: Path, *, htpasswd: Path | None = None) -> Iterator[str]:
    """Run Debian's registry on loopback, and yield its host and port."""
    port, config = free_port(), folder / "registry.yml"
    access = "" if htpasswd is None else f"auth: {{htpasswd: {{realm: basic-realm, path: {htpasswd}}}}}\n"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder / 'store'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\nlog: {{accesslog: {{disabled: true}}}}\n{access}"
    )
    with server(["docker-registry", "serve", config], port):
        yield f"127.0.0.1:{port}"


@dataclass
class Answer:
    """An answer to a request."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class ScriptedRegistry:
    """A registry on loopback that gives the answers in `answers`, by path; everything else is missing.

    It cannot be pushed to. An attacker in the place of a registry can do no more than answer.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self.token: str | None = None
        """Token that requests must have, which `/token` gives; None for none."""
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet for an answer: each further one would wait for an acknowledgement

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                registry.requests.append((self.path, dict(self.headers)))
                answer = registry.answers.get(path, Answer(404))
                if registry.token is not None and path == "/token":
                    answer = Answer(body=json.dumps({"token": registry.token}).encode())
                elif registry.token is not None and self.headers["Authorization"] != f"Bearer {registry.token}":
                    realm = f'Bearer realm="http://{registry.host}/token",service="s",scope="repository:{NAME}:pull"'
                    answer = Answer(401, headers={"Www-Authenticate": realm})
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: Any) -> None:
                """Stay silent."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, bundle: Path) -> None:
        """Answer as a registry does that has this bundle."""
        files = {file.relative_to(bundle).as_posix(): file.read_bytes() for file in bundle.rglob("*") if file.is_file()}
        self.answers = {"/v2/": Answer()}
        for content in files.values():
            self.serve_blob(content)
        self.serve_artifact(encode_artifact({name: blob_of(content) for name, content in files.items()}))

    def serve_blob(self, content: bytes) -> str:
        path = blob_path(content)
        self.answers[path] = Answer(body=content)
        return path

    def serve_artifact(self, content: bytes) -> None:
        self.answers[artifact_path()] = Answer(body=content)


def blob_of(content: bytes) -> Blob:
    return Blob(hashlib.sha256(content).hexdigest(), len(content))


def blob_path(content: bytes) -> str:
    return f"/v2/{NAME}/blobs/sha256:{blob_of(content).sha256}"


def artifact_path() -> str:
    return f"/v2/{NAME}/manifests/{TAG}"
