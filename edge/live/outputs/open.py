"""Outputs by name, as `edge run --output` accepts them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from edge.errors import OutputError, UnavailableError
from edge.frames.address import SCHEME, public_address
from edge.system import import_remedy

if TYPE_CHECKING:
    from edge.live.deployment import Deployment
    from edge.live.outputs.base import Output
    from edge.live.outputs.lines_file import Rotation

STDOUT_NAMES = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
VIDEO_SUFFIX = ".mp4"
DEFAULT_TIMEOUT_S = 10.0
USAGE = "give a file for JSON lines, - for standard output, VIDEO.mp4, mqtt://HOST/TOPIC, or http://HOST:PORT"


def output_path(name: str) -> Path | None:
    """Return the file that an output would write; None where it writes none."""
    return None if name in STDOUT_NAMES or SCHEME.match(name) else Path(name)


def is_video_name(name: str) -> bool:
    """Check for the name of a video's file."""
    return name.lower().endswith(VIDEO_SUFFIX)


def open_output(
    name: str,
    *,
    overwrite: bool = False,
    rotation: "Rotation | None" = None,
    on_request: Callable[[], None] | None = None,
    deployment: "Deployment | None" = None,
) -> "Output":
    """Return the output of a name; its files and connections are opened when its queue starts.

    Args:
        name: `-` for JSON lines on standard output; `VIDEO.mp4` for annotated video; another path for JSON lines in a
            file or pipe; `mqtt[s]://[user:password@]host[:port][/base/topic]` for a broker; and
            `http://host:port[?timeout=SECONDS]` to serve the page, metrics and health, where a source is unhealthy
            after so many seconds without a result.
        overwrite: Empty the file of JSON lines.
        rotation: Limits of the file of JSON lines.
        on_request: Called for messages to a broker's topic `BASE/request`.
        deployment: Bundle and classifier of the run, for the page to show and to choose thresholds of.

    Raises:
        OutputError: the name is none of these.
        UnavailableError: a library is missing.
    """
    scheme = SCHEME.match(name)
    try:
        if scheme is not None:
            return _open_address(name, scheme.group().removesuffix("://").lower(), on_request, deployment)
        if name in STDOUT_NAMES:
            from edge.live.outputs.lines import StdoutLines

            return StdoutLines()
        if is_video_name(name):
            from edge.live.outputs.video import Video

            return Video(Path(name))
    except ImportError as error:
        message = f"{public_address(name)} needs a library ({error}); {import_remedy(error)}"
        raise UnavailableError(message) from error
    from edge.live.outputs.lines import Lines

    return Lines(Path(name), overwrite=overwrite, rotation=rotation)


def _open_address(
    name: str, scheme: str, on_request: Callable[[], None] | None, deployment: "Deployment | None"
) -> "Output":
    if scheme in ("mqtt", "mqtts"):
        from edge.live.outputs.mqtt import Mqtt, parse_broker

        return Mqtt(parse_broker(name), on_request)
    if scheme == "http":
        from edge.live.view.output import View

        host, port, timeout_s = _parse_server(name)
        return View(host, port, timeout_s=timeout_s, deployment=deployment)
    raise OutputError(f"{public_address(name)} is not an output; {USAGE}")


def _parse_server(name: str) -> tuple[str, int, float]:
    """Return host, port and timeout of `http://host:port?timeout=SECONDS`."""
    try:
        parts = urlsplit(name)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        timeout_s = float(options.pop("timeout", DEFAULT_TIMEOUT_S))
        if "@" in parts.netloc:
            raise OutputError(
                f"{public_address(name)} was given with a user or password, which the page does not have; set a token "
                "as EDGE_VIEW_TOKEN instead"
            )
        if (
            options
            or parts.fragment
            or parts.path not in ("", "/")
            or not parts.hostname
            or parts.port is None
            or not timeout_s > 0
        ):
            raise ValueError
        return parts.hostname, parts.port, timeout_s
    except ValueError:
        raise OutputError(
            f"{public_address(name)} is not an address to serve the page at; give http://HOST:PORT, such as "
            "http://127.0.0.1:8080, with ?timeout=SECONDS for the health of sources"
        ) from None
