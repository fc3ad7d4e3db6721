"""This user's cache of built engines, keyed by all properties that an engine depends on."""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.bundle.manifest import SegmentSpec
from edge.engines.base import Backend, BuildOrder
from edge.engines.prune import mark_used, prune
from edge.engines.subprocess_build import shared_process
from edge.errors import EngineError
from edge.progress import OnProgress, Progress, ignore_progress
from edge.storage import (
    atomic_dir,
    cache_root,
    check_private,
    holder,
    locked_file,
    private_cache_root,
    read_file,
    sha256_of,
)

ENGINE, ENTRY, LAYERS, TIMINGS = "engine", "entry.json", "layers.json", "timings"
MAX_ENTRY_BYTES = 1 << 20
WAIT_LIMIT = "EDGE_CACHE_WAIT"
"""Environment variable: seconds to wait for another process that builds the same engine; unlimited if unset."""
LOG_AFTER_S = 5.0
"""Seconds after which a wait is logged, since progress is shown on terminals only."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine in the cache."""

    path: Path
    was_cached: bool
    """False if this call built it."""


class EngineCache:
    """A folder of built engines. Each has a subfolder, named by a digest of its key."""

    def __init__(self, root: Path | None = None) -> None:
        """Use `root`; by default `edge.storage.cache_root`.

        Raises:
            EngineError: the folder belongs to another user, or others may write to it. Engines are code, so
                foreign engines are not loaded.
        """
        self.root = root or cache_root()
        if self.root.exists():
            check_private(self.root, self.root)

    def get(
        self,
        segment: Path,
        backend: Backend,
        batch: int | None,
        on_progress: OnProgress = ignore_progress,
        *,
        sha256: str | None = None,
    ) -> BuiltEngine:
        """Return a segment's engine; build it if it is missing, damaged or stale.

        Args:
            segment: The ONNX file.
            backend: The library to build with.
            batch: Samples per call; None for any number.
            on_progress: Receives the progress of building, and of waiting for another process that builds it.
            sha256: The file's expected sha256; a file with another is refused. None to compute it.

        Raises:
            EngineError: the backend refuses the segment, the file changed, or another user may have written the entry.
        """
        key = {"segment": sha256 or sha256_of(segment), "backend": backend.name, "batch": str(batch)}
        key |= backend.device_key()
        folder = self.root / _digest(key)
        if self._is_intact(folder, key):
            mark_used(folder)
            return BuiltEngine(folder / ENGINE, was_cached=True)
        private_cache_root(self.root)
        task = f"building {segment.parent.name}/{segment.name} for {backend.name}"
        with self._locked(folder, task, on_progress):
            if self._is_intact(folder, key):  # another process built it meanwhile
                on_progress(Progress(task, 1, 1))
                return BuiltEngine(folder / ENGINE, was_cached=True)
            _check_unchanged(segment, key["segment"])
            self._build(segment, backend, batch, folder, key, task, on_progress)
        prune(self.root)
        return BuiltEngine(folder / ENGINE, was_cached=False)

    @contextmanager
    def _locked(self, folder: Path, task: str, on_progress: OnProgress) -> Iterator[None]:
        """Hold the lock of an entry; report and log that another process holds it."""
        lock, limit_s = folder.with_name(f".{folder.name}.lock"), _wait_limit_s()
        was_logged = False

        def on_wait(waited_s: float) -> None:
            nonlocal was_logged
            other = f"another process ({holder(lock) or 'unknown'}), which builds it"
            on_progress(Progress(task, note=f"waiting for {other}"))
            if waited_s > LOG_AFTER_S and not was_logged:
                was_logged = True
                logger.warning("%s: waiting for %s; it holds %s; limit the wait with %s", task, other, lock, WAIT_LIMIT)

        with ExitStack() as stack:
            try:
                stack.enter_context(locked_file(lock, on_wait, limit_s))
            except TimeoutError as error:
                raise EngineError(
                    f"{task}: waited {limit_s:g} s for another process ({holder(lock) or 'unknown'}) that builds it "
                    f"and holds {lock}; end that process, raise {WAIT_LIMIT}, or set EDGE_CACHE to another folder"
                ) from error
            yield

    def _build(
        self,
        segment: Path,
        backend: Backend,
        batch: int | None,
        folder: Path,
        key: dict[str, str],
        task: str,
        on_progress: OnProgress,
    ) -> None:
        on_progress(Progress(task))
        timings = self.root / f"timings-{_digest(backend.device_key() | {'backend': backend.name})}"
        with atomic_dir(folder, mode=0o700) as partial:
            order = BuildOrder(segment, batch, partial / ENGINE, partial / LAYERS, partial / TIMINGS)
            with suppress(FileNotFoundError):
                shutil.copyfile(timings, order.timing_cache)
            backend.build(order, lambda phase: on_progress(Progress(task, note=phase)))
            with suppress(FileNotFoundError):
                os.replace(order.timing_cache, timings)
            entry = {"key": key, "sha256": sha256_of(partial / ENGINE)}
            (partial / ENTRY).write_text(json.dumps(entry, indent=2))
            for file in partial.iterdir():
                file.chmod(0o600)
            _check_unchanged(segment, key["segment"])
        on_progress(Progress(task, 1, 1))

    def _is_intact(self, folder: Path, key: dict[str, str]) -> bool:
        """Check an entry's owner and permissions, key and content.

        Raises:
            EngineError: another user may have written it.
        """
        try:
            for path in (folder, folder / ENTRY, folder / ENGINE):
                check_private(path, self.root)
            entry = json.loads(read_file(folder / ENTRY, MAX_ENTRY_BYTES))
            return bool(entry["key"] == key and entry["sha256"] == sha256_of(folder / ENGINE))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False


def load_engines(
    folder: Path,
    segments: Sequence[SegmentSpec],
    backend: Backend,
    *,
    batch: int | None = 1,
    on_progress: OnProgress = ignore_progress,
    files: Mapping[str, str] | None = None,
) -> list[Any]:
    """Return runnable engines for the segments in a bundle's folder; build the engines that the cache lacks.

    Args:
        folder: The bundle.
        segments: The segments to load.
        backend: The library to run them with.
        batch: Samples per call; None for any number.
        on_progress: Receives the progress of building.
        files: sha256 of each file, as in the manifest; other files are refused.

    Raises:
        EngineError: an engine cannot be built or run here.
    """
    cache, files = EngineCache(), files or {}
    engines = []
    with shared_process():
        for segment in segments:
            sha256 = files.get(segment.file)
            built = cache.get(folder / segment.file, backend, batch, on_progress, sha256=sha256)
            engines.append(backend.load(built.path, segment))
    return engines


def _digest(key: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _check_unchanged(segment: Path, sha256: str) -> None:
    """Check the sha256 of a segment's file.

    Raises:
        EngineError: the file was replaced.
    """
    if sha256_of(segment) != sha256:
        raise EngineError(f"{segment} was replaced while it was in use (other sha256); run the command again")


def _wait_limit_s() -> float | None:
    """Return the longest wait for another process, from the environment; None waits without a limit."""
    text = os.environ.get(WAIT_LIMIT)
    if not text:
        return None
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise EngineError(f"{WAIT_LIMIT} is {text!r}, expected seconds of 0 or more; correct or unset it")
    return limit
