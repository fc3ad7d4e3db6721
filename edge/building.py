"""All engines of a bundle, built into this user's cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from edge.bundle import Bundle
from edge.engines.cache import EngineCache
from edge.protocols import Backend


@dataclass(frozen=True, slots=True)
class Build:
    """One engine."""

    precision: str
    segment: str
    batch: int | None
    """Images at once; None is any number."""
    path: str
    was_cached: bool
    seconds: float
    mebibytes: float


def build_bundle(
    bundle: Bundle, backend: Backend, *, precisions: Sequence[str] | None = None, batches: bool = False
) -> list[Build]:
    """Build the segments, and the whole network to measure them against.

    Args:
        bundle: What to build.
        backend: What builds it.
        precisions: Which; None for all.
        batches: Whether to build engines for many images at once, too.

    Raises:
        BundleError: the bundle does not have a precision.
        EngineError: the backend refuses a segment.
    """
    wanted = [
        (name, segment.file, batch)
        for batch in ([1, None] if batches else [1])
        for name in precisions or bundle.manifest.precisions
        for segment in (*bundle.precision(name).segments, *([bundle.precision(name).whole] if batch else []))
    ]
    cache = EngineCache()
    builds = []
    for precision, file, batch in wanted:
        started = perf_counter()
        built = cache.built(bundle.path / file, backend, batch)
        size = built.path.stat().st_size / 2**20
        builds.append(Build(precision, file, batch, str(built.path), built.was_cached, perf_counter() - started, size))
    return builds
