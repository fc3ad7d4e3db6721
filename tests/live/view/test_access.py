"""Access: token, names, origins, and the headers of responses."""

import logging
from collections.abc import Iterator
from http.cookies import SimpleCookie
from urllib.parse import urlencode

import pytest
from websockets.exceptions import InvalidStatus

from edge.errors import OutputError
from edge.live.view import access as access_module
from edge.live.view.access import HEADERS, MAX_FAILURES, Access
from edge.live.view.output import View
from tests.support.outputs import opened
from tests.support.view import ask, page

TOKEN = "correct horse battery"
PATHS = (
    "/", "/view.js", "/icon.svg", "/api/status", "/api/deployment", "/api/events", "/snapshot.jpg", "/stream.mjpg",
    "/metrics", "/healthz",
)  # fmt: skip


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[View]:
    """A server that demands the token, as at an address that other machines reach."""
    monkeypatch.setenv("EDGE_VIEW_TOKEN", TOKEN)
    with opened(View("127.0.0.1", 0, timeout_s=5)) as view:
        yield view


def log_in(view: View, token: str) -> str:
    """Return the cookie of a login, as a browser sends it back; empty if it was refused."""
    given = ask(view, "/login", "POST", urlencode({"token": token}), content_type="application/x-www-form-urlencoded")
    cookies = SimpleCookie(given.headers.get("set-cookie", ""))
    for cookie in cookies.values():
        assert cookie["httponly"]
        assert cookie["samesite"] == "strict"
    return "; ".join(f"{name}={cookie.value}" for name, cookie in cookies.items())


def test_every_path_needs_the_token(guarded: View) -> None:
    for path in PATHS:
        assert ask(guarded, path).status == (303 if path == "/" else 401), path
        assert ask(guarded, path, authorization=f"Bearer {TOKEN}").status not in (303, 401), path
    assert ask(guarded, "/").headers["location"] == "/login"
    assert ask(guarded, "/api/candidate", "PUT", '{"index": 0}').status == 401
    assert ask(guarded, f"/api/status?{urlencode({'token': TOKEN})}").status == 401
    assert ask(guarded, "/login").status == 200
    with pytest.raises(InvalidStatus, match="401"), page(guarded):
        pass
    with page(guarded, authorization=f"Bearer {TOKEN}") as opened_page:
        assert opened_page.message("history") == {}


def test_a_login_gives_a_cookie_that_hides_the_token_and_survives_a_restart(guarded: View) -> None:
    cookie = log_in(guarded, TOKEN)
    assert cookie
    assert TOKEN not in cookie
    assert ask(guarded, "/", cookie=cookie).status == 200
    port = int(guarded.name.rpartition(":")[2])
    guarded.close()
    with opened(View("127.0.0.1", port, timeout_s=5)) as restarted:
        assert ask(restarted, "/", cookie=cookie).status == 200


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", "é" * 20, "x" * 900])
def test_a_wrong_token_is_refused(guarded: View, token: str) -> None:
    assert not log_in(guarded, token)
    name = f"edge_view_{guarded.name.rpartition(':')[2]}"
    assert ask(guarded, "/api/status", cookie=f"{name}={token}".encode().decode("latin-1")).status == 401
    assert ask(guarded, "/api/status", authorization=f"Bearer {token}".encode().decode("latin-1")).status == 401


def cookie_name(view: View) -> str:
    return f"edge_view_{view.name.rpartition(':')[2]}"


@pytest.mark.parametrize("by", ["header", "cookie", "login"])
def test_a_client_that_guesses_must_wait_in_every_way(guarded: View, by: str) -> None:
    cookie, form = log_in(guarded, TOKEN), "application/x-www-form-urlencoded"

    def guess() -> int:
        if by == "header":
            return ask(guarded, "/api/status", authorization="Bearer wrong").status
        if by == "cookie":
            return ask(guarded, "/api/status", cookie=f"{cookie_name(guarded)}=wrong").status
        return ask(guarded, "/login", "POST", "token=wrong", content_type=form).status

    wrong = [guess() for _ in range(MAX_FAILURES + 1)]
    assert wrong == [403 if by == "login" else 401] * MAX_FAILURES + [429]
    assert ask(guarded, "/login", "POST", urlencode({"token": TOKEN})).status == 429
    assert ask(guarded, "/api/status", authorization=f"Bearer {TOKEN}").status == 429
    assert ask(guarded, "/api/status", cookie=cookie).status == 429
    assert ask(guarded, "/api/status").status == 401


