"""pytest-benchmark suite: `pytest benchmarks --bundle DIR` times every classifier of `edge bench`."""

import itertools
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from edge.bundle.bundle import Bundle
from edge.engines import backend_named
from edge.frames.base import frame_from_array
from edge.measure.bench import bench_classifiers
from edge.parity.pytest_plugin import selected_backends


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Generate a benchmark for each backend, precision and classifier."""
    path = metafunc.config.getoption("edge_bundle")
    if path is None:
        raise pytest.UsageError("the benchmarks need a bundle: pytest benchmarks --bundle DIR")
    manifest = Bundle.open(Path(path)).manifest
    names = ["whole", "early exit", *(f"exit {k} forced" for k in range(len(manifest.exits)))]
    metafunc.parametrize("backend", selected_backends(metafunc.config))
    metafunc.parametrize("precision", list(manifest.precisions))
    metafunc.parametrize("index", range(len(names)), ids=names)


def test_latency(
    benchmark: BenchmarkFixture, request: pytest.FixtureRequest, backend: str, precision: str, index: int
) -> None:
    """Time one frame per round, from the frame being available to the decision being known."""
    bundle = Bundle.open(Path(request.config.getoption("edge_bundle")))
    frames = [frame_from_array(pixels, bundle.manifest.input.kind) for pixels in bundle.reference().frames]
    repeated = itertools.cycle(frames)
    with bench_classifiers(bundle, precision, backend_named(backend)) as classifiers:
        classifier = list(classifiers)[index]
        benchmark(lambda: classifier.predict(next(repeated)))
