"""Access to the server: a token, the origin of requests, and the headers of every response."""

import asyncio
import hmac
import os
import secrets
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.errors import OutputError
from edge.live.addresses import client_network, is_loopback
from edge.live.limits import ClientLimits

TOKEN_VARIABLE = "EDGE_VIEW_TOKEN"  # noqa: S105 - a name
MIN_TOKEN_LENGTH = 16
LOGIN_PATH = "/login"
PUBLIC_PATHS = (LOGIN_PATH, "/view.css")
"""Paths that need no token: the form for it, and its style."""
MONITORING_PATHS = ("/metrics", "/healthz")
"""Paths for programs of this machine, which may know it by any name."""
SAFE_METHODS = ("GET", "HEAD")
FAILURES_PER_S, MAX_FAILURES = 0.1, 10
"""Rate and burst of a client's wrong tokens and cookies."""
REQUESTS_PER_S, MAX_REQUESTS = 40, 200
"""Rate and burst of a client's requests; a connected page needs none."""
SEND_LIMIT_S = 20.0
"""Longest wait for a client to take a part of a response."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # without a referrer, a form's origin would be null
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Access:
    """The token that requests need, if any."""

    token: str | None
    is_generated: bool = False
    failures: ClientLimits = field(default_factory=lambda: ClientLimits(FAILURES_PER_S, MAX_FAILURES))
    """Limit of wrong tokens and cookies."""

    @staticmethod
    def for_host(host: str) -> "Access":
        """Return the access of a server: with a token if one is set, or if other machines reach the address.

        Raises:
            OutputError: the token that is set is short, or has characters that headers cannot carry.
        """
        given = os.environ.get(TOKEN_VARIABLE, "")
        token = given.strip()
        if not (token.isascii() and token.isprintable()):
            raise OutputError(
                f"{TOKEN_VARIABLE} has characters other than printable ASCII, which headers cannot carry; set another"
            )
        if given and len(token) < MIN_TOKEN_LENGTH:
            raise OutputError(
                f"{TOKEN_VARIABLE} has {len(token)} characters; set at least {MIN_TOKEN_LENGTH}, or unset it for a "
                "random token"
            )
        if token or is_loopback(host):
            return Access(token or None)
        return Access(secrets.token_urlsafe(MIN_TOKEN_LENGTH), is_generated=True)

    def is_token(self, text: str) -> bool:
        """Compare a text with the token, in a time that tells nothing about it."""
        return self.token is not None and hmac.compare_digest(text.encode(), self.token.encode())

    def cookie(self) -> str:
        """Return the value of the cookie: a digest, so that the token stays out of browsers and survives a restart."""
        assert self.token is not None, "no token"  # noqa: S101 - there is no login without
        return hmac.digest(self.token.encode(), b"edge view cookie", "sha256").hex()

    def refusal(self, scope: Scope) -> Response | None:
        """Return the response to a request without the right token or cookie; None for others."""
        headers = Headers(scope=scope)
        credentials, cookie = headers.get("authorization", ""), cookie_value(headers, cookie_name(scope))
        is_guess = bool(credentials or cookie)
        if is_guess and self.failures.is_reached(client_of(scope)):
            return too_many_failures()
        if self._admits(credentials, cookie):
            return None
        if is_guess:
            self.failures.takes(client_of(scope))
        if scope["path"] == "/" and not credentials:
            return RedirectResponse(LOGIN_PATH, 303)
        return PlainTextResponse(
            "this address needs a token; log in, or send it as `Authorization: Bearer TOKEN`\n",
            401,
            {"www-authenticate": "Bearer"},
        )

    def _admits(self, credentials: str, cookie: str) -> bool:
        scheme, _, token = credentials.partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(token.strip())
        return self.token is None or hmac.compare_digest(cookie.encode(), self.cookie().encode())


class Guard:
    """ASGI middleware that refuses requests without access, of foreign pages and above a rate.

    It gives every response its headers, and gives up clients that take no response.
    """

    def __init__(self, application: ASGIApp, access: Access) -> None:
        """Guard an application."""
        self._application, self._access = application, access
        self._requests = ClientLimits(REQUESTS_PER_S, MAX_REQUESTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                MutableHeaders(scope=message).update(HEADERS)
            await asyncio.wait_for(send(message), SEND_LIMIT_S)

        handler: ASGIApp = self._refusal(scope) or self._application
        await handler(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the response to a request that must not be answered; None for others."""
        if not self._requests.takes(client_of(scope)):
            return PlainTextResponse(f"more than {REQUESTS_PER_S} requests a second\n", 429, {"retry-after": "1"})
        headers, path, access = Headers(scope=scope), scope["path"], self._access
        is_read = scope["type"] == "http" and scope["method"] in SAFE_METHODS
        if access.token is None and path not in MONITORING_PATHS and not is_own_name(headers.get("host", "")):
            return PlainTextResponse("this name is not this machine's; open the page by its address\n", 403)
        if not is_read and not is_same_origin(headers):
            return PlainTextResponse("pages of other origins may not connect\n", 403)
        if access.token is None or path in PUBLIC_PATHS:
            return None
        return access.refusal(scope)


def is_own_name(host: str) -> bool:
    """Check the header `Host` for an address or `localhost`.

    A foreign page could let its own name resolve to this machine (DNS rebinding), and read as the same origin.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ip_address(name))
    except ValueError:
        return False


def is_same_origin(headers: Headers) -> bool:
    """Check that a request comes from a page of this server, or from no page."""
    origin = headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == headers.get("host", "")
    except ValueError:
        return False


def cookie_name(scope: Scope) -> str:
    """Return the name of the cookie: browsers share cookies between the ports of a host."""
    return f"edge_view_{(scope.get('server') or ('', 0))[1]}"


def cookie_value(headers: Headers, name: str) -> str:
    """Return the value of a cookie, empty if there is none."""
    return cookie_parser(headers.get("cookie", "")).get(name, "")


def too_many_failures() -> Response:
    """Return the response to a client that sent too many wrong tokens."""
    return PlainTextResponse(
        "too many wrong tokens; wait some seconds\n", 429, {"retry-after": f"{1 / FAILURES_PER_S:.0f}"}
    )


def client_of(scope: Scope) -> str:
    """Return the client of a request, as limits count it; behind a proxy, all clients are the proxy."""
    return client_network(str((scope.get("client") or ("",))[0]))