def test_a_forwarded_address_does_not_make_another_client(guarded: View) -> None:
    for index in range(MAX_FAILURES):
        ask(guarded, "/api/status", authorization="Bearer wrong", x_forwarded_for=f"10.0.0.{index}")
    assert ask(guarded, "/api/status", authorization="Bearer wrong", x_forwarded_for="10.0.1.1").status == 429


@pytest.mark.parametrize("other", ["a=b", "odd", 'json={"a":1}', "a[b]=c", '="', "é=é"])
def test_other_cookies_of_the_host_do_not_hide_the_login(guarded: View, other: str) -> None:
    cookie = log_in(guarded, TOKEN)
    assert ask(guarded, "/api/status", cookie=f"{other}; {cookie}".encode().decode("latin-1")).status == 200


def test_requests_of_a_client_are_limited(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_module, "REQUESTS_PER_S", 1e-6)
    monkeypatch.setattr(access_module, "MAX_REQUESTS", 3)
    with opened(View("127.0.0.1", 0, timeout_s=5)) as limited:
        assert [ask(limited, "/api/status").status for _ in range(4)] == [200, 200, 200, 429]
        with pytest.raises(InvalidStatus, match="429"), page(limited):
            pass
    assert ask(view, "/api/status").status == 200


def test_the_login_reads_a_small_body_only(guarded: View) -> None:
    assert ask(guarded, "/login", "POST", "token=" + "x" * 2000).status == 413


def test_other_addresses_get_a_random_token_which_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Access.for_host("0.0.0.0"), Access.for_host("::")
    assert first.token is not None
    assert len(first.token) >= 20
    assert first.token != second.token
    assert (
        Access.for_host("127.0.0.1").token is Access.for_host("::1").token is Access.for_host("localhost").token is None
    )
    with caplog.at_level(logging.DEBUG), opened(View("0.0.0.0", 0, timeout_s=5)) as view:
        token = view._access.token
        assert token is not None
        ask(view, "/api/status", authorization=f"Bearer {token}")
    assert caplog.text.count(token) == 1


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("short", "has 5 characters; set at least 16"),
        ("   ", "has 0 characters"),
        ("pässwörter über alles", "other than printable ASCII"),
        ("a token of\ttwo lines", "other than printable ASCII"),
        (b"a token of \xff bytes".decode("utf-8", "surrogateescape"), "other than printable ASCII"),
    ],
)
def test_a_token_that_is_short_or_fits_no_header_is_refused(
    monkeypatch: pytest.MonkeyPatch, token: str, reason: str
) -> None:
    monkeypatch.setenv("EDGE_VIEW_TOKEN", token)
    with pytest.raises(OutputError, match=f"EDGE_VIEW_TOKEN {reason}|EDGE_VIEW_TOKEN has .*{reason}") as caught:
        View("127.0.0.1", 0, timeout_s=5)
    assert token not in str(caught.value) or not token.strip()


def test_a_token_is_read_without_the_line_end_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_VIEW_TOKEN", f" {TOKEN}\r\n")
    assert Access.for_host("127.0.0.1").is_token(TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:80", "localhost:1", "[::1]:80", "192.168.0.7"])
def test_the_page_answers_to_addresses(view: View, host: str) -> None:
    assert ask(view, "/api/status", host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", "", "[::1", "a b"]
)
def test_a_foreign_name_that_resolves_to_this_machine_is_refused(view: View, host: str) -> None:
    for path in ("/", "/api/status", "/snapshot.jpg"):
        assert ask(view, path, host=host).status == 403
    for path in ("/metrics", "/healthz"):
        assert ask(view, path, host=host).status == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://127.0.0.1", "null", "http://127.0.0.1:1", "file://", "http://["]
)
def test_a_foreign_page_neither_connects_nor_chooses(view: View, origin: str) -> None:
    assert ask(view, "/api/candidate", "PUT", '{"index": 0}', origin=origin).status == 403
    with pytest.raises(InvalidStatus, match="403"), page(view, origin=origin):
        pass


def test_the_own_page_connects_and_chooses(view: View) -> None:
    assert ask(view, "/api/candidate", "PUT", '{"index": 0}', origin=view.name).status == 200
    with page(view, origin=view.name) as opened_page:
        assert opened_page.message("sources") == []


def test_every_response_has_the_security_headers(view: View, guarded: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(view._state), "events", lambda state: 1 / 0)
    for server, path, status in ((view, "/", 200), (view, "/none", 404), (view, "/login", 404), (guarded, "/", 303),
                                 (guarded, "/api/status", 401), (view, "/snapshot.jpg", 404),
                                 (view, "/api/events", 500)):  # fmt: skip
        answer = ask(server, path)
        assert answer.status == status
        assert HEADERS.items() <= answer.headers.items(), path
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
