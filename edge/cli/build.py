"""`edge build`: engines of all segments of a bundle, in this user's cache."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from edge.bundle.bundle import Bundle
from edge.cli.arguments import add_backend, add_bundle, add_precisions, open_bundle
from edge.console import PASSED, ProgressDisplay, log, print_json, print_table
from edge.engines import CPU_BACKENDS, backend_named, default_backend, installed_cpu_backends
from edge.engines.base import Backend
from edge.engines.cache import EngineCache
from edge.engines.subprocess_build import shared_process
from edge.errors import EdgeError
from edge.inference.selection import fastest_way, read_timings, write_timings
from edge.measure.tuning import tune
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
    precisions = arguments.precision or list(bundle.manifest.precisions)
    names = (installed_cpu_backends() if is_cpu_auto(arguments) else []) or [arguments.backend]
    counts = (1, 0) if arguments.threads == "auto" else (arguments.threads,)
    builds: dict[str, list[Build]] = {}
    with ProgressDisplay() as display, shared_process():
        for name in names:
            try:
                backend = backend_named(name, threads=counts[0], target=arguments.target)
                builds[backend.name] = build_bundle(
                    bundle, backend, precisions=precisions, batches=arguments.batches, on_progress=display
                )
            except EdgeError as error:
                if name == names[0]:
                    raise
                log(f"warning: auto leaves out {name}: {error}")
        if len(builds) * len(counts) > 1 and backend.device == "cpu":
            write_timings(bundle, tune(bundle, builds, precisions, counts, display))
    if arguments.json:
        print_json([dataclasses.asdict(build) for built in builds.values() for build in built])
    else:
        for built in builds.values():
            print_builds(built)
        print_timings(bundle)
    return PASSED


def is_cpu_auto(arguments: argparse.Namespace) -> bool:
    """Check for a choice among the backends on the CPU: none is named, and no GPU is used or built for."""
    return arguments.backend == "auto" and arguments.target is None and default_backend() in CPU_BACKENDS


@dataclass(frozen=True, slots=True)
class Build:
    """One built engine."""

    backend: str
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
        builds.append(
            Build(
                backend.name, precision, file, batch, str(built.path), built.was_cached, perf_counter() - started, size
            )
        )
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
    print_table(f"engines for {builds[0].backend}", ("precision", "segment", "batch", "engine", "size"), rows)


def print_timings(bundle: Bundle) -> None:
    """Print the ways to run a bundle that were measured on this machine, the fastest first."""
    timings = sorted(read_timings(bundle), key=lambda timing: timing.mean_ms)
    if timings:
        print(f"mean time of a frame on this machine: {'; '.join(map(str, timings))}")
        print(f"auto: {fastest_way(bundle)}")
        if any(timing.threads != 1 for timing in timings):
            print(f"auto with --threads auto: {fastest_way(bundle, threads='auto')}")
