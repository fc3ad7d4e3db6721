"""Damaged files: truncated, changed, or with an edited manifest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.bundle.bundle import MANIFEST


def truncate(path: Path, share: float = 0.5) -> None:
    """Keep the first `share` of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def manifest_edit(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return a function that applies `edit` to the manifest of a bundle."""

    def damage(bundle: Path) -> None:
        data = json.loads((bundle / MANIFEST).read_text())
        edit(data)
        (bundle / MANIFEST).write_text(json.dumps(data))

    return damage
