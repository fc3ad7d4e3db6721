"""Options of sources: query parameters of an address, such as `rtsp://camera/live?rotate=90&transport=tcp`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import unquote

from edge.errors import AddressError

Codec = Literal["h264", "h265", "mjpeg"]
Transport = Literal["tcp", "udp"]

MAX_SIDE = 1 << 15
MAX_RATE = 1000.0
MAX_TIMEOUT_S = 3600.0


class Crop(NamedTuple):
    """Region of interest in pixels of the upright image."""

    left: int
    top: int
    width: int
    height: int

    def __str__(self) -> str:
        return ",".join(map(str, self))

    def check_inside(self, width: int, height: int, name: str, *, is_nv12: bool) -> None:
        """Check that the region is inside the upright image of a source.

        Raises:
            AddressError: the region exceeds the image, or is odd although the colours of NV12 cover 2x2 pixels.
        """
        right, bottom = self.left + self.width, self.top + self.height
        if right > width or bottom > height:
            raise AddressError(
                f"{name} gives frames of {width}x{height}, and crop={self} reaches to {right}x{bottom}; choose a "
                "region inside"
            )
        if is_nv12 and any(value % 2 for value in self):
            even = Crop(self.left // 2 * 2, self.top // 2 * 2, -(-self.width // 2) * 2, -(-self.height // 2) * 2)
            raise AddressError(
                f"{name} gives NV12 frames, whose colours cover 2x2 pixels, and crop={self} is odd; choose even "
                f"numbers, such as crop={even}"
            )


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Options of a source; None for the source's own value."""

    size: tuple[int, int] | None = None
    """Width and height of a camera's frames, before rotation and crop."""
    rate: float | None = None
    """Frames per second."""
    rotate: int = 0
    """Clockwise rotation to the upright image in degrees: 0, 90, 180 or 270."""
    crop: Crop | None = None
    codec: Codec | None = None
    transport: Transport | None = None
    """Transport of RTSP media."""
    timeout_s: float | None = None
    """Seconds without a frame after which the source counts as lost."""
    frames: int | None = None
    """Number of frames of a test pattern."""


DEFAULTS = SourceOptions()


class _Option(NamedTuple):
    field: str
    parse: Callable[[str], Any]
    """Returns the value, or raises a ValueError."""
    valid: str
    """Valid values, for messages."""


def parse_options(query: str, supported: Sequence[str], name: str) -> SourceOptions:
    """Return the options of a source.

    Args:
        query: Parameters of the address, joined by `&`.
        supported: Names of the options that this kind of source supports.
        name: The source, for messages.

    Raises:
        AddressError: an option is unknown, given twice, invalid, or unsupported by this kind of source.
    """
    values: dict[str, Any] = {}
    for parameter in query.split("&") if query else ():
        option, _, text = parameter.partition("=")
        if option not in supported:
            names = ", ".join(supported)
            raise AddressError(f"{name} has no option {option!r}; leave it out (options of such a source: {names})")
        field, parse, valid = OPTIONS[option]
        if field in values:
            raise AddressError(f"{name} has two values of {option}; leave one out")
        try:
            values[field] = parse(unquote(text))
        except ValueError:
            raise AddressError(f"{name} has the option {parameter}; give {valid}") from None
    return SourceOptions(**values)


def is_valid(parameter: str) -> bool:
    """Check for a known option with a valid value, which cannot contain a secret."""
    option, _, text = parameter.partition("=")
    try:
        OPTIONS[option].parse(unquote(text))
    except (KeyError, ValueError):
        return False
    return True


def _size(text: str) -> tuple[int, int]:
    width, height = _integers(text, r"(\d{1,5})x(\d{1,5})")
    _require(0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE)
    return width, height


def _crop(text: str) -> Crop:
    crop = Crop(*_integers(text, r"(\d{1,5}),(\d{1,5}),(\d{1,5}),(\d{1,5})"))
    _require(crop.width > 0 and crop.height > 0)
    return crop


def _integers(text: str, pattern: str) -> list[int]:
    match = re.fullmatch(pattern, text, re.ASCII)
    _require(match is not None)
    return [int(group) for group in match.groups()] if match else []


def _number(limit: float, *, positive: bool) -> Callable[[str], float]:
    def parse(text: str) -> float:
        _require(re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII) is not None)
        value = float(text)
        _require(value <= limit and (value > 0 or not positive))
        return value

    return parse


def _count(text: str) -> int:
    (count,) = _integers(text, r"(\d{1,9})")
    _require(count > 0)
    return count


def _degrees(text: str) -> int:
    _require(text in ("0", "90", "180", "270"))
    return int(text)


def _choice(field: str, choices: Sequence[str]) -> _Option:
    """Return an option whose value is one of several words."""

    def parse(text: str) -> str:
        _require(text in choices)
        return text

    return _Option(field, parse, f"{', '.join(choices[:-1])} or {choices[-1]}")


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError


OPTIONS = {
    "size": _Option("size", _size, "WIDTHxHEIGHT, such as 1280x720"),
    "rate": _Option("rate", _number(MAX_RATE, positive=False), f"frames a second, up to {MAX_RATE:.0f}"),
    "rotate": _Option("rotate", _degrees, "0, 90, 180 or 270, in degrees clockwise"),
    "crop": _Option("crop", _crop, "LEFT,TOP,WIDTH,HEIGHT in pixels, such as 320,0,640,640"),
    "codec": _choice("codec", get_args(Codec)),
    "transport": _choice("transport", get_args(Transport)),
    "timeout": _Option("timeout_s", _number(MAX_TIMEOUT_S, positive=True), f"seconds, up to {MAX_TIMEOUT_S:.0f}"),
    "frames": _Option("frames", _count, "a number of frames, 1 or more"),
}
