"""Backend, precision and threads of a bundle on this machine: those asked for, else the fastest that were measured.

`edge build` measures them (`edge.measure.tuning`) and keeps the times beside the engines.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from edge.bundle.bundle import Bundle
from edge.cuda.base import Sync
from edge.engines import CPU_BACKENDS, backend_named, default_backend
from edge.engines.base import Backend
from edge.engines.prune import mark_used
from edge.storage import cache_root, private_cache_root, read_file, write_file
from edge.system import cpu_identity, usable_cores

MIXED_PRECISION = "auto"
"""Name of the mixed precision: each segment has the fastest precision that keeps the predictions."""
MAX_TIMINGS_BYTES = 1 << 20

Threads = int | Literal["auto"]
"""CPU threads per segment; 0 uses all cores."""


class Timing(NamedTuple):
    """Mean time of a frame, exits really taken."""

    backend: str
    precision: str
    threads: int
    mean_ms: float

    def __str__(self) -> str:
        return f"{self.precision} on {self.backend}{_threads_suffix(self.threads)} {self.mean_ms:.3f} ms"


class Selection(NamedTuple):
    """A way to run a bundle."""

    backend: Backend
    precision: str
    threads: int

    def __str__(self) -> str:
        return f"{self.precision} on {self.backend.name}{_threads_suffix(self.threads)}"


def select(
    bundle: Bundle,
    backend: str = "auto",
    precision: str = "auto",
    threads: Threads = 1,
    *,
    gpu_sync: Sync | None = None,
) -> Selection:
    """Select what is not given: the fastest way that `edge build` measured here, else the defaults.

    Args:
        bundle: The bundle.
        backend: A backend; `auto` for TensorRT where there is a GPU, else the fastest that was measured, else ONNX
            Runtime.
        precision: A precision of the bundle; `auto` for `default_precision`.
        threads: CPU threads per segment; `auto` for the fastest number that was measured, else 1.
        gpu_sync: How threads wait for a GPU; see `edge.engines.backend_named`.

    Raises:
        EngineError: the backend is unknown or not installed, or does not have the option.
    """
    if backend == "auto" and (default := default_backend()) not in CPU_BACKENDS:
        backend = default
    fastest = fastest_timing(bundle, backend, precision, threads)
    if fastest is not None:
        library = backend_named(fastest.backend, threads=fastest.threads, gpu_sync=gpu_sync)
        return Selection(library, fastest.precision, fastest.threads)
    count = 1 if threads == "auto" else threads
    library = backend_named(backend, threads=count, gpu_sync=gpu_sync)
    return Selection(library, default_precision(bundle, library.name) if precision == "auto" else precision, count)


def fastest_timing(bundle: Bundle, backend: str, precision: str, threads: Threads) -> Timing | None:
    """Return the shortest of this machine's timings, among those with the values that are not `auto`."""
    if backend != "auto" and threads != "auto":
        return None
    candidates = [
        timing
        for timing in read_timings(bundle)
        if backend in ("auto", timing.backend)
        and threads in ("auto", timing.threads)
        and timing.precision == (default_precision(bundle, timing.backend) if precision == "auto" else precision)
    ]
    return min(candidates, key=lambda timing: timing.mean_ms, default=None)


def default_precision(bundle: Bundle, backend: str) -> str:
    """Return the bundle's fastest precision on a backend; ONNX Runtime emulates int8 in float."""
    fastest = "fp32" if backend == "onnxruntime" else "int8"
    available = bundle.manifest.precisions
    return next((name for name in (MIXED_PRECISION, fastest) if name in available), next(iter(available)))


def read_timings(bundle: Bundle) -> list[Timing]:
    """Return the timings of a bundle on this machine, with the installed versions; none if they were not measured."""
    path = _timings_path(cache_root(), bundle)
    with suppress(OSError, ValueError, TypeError, RecursionError):
        timings = [Timing(*values) for values in json.loads(read_file(path, MAX_TIMINGS_BYTES))]
        if all(_is_valid(timing, bundle) for timing in timings):
            mark_used(path)
            return timings
    return []


def write_timings(bundle: Bundle, timings: Sequence[Timing]) -> None:
    """Keep timings of a bundle on this machine, in place of earlier ones of the same kinds.

    Raises:
        EngineError: the engine cache belongs to another user.
    """
    root = private_cache_root()
    kept = {timing[:3]: timing for timing in (*read_timings(bundle), *timings)}
    write_file(_timings_path(root, bundle), json.dumps(list(kept.values())))


def _timings_path(root: Path, bundle: Bundle) -> Path:
    """Return the file of a bundle's timings, named by a digest of all that they depend on."""
    key = {
        "segments": {name: bundle.segments_digest(name) for name in bundle.manifest.precisions},
        "thresholds": {name: spec.thresholds.values for name, spec in bundle.manifest.precisions.items()},
        "versions": [_version(name) for name in CPU_BACKENDS],
        "cpu": f"{cpu_identity()}, {usable_cores()} cores",
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return root / f"timings-of-{digest[:32]}.json"


def _is_valid(timing: Timing, bundle: Bundle) -> bool:
    return (
        timing.backend in CPU_BACKENDS
        and timing.precision in bundle.manifest.precisions
        and type(timing.threads) is int
        and type(timing.mean_ms) is float
        and timing.threads >= 0
    )


def _threads_suffix(threads: int) -> str:
    """Return the number of threads for people; one is not mentioned."""
    return {0: " with all cores", 1: ""}.get(threads, f" with {threads} threads")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
