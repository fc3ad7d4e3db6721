"""Odd values and mutations of trees of plain values, shared by the fuzzers."""

import copy
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

BOUNDARIES = (0, 1, -1, 2, 7, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1,
              2**63 - 1, 2**63, -(2**63), 2**64, 10**9, 10**12, 10**18, 10**30, 10**400, -(10**400))  # fmt: skip
FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-6, 5e-324, 1e38, 3.5e38, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "", " ", ".", "..", "/", "../manifest.json", "/etc/passwd", "/dev/zero", "a\0b", "\ud800", "x\udfffy", "é", "é",
    "\u202eabc", "\x1b[31mred", "line\nline", "%s%n{}", "[bold]", "a" * 300, "ä" * 200, "b" * 70_000, "nan", "1e999",
    "float32", "image", "cut_0", "fp32", "int8", "segment_0.onnx", "💥", "\ufeff", "-", "0", "None",
)  # fmt: skip


def odd_number(random: Random) -> int | float:
    """Return a number at or beside a boundary, or a special float."""
    if random.random() < 0.3:
        return random.choice(FLOATS)
    return random.choice(BOUNDARIES) + random.choice((0, 0, 0, 1, -1))


def odd_json(random: Random) -> Any:
    """Return a value that JSON can hold, of any type."""
    choices: tuple[Callable[[], Any], ...] = (
        lambda: odd_number(random),
        lambda: random.choice(TEXTS),
        lambda: random.choice((None, True, False, [], {}, [[]], [None], {"": None}, [1, 2, 3, 4, 5])),
        lambda: nested(random.choice((2, 20, 100)), random.choice(("list", "object"))),
        lambda: [odd_number(random)] * random.choice((1, 3, 1000)),
        lambda: {random.choice(TEXTS): odd_number(random)},
    )
    return random.choice(choices)()


def nested(depth: int, kind: str) -> Any:
    """Return lists in lists, or objects in objects."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


Place = tuple[Any, Any]
"""A dict or list, and a key or index in it."""


def places(tree: Any) -> Iterator[Place]:
    """Yield every place in a tree of dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from places(value)


def mutate_tree(random: Random, tree: Any, odd: Callable[[Random], Any]) -> None:
    """Change a tree in one place: replace, remove, add, copy, swap or shift values.

    Args:
        random: Source of all choices.
        tree: Dict or list of plain values, changed in place.
        odd: Returns a value to put anywhere.
    """
    found = list(places(tree))
    holder, key = random.choice(found)
    if random.random() < 0.5:  # by name: fields that are there once are as likely as those of each tensor
        name = random.choice(sorted({str(key) for _, key in found}))
        holder, key = random.choice([place for place in found if str(place[1]) == name])
    value = holder[key]
    action = random.choice(("odd", "odd", "near", "near", "near", "remove", "add", "copy", "swap", "resize"))
    if action == "near":
        holder[key] = near(random, value, odd)
    elif action == "remove":
        del holder[key]
    elif action == "add":
        target = value if isinstance(value, dict | list) else holder
        add(random, target, odd(random))
    elif action == "copy":
        other, other_key = random.choice(found)
        holder[key] = copy.deepcopy(other[other_key])  # no cycles
    elif action == "swap":
        other, other_key = random.choice(found)
        holder[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(value)
    elif action == "resize" and isinstance(value, list):
        holder[key] = random.choice((value[:-1], value + value[-1:], value * 2, value[::-1]))
    else:
        holder[key] = odd(random)


def near(random: Random, value: Any, odd: Callable[[Random], Any]) -> Any:
    """Return an odd value of the same type."""
    if isinstance(value, bool) or value is None:
        return random.choice((True, False, None, 0, "null"))
    if isinstance(value, int):
        small = value if abs(value) < 2**99 else 0
        return random.choice((value + 1, value - 1, -value, float(small), str(small), odd_number(random)))
    if isinstance(value, float):
        return random.choice(
            (random.choice(FLOATS), value * 1e6, -value, odd_number(random), random.choice(BOUNDARIES))
        )
    if isinstance(value, str):
        return random.choice((value[:-1], value + " ", value.upper(), value * 2, random.choice(TEXTS)))
    return odd(random)


def add(random: Random, holder: Any, value: Any) -> None:
    """Add a value to a dict under an odd name, or to a list."""
    if isinstance(holder, dict):
        holder[random.choice(TEXTS)] = value
    else:
        holder.insert(random.randrange(len(holder) + 1), value)


def damage(random: Random, content: bytes, keep: int = 0) -> bytes:
    """Change some bytes after the first `keep`: flip bits, write boundaries, cut, remove, repeat or zero a stretch."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        if len(data) <= keep + 1:
            break
        at = random.randrange(keep, len(data))
        size = random.choice((1, 2, 4, 8, 64, 1000))
        action = random.choice(("flip", "flip", "flip", "number", "number", "cut", "remove", "repeat", "zero", "noise"))
        if action == "flip":
            data[at] ^= 1 << random.randrange(8)
        elif action == "number":
            width = random.choice((1, 2, 4, 8))
            number = random.choice(BOUNDARIES) % (1 << (8 * width))
            data[at : at + width] = number.to_bytes(width, random.choice(("little", "big")))
        elif action == "cut":
            del data[at:]
        elif action == "remove":
            del data[at : at + size]
        elif action == "repeat":
            data[at:at] = data[at : at + size]
        elif action == "zero":
            data[at : at + size] = bytes(len(data[at : at + size]))
        else:
            data[at : at + size] = random.randbytes(len(data[at : at + size]))
    return bytes(data)
