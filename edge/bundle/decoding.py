"""Strict decoding of parsed JSON to dataclasses."""

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar

T = TypeVar("T")


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
        return value
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
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    return _expect(type(value) is kind, value, where, f"of type {kind.__name__}")


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), value, where, "an object")
    hints = typing.get_type_hints(kind)
    for name in sorted(set(value) - set(hints)):
        raise ValueError(f"unknown field {where}.{name}")
    for name in sorted(set(hints) - set(value)):
        raise ValueError(f"missing field {where}.{name}")
    return kind(**{name: _decode(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})


def _expect(condition: bool, value: Any, where: str, expected: str) -> Any:
    if not condition:
        raise ValueError(f"{where} is {value!r}, expected {expected}")
    return value
