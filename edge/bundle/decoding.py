"""Strict decoding of parsed JSON to dataclasses."""

import dataclasses
import types
import typing
from functools import cache
from typing import Any, Literal, TypeVar

T = TypeVar("T")

MAX_INTEGER = 2**53
"""Largest integer that every JSON reader and float64 represents exactly."""
MAX_DEPTH = 32
MAX_SHOWN = 200


def decode(kind: type[T], value: Any, where: str) -> T:
    """Decode parsed JSON to a dataclass and its fields to their annotated types.

    Args:
        kind: The dataclass.
        value: Result of `json.loads`.
        where: Name of the value in error messages; fields are appended, as in `manifest.input.mean[0]`.

    Raises:
        ValueError: a field is missing, unknown, or not of its type.
    """
    decoded: T = _decode(kind, value, where)
    return decoded


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if kind is Any:
        return _plain(value, where)
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _decode(inner[0], value, where)
    if origin is Literal:
        return _expect(value in arguments, value, where, f"one of {', '.join(map(repr, arguments))}")
    if origin is tuple:
        _expect(isinstance(value, list | tuple), value, where, "a list")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        _expect(len(kinds) == len(value), value, where, f"{len(kinds)} values")
        return tuple(_decode(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict:
        _expect(isinstance(value, dict), value, where, "an object")
        return {_text(key, where): _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if type(value) is int and kind in (int, float):
        _expect(abs(value) <= MAX_INTEGER, value, where, f"at most {MAX_INTEGER}")
        return kind(value)
    _expect(type(value) is kind, value, where, f"of type {kind.__name__}")
    return _text(value, where) if kind is str else value


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """Check the nesting, numbers and text of a value of any type."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{where} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for key, item in value.items():
            _plain(item, f"{where}.{_text(key, where)}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _plain(item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, str):
        _text(value, where)
    elif type(value) is int:
        _expect(abs(value) <= MAX_INTEGER, value, where, f"at most {MAX_INTEGER}")
    else:
        _expect(value is None or type(value) in (bool, float), value, where, "a number, text, list or object")
    return value


def _text(value: Any, where: str) -> str:
    """Check that a value is text, which can be written to files and terminals."""
    if not isinstance(value, str):
        raise ValueError(f"{where} has the key {shown(value)}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} has the text {shown(value)}, which is not valid Unicode") from None
    return value


@cache
def _type_hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), value, where, "an object")
    hints = _type_hints(kind)
    for name in sorted(_text(key, where) for key in value if key not in hints):
        raise ValueError(f"unknown field {where}.{name[:MAX_SHOWN].encode(errors='replace').decode()}")
    for name in sorted(set(hints) - set(value)):
        raise ValueError(f"missing field {where}.{name}")
    return kind(**{name: _decode(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})


def _expect(condition: bool, value: Any, where: str, expected: str) -> Any:
    if not condition:
        raise ValueError(f"{where} is {shown(value)}, expected {expected}")
    return value


def shown(value: Any) -> str:
    """Return a value for a message, shortened if it is long."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except Exception:  # an integer too long for Python to print, nested too deep, or a tensor where none belongs
        return f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
