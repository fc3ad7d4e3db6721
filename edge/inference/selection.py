"""Backend, precision and threads of a bundle on this machine: those asked for, else the defaults or faster ones.

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
from edge.engines import CPU_BACKENDS, backend_named, known_backend
from edge.engines.base import Backend
from edge.engines.prune import mark_used
from edge.errors import UnavailableError
from edge.storage import cache_root, private_cache_root, read_file, write_file
from edge.system import cpu_identity, usable_cores

MIXED_PRECISION = "auto"
"""Name of the mixed precision: each segment has the fastest precision that keeps the predictions."""
MAX_TIMINGS_BYTES = 1 << 20
MIN_GAIN = 0.05
"""Share of the default way's time that another way must save to be taken: less may be noise."""
TIMINGS_VERSION = 2
"""Timings of version 1 were of ways whose predictions nobody had checked."""
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "openvino")
"""Packages that contain the libraries of `CPU_BACKENDS`."""

Threads = int | Literal["auto"]
"""CPU threads per segment; 0 uses all cores."""


class Way(NamedTuple):
    """A way to run a bundle."""

    backend: str
    precision: str
    threads: int

    def __str__(self) -> str:
        """Return it for people; one thread is not mentioned."""
        suffix = {0: " with all cores", 1: ""}.get(self.threads, f" with {self.threads} threads")
        return f"{self.precision} on {self.backend}{suffix}"


class Timing(NamedTuple):
    """Mean time of a frame, exits really taken."""

    backend: str
    precision: str
    threads: int
    mean_ms: float

    @property
    def way(self) -> Way:
        """The way that was measured."""
        return Way(self.backend, self.precision, self.threads)

    def __str__(self) -> str:
        return f"{self.way} {self.mean_ms:.3f} ms"


class Selection(NamedTuple):
    """A way to run a bundle, with its backend."""

    backend: Backend
    precision: str
    threads: int

    def __str__(self) -> str:
        return str(Way(self.backend.name, self.precision, self.threads))


def select(
    bundle: Bundle,
    backend: str = "auto",
    precision: str = "auto",
    threads: Threads = 1,
    *,
    gpu_sync: Sync | None = None,
) -> Selection:
    """Return the way of `fastest_way` with its backend.

    Args:
        bundle: The bundle.
        backend: See `fastest_way`, as for `precision` and `threads`.
        precision: A precision of the bundle, or `auto`.
        threads: CPU threads per segment, or `auto`.
        gpu_sync: How threads wait for a GPU; see `edge.engines.backend_named`.

    Raises:
        EngineError: the backend is unknown or not installed, or does not have the option.
    """
    way = fastest_way(bundle, backend, precision, threads)
    return Selection(backend_named(way.backend, threads=way.threads, gpu_sync=gpu_sync), way.precision, way.threads)


def fastest_way(bundle: Bundle, backend: str = "auto", precision: str = "auto", threads: Threads = 1) -> Way:
    """Return the default way to run a bundle, or one that `edge build` measured here to be faster; loads no library.

    Args:
        bundle: The bundle.
        backend: A backend; `auto` for TensorRT where there is a GPU, else ONNX Runtime or a faster one.
        precision: A precision of the bundle; `auto` for `default_precision`.
        threads: CPU threads per segment; `auto` for 1 or a faster number.

    Raises:
        EngineError: the backend is unknown.
    """
    by_default = known_backend(backend)
    names = CPU_BACKENDS if backend == "auto" and by_default in CPU_BACKENDS else (by_default,)
    precisions = {name: default_precision(bundle, name) if precision == "auto" else precision for name in names}
    default = Way(by_default, precisions[by_default], 1 if threads == "auto" else threads)
    measured = [
        timing
        for timing in read_timings(bundle)
        if precisions.get(timing.backend) == timing.precision and threads in ("auto", timing.threads)
    ]
    default_ms = next((timing.mean_ms for timing in measured if timing.way == default), 0.0)  # nothing is faster than 0
    faster = [timing for timing in measured if timing.mean_ms <= default_ms * (1 - MIN_GAIN)]
    return min(faster, key=lambda timing: timing.mean_ms).way if faster else default


def default_precision(bundle: Bundle, backend: str) -> str:
    """Return the bundle's fastest precision on a backend; ONNX Runtime emulates int8 in float."""
    fastest = "fp32" if backend == "onnxruntime" else "int8"
    available = bundle.manifest.precisions
    return next((name for name in (MIXED_PRECISION, fastest) if name in available), next(iter(available)))


def read_timings(bundle: Bundle) -> list[Timing]:
    """Return the timings of a bundle on this machine, with the installed versions; none if they were not measured."""
    with suppress(UnavailableError, OSError, ValueError, TypeError, RecursionError):  # a user may have no cache
        path = _timings_path(cache_root(), bundle)
        timings = [Timing(*values) for values in json.loads(read_file(path, MAX_TIMINGS_BYTES))]
        if all(_is_valid(timing, bundle) for timing in timings):
            mark_used(path)
            return timings
    return []


def write_timings(bundle: Bundle, timings: Sequence[Timing]) -> None:
    """Keep timings of a bundle on this machine, measured together, in place of all earlier ones.

    Raises:
        EngineError: the engine cache belongs to another user.
    """
    write_file(_timings_path(private_cache_root(), bundle), json.dumps(timings))


def _timings_path(root: Path, bundle: Bundle) -> Path:
    """Return the file of a bundle's timings, named by a digest of all that they depend on but the thresholds.

    Without timings, thresholds that are fitted again would change the backend.
    """
    key = {
        "segments": {name: bundle.segments_digest(name) for name in bundle.manifest.precisions},
        "versions": [_version(name) for name in DISTRIBUTIONS],
        "cpu": f"{cpu_identity()}, {usable_cores()} cores",
        "version": str(TIMINGS_VERSION),
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
        and timing.mean_ms > 0
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
