"""Built engines, kept for this user on this machine, and given out only where everything they depend on is the same."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.console import busy
from edge.errors import EngineError
from edge.files import folder_aside, folder_locked, sha256_of
from edge.manifest import SegmentSpec
from edge.protocols import Backend, BuildOrder, Engine

ENGINE, ENTRY, LAYERS = "engine", "entry.json", "layers.json"


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine in the cache.

    Attributes:
        path: Its file.
        was_cached: Whether it was there already.
    """

    path: Path
    was_cached: bool


class EngineCache:
    """A folder of built engines, one subfolder each, named by a digest of all the engine depends on."""

    def __init__(self, root: Path | None = None) -> None:
        """Use `root`; by default `$EDGE_CACHE`, else `early-exit` in the user's cache folder.

        Raises:
            EngineError: the folder belongs to somebody else. Engines are code.
        """
        self.root = root or default_root()
        if self.root.exists() and self.root.stat().st_uid != os.getuid():
            raise EngineError(
                f"engine cache {self.root} belongs to another user; set EDGE_CACHE to a folder of your own"
            )

    def built(self, segment: Path, backend: Backend, batch: int | None) -> BuiltEngine:
        """Return a segment's engine, building it where it is missing, damaged or made for anything else.

        Raises:
            EngineError: the backend refuses the segment.
        """
        key = {"segment": sha256_of(segment), "backend": backend.name, "batch": str(batch)}
        key |= backend.device_key()
        folder = self.root / _digest(key)
        if _is_intact(folder, key):
            return BuiltEngine(folder / ENGINE, was_cached=True)
        with folder_locked(self.root):
            if _is_intact(folder, key):  # another process built it meanwhile
                return BuiltEngine(folder / ENGINE, was_cached=True)
            self._build(segment, backend, batch, folder, key)
        return BuiltEngine(folder / ENGINE, was_cached=False)

    def _build(self, segment: Path, backend: Backend, batch: int | None, folder: Path, key: dict[str, str]) -> None:
        timings = self.root / f"timings-{_digest(backend.device_key() | {'backend': backend.name})}"
        with folder_aside(folder) as aside:
            with busy(f"building {segment.parent.name}/{segment.name} for {backend.name}") as tell:
                backend.build(BuildOrder(segment, batch, aside / ENGINE, aside / LAYERS, timings), tell)
            entry = {"key": key, "sha256": sha256_of(aside / ENGINE)}
            (aside / ENTRY).write_text(json.dumps(entry, indent=2))


def load_engines(
    folder: Path,
    segments: Sequence[SegmentSpec],
    backend: Backend,
    *,
    batch: int | None = 1,
) -> list[Engine]:
    """Return runnable engines for segments in a bundle's folder, building those that the cache lacks."""
    cache = EngineCache()
    return [backend.load(cache.built(folder / segment.file, backend, batch).path, segment) for segment in segments]


def default_root() -> Path:
    """Return where engines are kept unless told otherwise."""
    if root := os.environ.get("EDGE_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "early-exit" / "engines"


def _digest(key: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _is_intact(folder: Path, key: dict[str, str]) -> bool:
    try:
        entry = json.loads((folder / ENTRY).read_text())
        return bool(entry["key"] == key and entry["sha256"] == sha256_of(folder / ENGINE))
    except (OSError, ValueError, KeyError, TypeError):
        return False
