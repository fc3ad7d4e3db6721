"""This user's cache of built engines, keyed by everything that an engine depends on."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.bundle.manifest import SegmentSpec
from edge.engines.base import Backend, BuildOrder
from edge.errors import EngineError
from edge.progress import OnProgress, Progress, ignore_progress
from edge.storage import atomic_dir, cache_root, locked_dir, sha256_of

ENGINE, ENTRY, LAYERS = "engine", "entry.json", "layers.json"


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine in the cache."""

    path: Path
    was_cached: bool
    """False where it was built by this call."""


class EngineCache:
    """A folder of built engines. Each has a subfolder, named by a digest of its key."""

    def __init__(self, root: Path | None = None) -> None:
        """Use `root`; by default `edge.storage.cache_root`.

        Raises:
            EngineError: the folder belongs to another user. Engines are code.
        """
        self.root = root or cache_root()
        if self.root.exists() and self.root.stat().st_uid != os.getuid():
            raise EngineError(
                f"engine cache {self.root} belongs to another user; set EDGE_CACHE to a folder of your own"
            )

    def get(
        self, segment: Path, backend: Backend, batch: int | None, on_progress: OnProgress = ignore_progress
    ) -> BuiltEngine:
        """Return a segment's engine; build it where it is missing, damaged or stale.

        Raises:
            EngineError: the backend refuses the segment.
        """
        key = {"segment": sha256_of(segment), "backend": backend.name, "batch": str(batch)}
        key |= backend.device_key()
        folder = self.root / _digest(key)
        if _is_intact(folder, key):
            return BuiltEngine(folder / ENGINE, was_cached=True)
        with locked_dir(self.root):
            if _is_intact(folder, key):  # another process built it meanwhile
                return BuiltEngine(folder / ENGINE, was_cached=True)
            self._build(segment, backend, batch, folder, key, on_progress)
        return BuiltEngine(folder / ENGINE, was_cached=False)

    def _build(
        self,
        segment: Path,
        backend: Backend,
        batch: int | None,
        folder: Path,
        key: dict[str, str],
        on_progress: OnProgress,
    ) -> None:
        task = f"building {segment.parent.name}/{segment.name} for {backend.name}"
        on_progress(Progress(task))
        timings = self.root / f"timings-{_digest(backend.device_key() | {'backend': backend.name})}"
        with atomic_dir(folder) as partial:
            order = BuildOrder(segment, batch, partial / ENGINE, partial / LAYERS, timings)
            backend.build(order, lambda phase: on_progress(Progress(task, note=phase)))
            entry = {"key": key, "sha256": sha256_of(partial / ENGINE)}
            (partial / ENTRY).write_text(json.dumps(entry, indent=2))
        on_progress(Progress(task, 1, 1))


def load_engines(
    folder: Path,
    segments: Sequence[SegmentSpec],
    backend: Backend,
    *,
    batch: int | None = 1,
    on_progress: OnProgress = ignore_progress,
) -> list[Any]:
    """Return runnable engines for the segments in a bundle's folder; build the engines that the cache lacks.

    Raises:
        EngineError: an engine cannot be built or run here.
    """
    cache = EngineCache()
    return [
        backend.load(cache.get(folder / segment.file, backend, batch, on_progress).path, segment)
        for segment in segments
    ]


def _digest(key: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _is_intact(folder: Path, key: dict[str, str]) -> bool:
    try:
        entry = json.loads((folder / ENTRY).read_text())
        return bool(entry["key"] == key and entry["sha256"] == sha256_of(folder / ENGINE))
    except (OSError, ValueError, KeyError, TypeError):
        return False
