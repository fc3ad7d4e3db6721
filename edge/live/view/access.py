"""Access to the server: a token, the origin of requests, and the headers of every response."""

import asyncio
import hmac
import os
import secrets
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from time import monotonic
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.errors import OutputError

TOKEN_VARIABLE = "EDGE_VIEW_TOKEN"  # noqa: S105 - a name
MIN_TOKEN_LENGTH = 16
LOGIN_PATH = "/login"
PUBLIC_PATHS = (LOGIN_PATH, "/view.css")
"""Paths that need no token: the form for it, and its style."""
MONITORING_PATHS = ("/metrics", "/healthz")
"""Paths for programs of this machine, which may know it by any name."""
SAFE_METHODS = ("GET", "HEAD")
MAX_FAILURES, FAILURES_PER_S = 10, 0.1
"""Wrong tokens of a client that are answered at once, and thereafter."""
MAX_CLIENTS = 1000
"""Clients whose failures are counted."""
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


def is_loopback(host: str) -> bool:
    """Check that only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class RateLimit:
    """A number of calls a second, and some more at once: a token bucket."""

    def __init__(self, per_s: float, burst: int) -> None:
        """Start full."""
        self._per_s, self._burst = per_s, burst
        self._left, self._at_s = float(burst), monotonic()

    @property
    def is_reached(self) -> bool:
        """True where the next call would exceed the limit."""
        now_s = monotonic()
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return self._left < 1

    def takes(self) -> bool:
        """Check that another call is within the limit, and count it."""
        if self.is_reached:
            return False
        self._left -= 1
        return True


class Failures:
    """Wrong tokens by the address of the client, so that others are not locked out by its guesses."""

    def __init__(self) -> None:
        """Start without failures."""
        self._limits: dict[str, RateLimit] = {}

    def are_too_many(self, scope: Scope) -> bool:
        """Check that the client of a request must wait before its token is looked at."""
        limit = self._limits.get(_client(scope))
        return limit is not None and limit.is_reached

    def add(self, scope: Scope) -> None:
        """Count a failure."""
        if len(self._limits) >= MAX_CLIENTS:
            self._limits.clear()
        self._limits.setdefault(_client(scope), RateLimit(FAILURES_PER_S, MAX_FAILURES)).takes()


@dataclass(frozen=True, slots=True)
class Access:
    """The token that requests need, if any."""

    token: str | None
    is_generated: bool = False
    failures: Failures = field(default_factory=Failures)

    @staticmethod
    def for_host(host: str) -> "Access":
        """Return the access of a server: with a token if one is set, or if other machines reach the address.

        Raises:
            OutputError: the token that is set is short.
        """
        token = os.environ.get(TOKEN_VARIABLE, "")
        if 0 < len(token) < MIN_TOKEN_LENGTH:
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

    def admits(self, headers: Headers, cookie_name: str) -> bool:
        """Check the cookie or the header of a request."""
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(credentials.strip())
        cookie = cookie_value(headers, cookie_name)
        return self.token is None or hmac.compare_digest(cookie.encode(), self.cookie().encode())


class Guard:
    """ASGI middleware that refuses requests without access or of foreign pages, and clients that take no response."""

    def __init__(self, application: ASGIApp, access: Access) -> None:
        """Guard an application."""
        self._application, self._access = application, access

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
        headers, path, access = Headers(scope=scope), scope["path"], self._access
        is_read = scope["type"] == "http" and scope["method"] in SAFE_METHODS
        if access.token is None and path not in MONITORING_PATHS and not is_own_name(headers.get("host", "")):
            return PlainTextResponse("this name is not this machine's; open the page by its address\n", 403)
        if not is_read and not is_same_origin(headers):
            return PlainTextResponse("pages of other origins may not connect\n", 403)
        if access.token is None or path in PUBLIC_PATHS:
            return None
        if "authorization" in headers and access.failures.are_too_many(scope):
            return too_many_failures()
        if access.admits(headers, cookie_name(scope)):
            return None
        if "authorization" in headers:
            access.failures.add(scope)
        elif path == "/":
            return RedirectResponse(LOGIN_PATH, 303)
        return PlainTextResponse(
            "this address needs a token; log in, or send it as `Authorization: Bearer TOKEN`\n",
            401,
            {"www-authenticate": "Bearer"},
        )


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
    try:
        cookies: SimpleCookie = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[name].value if name in cookies else ""


def too_many_failures() -> Response:
    """Return the response to a client that sent too many wrong tokens."""
    return PlainTextResponse(
        "too many wrong tokens; wait some seconds\n", 429, {"retry-after": f"{1 / FAILURES_PER_S:.0f}"}
    )


def _client(scope: Scope) -> str:
    return str((scope.get("client") or ("",))[0])
