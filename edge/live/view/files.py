"""The files of the page, which are read once and served from memory."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = "static"
MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
PAGE, LOGIN = "page.html", "login.html"


def file_routes() -> list[Route]:
    """Return the routes of the page and of the files that it loads."""
    return [Route("/", serve(PAGE)), *(Route(f"/{name}", serve(name)) for name in ("view.css", "view.js", "icon.svg"))]


def serve(name: str) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that serves a file."""
    content = files(__package__).joinpath(FOLDER, name).read_bytes()

    async def endpoint(request: Request) -> Response:
        return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]])

    return endpoint
