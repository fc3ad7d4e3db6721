"""Addresses of sources: syntax, and addresses without secrets for messages.

    0, /dev/video0, v4l2:///dev/video0   a camera
    csi://0                              a CSI camera of a Jetson
    rtsp://host/path, http://..., ...    a stream or a file of a server
    path, file:///path                   an image, a video, a pipe, or a folder of images or arrays
    test://                              a moving test pattern
    ... ! appsink                        a GStreamer pipeline

Options are query parameters (`edge.frames.options`). A server receives the parameters that are not options.
"""

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from edge.errors import AddressError
from edge.frames.options import DEFAULTS, OPTIONS, SourceOptions, is_valid, parse_options

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
PATH_OPTIONS = re.compile(r"\?[A-Za-z_]+=[^?]*$")
"""Options at the end of a path."""
ELISION = "…"

Kind = Literal["camera", "csi", "network", "file", "test", "pipeline"]
SUPPORTED: dict[Kind, tuple[str, ...]] = {
    "camera": ("size", "rate", "rotate", "crop", "codec", "timeout"),
    "csi": ("size", "rate", "rotate", "crop", "timeout"),
    "network": ("rotate", "crop", "codec", "timeout"),
    "file": ("rotate", "crop"),
    "test": ("size", "rate", "rotate", "crop", "frames"),
    "pipeline": (),
}
"""Options that each kind of source supports."""
HTTP_SCHEMES = ("http", "https")
RTSP_SCHEMES = ("rtsp", "rtsps")
SUPPORTED_BY_RTSP = (*SUPPORTED["network"], "transport")
LEFT_TO_SERVERS, LEFT_TO_HTTP = ("frames",), ("frames", "size", "rate")
"""Names of options that are a server's own parameters in its address; HTTP cameras have `size` and `rate`."""


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """A parsed address."""

    kind: Kind
    location: str = field(repr=False)
    """A camera's index or device, a sensor's number, the address for the server, a path, or a pipeline."""
    options: SourceOptions
    public: str
    """The address for messages, without secrets."""

    @property
    def path(self) -> Path | None:
        """Path of a file or folder; None for other sources."""
        return Path(self.location) if self.kind == "file" else None

    @property
    def scheme(self) -> str:
        """Protocol of a server, in lower case; empty for other sources."""
        return self.location.partition("://")[0].lower() if self.kind == "network" else ""

    @property
    def is_finite(self) -> bool:
        """True for sources that end and are never lost: files, and test patterns that are not paced."""
        return self.kind == "file" or (self.kind == "test" and self.options.rate == 0)

    def with_crop(self, crop: str) -> "SourceAddress":
        """Return the address with the option `crop`.

        Raises:
            AddressError: it is invalid, the address has one, or it is a pipeline, which has no options.
        """
        if self.kind == "pipeline":
            raise AddressError(
                f"a GStreamer pipeline has no option crop={crop}; add an element such as videocrop to it"
            )
        if self.options.crop is not None:
            raise AddressError(f"{self.public} has two values of crop; leave one out")
        region = parse_options(f"crop={crop}", ("crop",), self.public).crop
        public = f"{self.public}{'?' if self.options == DEFAULTS else '&'}crop={region}"
        return replace(self, options=replace(self.options, crop=region), public=public)


def parse_address(text: str) -> SourceAddress:
    """Return the address of a source.

    Raises:
        AddressError: the address or an option is invalid, or the source does not support an option.
    """
    public = public_address(text)
    if " ! " in text:
        return SourceAddress("pipeline", text, DEFAULTS, public)
    scheme = SCHEME.match(text)
    name = scheme.group()[:-3].lower() if scheme else ""
    kind: Kind = "network"
    if scheme and name not in SCHEMES:
        location, query = _server_and_options(text)
        supported = SUPPORTED_BY_RTSP if name in RTSP_SCHEMES else SUPPORTED[kind]
    else:
        body, query = _split_query(text, is_path=scheme is None)
        kind, location = SCHEMES[name](body, public) if scheme else _path_or_camera(body)
        supported = SUPPORTED[kind]
    options = parse_options(query, supported, public)
    if options.rate == 0 and kind != "test":
        raise AddressError(f"{public} has the option rate=0; give a number of frames per second, or leave it out")
    return SourceAddress(kind, location, options, public)


