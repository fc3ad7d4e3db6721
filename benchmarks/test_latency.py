"""pytest-benchmark suite: `pytest benchmarks --bundle DIR` times each way to classify the reference samples."""

import itertools
from contextlib import ExitStack
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from edge.bench import candidates_of
from edge.bundle import Bundle
from edge.engines import backend_named
from edge.parity_plugin import chosen_backends


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one benchmark for each backend, precision and way to classify."""
    path = metafunc.config.getoption("edge_bundle")
    if path is None:
        raise pytest.UsageError("the benchmarks need a bundle: pytest benchmarks --bundle DIR")
    manifest = Bundle.open(Path(path)).manifest
    ways = ["whole", "early exit", *(f"exit {k} forced" for k in range(len(manifest.exits)))]
    metafunc.parametrize("backend", chosen_backends(metafunc.config))
    metafunc.parametrize(("precision", "way"), list(itertools.product(manifest.precisions, ways)))


def test_latency(
    benchmark: BenchmarkFixture, request: pytest.FixtureRequest, backend: str, precision: str, way: str
) -> None:
    """Time one frame after the other, from the frame being there to the decision being known."""
    bundle = Bundle.open(Path(request.config.getoption("edge_bundle")))
    candidates = candidates_of(bundle, precision, backend_named(backend))
    frames = itertools.cycle(bundle.reference().frames)
    with ExitStack() as stack:
        for candidate in candidates.values():
            stack.callback(candidate.close)
        benchmark(lambda: candidates[way](next(frames)))
