"""`edge build`: engines of all segments of a bundle, in this user's cache."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from edge.bundle.bundle import Bundle
from edge.cli.arguments import add_backend, add_bundle, add_precisions, open_bundle
from edge.console import PASSED, ProgressDisplay, print_json, print_table
from edge.engines import backend_named
from edge.engines.base import Backend
from edge.engines.cache import EngineCache
from edge.engines.subprocess_build import shared_process
from edge.progress import OnProgress, ignore_progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge build`."""
    add_bundle(parser)
    add_backend(parser)
    parser.add_argument(
        "--target",
        metavar="SM",
        help="GPU to build for, such as sm89 (tensorrt-rtx only; default: Ampere and all later GPUs)",
    )
    add_precisions(parser, "build")
    parser.add_argument("--batches", action="store_true", help="also build engines for any batch size")


def main(arguments: argparse.Namespace) -> int:
    """Build every segment's engine."""
    bundle = open_bundle(arguments)
    backend = backend_named(arguments.backend, threads=arguments.threads, target=arguments.target)
    with ProgressDisplay() as display, shared_process():
        builds = build_bundle(
            bundle, backend, precisions=arguments.precision, batches=arguments.batches, on_progress=display
        )
    if arguments.json:
        print_json([dataclasses.asdict(build) for build in builds])
    else:
        print_builds(builds)
    return PASSED


@dataclass(frozen=True, slots=True)
class Build:
    """One built engine."""

    precision: str
    segment: str
    batch: int | None
    """Samples per call; None for any number."""
    path: str
    was_cached: bool
    seconds: float
    mebibytes: float


def build_bundle(
    bundle: Bundle,
    backend: Backend,
    *,
    precisions: Sequence[str] | None = None,
    batches: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> list[Build]:
    """Build engines of the segments, and of the whole network for comparison.

    Args:
        bundle: The bundle.
        backend: The library to build with.
        precisions: Precisions to build; by default all.
        batches: Also build engines for any batch size.
        on_progress: Receives the progress of each build.

    Raises:
        BundleError: the bundle does not have a precision.
        EngineError: the backend refuses a segment.
    """
    requested = [
        (name, segment.file, batch)
        for batch in ([1, None] if batches else [1])
        for name in precisions or bundle.manifest.precisions
        for segment in (*bundle.precision(name).segments, *([bundle.precision(name).whole] if batch else []))
    ]
    cache = EngineCache()
    builds = []
    for precision, file, batch in requested:
        started = perf_counter()
        sha256 = bundle.manifest.files[file]
        built = cache.get(bundle.path / file, backend, batch, on_progress, sha256=sha256)
        size = built.path.stat().st_size / 2**20
        builds.append(Build(precision, file, batch, str(built.path), built.was_cached, perf_counter() - started, size))
    return builds


def print_builds(builds: Sequence[Build]) -> None:
    """Print a table of engines."""
    rows = [
        (
            build.precision,
            build.segment,
            str(build.batch or "any"),
            "cached" if build.was_cached else f"built in {build.seconds:.1f} s",
            f"{build.mebibytes:.1f} MiB",
        )
        for build in builds
    ]
    print_table("engines", ("precision", "segment", "batch", "engine", "size"), rows)