def public_address(text: str) -> str:
    """Return an address for messages, without the parts that may hold a secret.

    The user, the password and everything from the first parameter on, except valid options, are left out: cameras
    accept passwords in queries (`?user=…&pwd=…`) and in paths (`/user=…_password=…`), under many names. Any property of
    a pipeline may hold a password, so no part of a pipeline is shown. Paths of existing files are unchanged.
    """
    if " ! " in text:
        return "GStreamer pipeline"
    scheme = SCHEME.match(text)
    if os.path.lexists(text) or (scheme and scheme.group()[:-3].lower() in SCHEMES):
        return text
    location, query = _server_and_options(text) if scheme else _split_query(text, is_path=True)
    start = scheme.group() if scheme else ""
    rest = _without_user(location[len(start) :], has_scheme=scheme is not None)
    if not scheme and rest != location:
        start = f"{ELISION}@"
    shown = re.split(r"[?#=]", rest)[0]
    parameters = query.split("&") if query else []
    options = [parameter for parameter in parameters if is_valid(parameter)]
    is_whole = shown == rest and options == parameters
    return f"{start}{shown}{'' if is_whole else ELISION}{'?' if options else ''}{'&'.join(options)}"


def _without_user(rest: str, *, has_scheme: bool = True) -> str:
    """Return the part of an address after `user:password@`; a password may contain any of "/?#@"."""
    user, at, host = rest.rpartition("@")
    is_user = ":" in user or (has_scheme and "@" in re.split(r"[/?#]", rest)[0])
    return host if at and is_user else rest


def _server_and_options(text: str) -> tuple[str, str]:
    """Return an address without its options, and the options."""
    scheme = text.partition("://")[0].lower()
    ours = OPTIONS.keys() - set(LEFT_TO_HTTP if scheme in HTTP_SCHEMES else LEFT_TO_SERVERS)
    rest = _without_user(text.partition("://")[2])
    query = rest.rpartition("?")[2] if "?" in rest else ""
    parameters = query.split("&")
    options = [parameter for parameter in parameters if parameter.partition("=")[0] in ours]
    if not options:
        return text, ""
    left = "&".join(parameter for parameter in parameters if parameter not in options)
    return text[: -len(query) - 1] + (f"?{left}" if left else ""), "&".join(options)


def _split_query(text: str, *, is_path: bool) -> tuple[str, str]:
    """Return an address and its options; a file may have a name that looks like them."""
    if is_path:
        options = None if os.path.lexists(text) else PATH_OPTIONS.search(text)
        return (text[: options.start()], options.group()[1:]) if options else (text, "")
    body, _, query = text.partition("?")
    return body, query


def _path_or_camera(path: str) -> tuple[Kind, str]:
    if path.isascii() and path.isdigit():
        return "camera", path
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return ("camera" if path.startswith("/dev/") else "file"), path
    return ("camera" if stat.S_ISCHR(mode) else "file"), path


def _file(body: str, public: str) -> tuple[Kind, str]:
    path = unquote(body[len("file://") :].removeprefix("localhost"))
    if not path.startswith("/"):
        raise AddressError(f"{public} has no absolute path; write file:///folder/file, or the path alone")
    return _path_or_camera(path)


def _device(body: str, public: str) -> tuple[Kind, str]:
    path = body[len("v4l2://") :]
    if not path.startswith("/dev/"):
        raise AddressError(
            f"{public} does not name a device; write v4l2:///dev/video0, or the camera's index alone (0)"
        )
    return "camera", path


def _sensor(body: str, public: str) -> tuple[Kind, str]:
    number = body[len("csi://") :]
    if not re.fullmatch(r"[0-9]{1,2}", number):
        raise AddressError(f"{public} does not name a sensor; write csi://0 for the first")
    return "csi", number


def _pattern(body: str, public: str) -> tuple[Kind, str]:
    if body.lower() != "test://":
        raise AddressError(f"{public} is not a test pattern; write test:// with options, such as test://?size=640x480")
    return "test", body


SCHEMES: dict[str, Callable[[str, str], tuple[Kind, str]]] = {
    "file": _file,
    "v4l2": _device,
    "csi": _sensor,
    "test": _pattern,
}
"""Schemes of sources on this machine; all others are protocols of servers."""
