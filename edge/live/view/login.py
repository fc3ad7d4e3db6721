"""The login form, which exchanges the token for a cookie."""

from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from edge.live.view.access import LOGIN_PATH, Access, client_of, cookie_name, too_many_failures
from edge.live.view.files import LOGIN, serve
from edge.live.view.requests import read_body

COOKIE_S = 30 * 24 * 3600


def login_routes(access: Access) -> list[Route]:
    """Return the routes of the form; none where there is no token."""

    async def log_in(request: Request) -> Response:
        given = parse_qs((await read_body(request)).decode("utf-8", "replace")).get("token", [""])[0]
        client = client_of(request.scope)
        if access.failures.is_reached(client):  # checked after the wait for the body, in which others may have failed
            return too_many_failures()
        if not access.is_token(given.strip()):
            access.failures.takes(client)
            return PlainTextResponse("wrong token; go back and try again\n", 403)
        response = RedirectResponse("/", 303)
        name = cookie_name(request.scope)
        response.set_cookie(name, access.cookie(), max_age=COOKIE_S, httponly=True, samesite="strict")
        return response

    if access.token is None:
        return []
    return [Route(LOGIN_PATH, serve(LOGIN)), Route(LOGIN_PATH, log_in, methods=["POST"])]
