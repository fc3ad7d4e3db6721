"""A repository in a registry, through oras: silence and size of answers are limited, and every digest is checked."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from oras.auth import get_auth_backend
from oras.container import Container
from oras.logger import logger as oras_log
from oras.provider import Registry
from requests import PreparedRequest, RequestException, Response
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from edge.errors import EdgeError, RegistryError, described
from edge.registry.address import RegistryAddress
from edge.registry.artifact import ARTIFACT_TYPE, MAX_ARTIFACT_BYTES, Blob

TIMEOUT_S = 30.0
"""Longest silence of a registry."""
CHUNK = 1 << 20


class _Transport(HTTPAdapter):
    """Requests with a limit of time; answers that are not streamed have a limit of size.

    It serves redirects, uploads and requests for tokens, too: plain HTTP goes to no host but `plain_host`.
    """

    def __init__(self, plain_host: str | None) -> None:
        super().__init__()
        self._plain_host = plain_host

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        url = urlsplit(str(request.url))
        if url.scheme != "https" and url.netloc != self._plain_host:
            raise RequestException(f"it asks for plain HTTP to {url.netloc}, which is refused")
        response = super().send(request, *args, **{**options, "timeout": TIMEOUT_S})
        if not options.get("stream") or response.is_redirect:
            body = response.raw.read(MAX_ARTIFACT_BYTES + 1, decode_content=False)
            if len(body) > MAX_ARTIFACT_BYTES:
                response.close()
                raise RequestException(f"its answer is larger than {MAX_ARTIFACT_BYTES >> 20} MiB")
            response.raw = BytesIO(body)
        return response


class _Registry(Registry):  # type: ignore[misc]  # oras is not typed
    """The registry without its retries, which wait for minutes."""

    do_request = Registry.do_request.__wrapped__


class Repository:
    """A repository, with the credentials of `docker login`."""

    def __init__(self, address: RegistryAddress) -> None:
        """Connect.

        Raises:
            RegistryError: the registry cannot be reached, or refuses.
        """
        self._address, self._container = address, _container(address)
        oras_log.set_level(logging.CRITICAL)  # its errors are raised as ours
        self._registry = _Registry(insecure=address.is_loopback)
        session, scheme = self._registry.session, self._registry.prefix
        session.trust_env = not address.is_loopback  # a proxy is another host
        session.auth = _as_it_is  # else, passwords in ~/.netrc would replace a token
        session.headers["Accept-Encoding"] = "identity"
        for prefix in ("http://", "https://"):
            session.mount(prefix, _Transport(address.host if address.is_loopback else None))
        with self._translated():
            challenge = session.get(f"{scheme}://{address.host}/v2/").headers.get("Www-Authenticate", "")
            self._authenticate(takes_passwords=challenge.lower().startswith("basic"))

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._registry.session.close()

    def artifact(self) -> bytes:
        """Return the artifact at the address.

        Raises:
            RegistryError: there is none, or it has another digest than the address.
        """
        with self._translated():
            answer = self._request("manifests", self._address.reference, headers={"Accept": ARTIFACT_TYPE})
            content: bytes = answer.content
        self._check_digest(content, self._address.sha256)
        return content

    def content(self, blob: Blob, max_bytes: int) -> bytes:
        """Return a small blob.

        Raises:
            RegistryError: it is missing, larger than `max_bytes`, or has another digest.
        """
        if blob.size > max_bytes:
            raise RegistryError(f"{self._address} has a file of {blob.size} bytes, at most {max_bytes} are read")
        content = b"".join(self._chunks(blob))
        self._check_digest(content, blob.sha256)
        return content

    def download(self, blob: Blob, file: Path) -> None:
        """Write a blob to a new file.

        Raises:
            RegistryError: it is missing, or has another size or digest; the file is then incomplete.
            OSError: the file exists or cannot be written.
        """
        digest = hashlib.sha256()
        with file.open("xb") as opened:
            for chunk in self._chunks(blob):
                digest.update(chunk)
                opened.write(chunk)
        if digest.hexdigest() != blob.sha256:
            raise self._error(f"gave other content than sha256:{blob.sha256}")

    def upload(self, blob: Blob, file: Path) -> None:
        """Copy a file to the registry, unless it is there. The registry checks its digest.

        Raises:
            RegistryError: the registry refuses.
        """
        descriptor = {"digest": f"sha256:{blob.sha256}", "size": blob.size}
        with self._translated():
            self._check(self._registry.upload_blob(str(file), self._container, descriptor))

    def put_artifact(self, content: bytes) -> None:
        """Write the artifact at the address, which others pull from now on.

        Raises:
            RegistryError: the registry refuses.
        """
        url = f"{self._registry.prefix}://{self._container.manifest_url(self._address.reference)}"
        with self._translated():
            headers = {"Content-Type": ARTIFACT_TYPE}
            self._check(self._registry.do_request(url, "PUT", data=content, headers=headers))

    def _authenticate(self, *, takes_passwords: bool) -> None:
        """Read the credentials: for tokens, or where the registry asks for it, the password itself."""
        registry = self._registry
        if takes_passwords:
            registry.auth = get_auth_backend("basic", registry.session, self._address.is_loopback)
        registry.auth.load_configs(self._container)
        if takes_passwords and not getattr(registry.auth, "_basic_auth", None):
            raise self._error("asks for a password")

    def _chunks(self, blob: Blob) -> Iterator[bytes]:
        """Yield a blob's content, at most `blob.size` bytes."""
        left = blob.size
        with self._translated(), self._request("blobs", f"sha256:{blob.sha256}", stream=True) as answer:
            for chunk in answer.raw.stream(CHUNK, decode_content=False):
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
        if left:
            raise self._error(f"gave more or less than {blob.size} bytes of sha256:{blob.sha256}")

    def _request(self, kind: str, reference: str, **options: Any) -> Any:
        url = f"{self._registry.prefix}://{self._container.registry}/v2/{self._container.api_prefix}/{kind}/{reference}"
        return self._check(self._registry.do_request(url, **options))

    def _check(self, answer: Response) -> Response:
        if answer.status_code == 404:
            raise RegistryError(f"{self._address} does not exist, or lacks a file; check the address, or push it again")
        if answer.status_code in (401, 403):
            raise self._error("refuses access")
        if answer.status_code not in (200, 201, 202):
            raise self._error(f"answered {answer.status_code} {answer.reason}")
        return answer

    def _check_digest(self, content: bytes, sha256: str | None) -> None:
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise self._error(f"gave other content than sha256:{sha256}")

    def _error(self, fact: str) -> RegistryError:
        login = f"`docker login {self._address.host}`"
        return RegistryError(f"the registry of {self._address} {fact}; try again, check the address, or use {login}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise exceptions of requests and oras as errors of ours; errors of files pass."""
        try:
            yield
        except EdgeError:
            raise
        except (RequestException, HTTPError) as error:
            raise self._error(f"cannot be used ({_first_cause(error)})") from error
        except OSError:
            raise
        except Exception as error:  # oras raises any exception where an answer is not as it expects
            raise self._error(f"cannot be used ({described(error)})") from error


def _as_it_is(request: PreparedRequest) -> PreparedRequest:
    """Return a request with the credentials that oras gave it."""
    return request


def _container(address: RegistryAddress) -> Container:
    """Return the address as oras has it; its own parser takes `localhost/name` for a name at Docker Hub."""
    container = Container("name")
    container.registry, container.namespace, container.repository = address.host, None, address.name
    container.tag, container.digest = address.tag, None
    return container


def _first_cause(error: BaseException) -> BaseException:
    """Return the exception in which a chain began, which has the system's reason."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error
