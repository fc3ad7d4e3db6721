"""Metrics for Prometheus at `/metrics`, and health at `/healthz`: two routes of the web server."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from time import monotonic
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge.live.health import health
from edge.live.messages import COUNTS
from edge.live.outputs.base import OutputQueue
from edge.live.statistics import LATENCY_BOUNDS_MS, SourceStatistics, Statistics

BOUNDS_S = tuple(str(bound / 1e3) for bound in LATENCY_BOUNDS_MS)


def metrics_route(collector: "StatisticsCollector") -> Route:
    """Return the route of statistics, and of this process's CPU time and memory."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return Route("/metrics", metrics)


def health_route(statistics: Statistics, timeout_s: float) -> Route:
    """Return the route of health: status 503 where a source gave no result for longer than the timeout."""

    async def answer(request: Request) -> Response:
        now = health(statistics, timeout_s)
        return JSONResponse(now.to_json(), status_code=200 if now.is_healthy else 503)

    return Route("/healthz", answer)


class StatisticsCollector(Collector):
    """Statistics as metric families, made when Prometheus asks."""

    def __init__(self, statistics: Statistics) -> None:
        """Read these statistics."""
        self.queues: Sequence[OutputQueue] = ()
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        """Yield all metric families."""
        with self._statistics.sources() as sources:
            yield from _counters(sources)
            yield from _exits_and_events(sources)
            yield from _times(sources)
            yield from _audits_and_alarms(sources)
            yield _bundles(sources)
        yield _family("edge_output_dropped", "Messages dropped, since the output was late", "output",
                      ((queue.output.name, queue.dropped) for queue in self.queues))  # fmt: skip
        yield _family("edge_output_failures", "Calls of the output that failed", "output",
                      ((queue.output.name, queue.failed) for queue in self.queues))  # fmt: skip


def _counters(sources: dict[str, SourceStatistics]) -> Iterator[Metric]:
    for name, help_text in (
        ("frames", "Classified frames"),
        ("dropped", "Frames dropped, since inference was late"),
        ("skipped", "Frames that the trigger left out"),
        ("damaged", "Damaged frames or files left out"),
        ("reconnects", "Connections to the source after the first"),
        ("bundle_swaps", "Bundles of a followed tag that replaced another"),
        ("bundles_refused", "Bundles of a followed tag that were refused"),
        ("follow_faults", "Failed attempts to ask the registry or to pull"),
    ):
        title = f"edge_frames_{name}" if name in COUNTS else f"edge_{name}"
        yield _family(title, help_text, "source", ((key, getattr(each, name)) for key, each in sources.items()))


def _exits_and_events(sources: dict[str, SourceStatistics]) -> Iterator[Metric]:
    exits = CounterMetricFamily("edge_exits", "Classified frames by the exit that answered", labels=("source", "exit"))
    events = CounterMetricFamily("edge_events", "States that began or ended", labels=("source", "event", "label"))
    for name, source in sources.items():
        for index, count in sorted(source.exits.items()):
            exits.add_metric((name, str(index)), count)
        for (kind, label), count in source.events.items():
            events.add_metric((name, kind, label), count)
    yield exits
    yield events


def _audits_and_alarms(sources: dict[str, SourceStatistics]) -> Iterator[Metric]:
    audits = CounterMetricFamily("edge_audits", "Frames selected for an audit", labels=("source", "outcome"))
    alarms = GaugeMetricFamily("edge_alarm", "1 once the alarm was raised", labels=("source", "alarm"))
    for name, source in sources.items():
        for outcome, count in source.audits.items():
            audits.add_metric((name, outcome), count)
        for kind in source.alarms:
            alarms.add_metric((name, kind), 1)
    yield audits
    yield alarms


def _bundles(sources: dict[str, SourceStatistics]) -> Metric:
    bundles = GaugeMetricFamily("edge_bundle", "1 for the bundle that answers", labels=("source", "bundle"))
    for name, source in sources.items():
        if source.bundle:
            bundles.add_metric((name, source.bundle), 1)
    return bundles


def _times(sources: dict[str, SourceStatistics]) -> Iterator[Metric]:
    connected = GaugeMetricFamily("edge_source_connected", "1 while the source gives frames", labels=("source",))
    age = GaugeMetricFamily(
        "edge_frame_age_seconds", "Time since the capture of the newest classified frame", labels=("source",)
    )
    latency = HistogramMetricFamily("edge_latency_seconds", "From capture to prediction", labels=("source",))
    for name, source in sources.items():
        connected.add_metric((name,), source.status == "connected")
        if source.captured_s is not None:
            age.add_metric((name,), monotonic() - source.captured_s)
        buckets = zip((*BOUNDS_S, "+Inf"), accumulate(source.latency_counts), strict=True)
        latency.add_metric((name,), list(buckets), source.latency_sum_ms / 1e3)
    yield from (connected, age, latency)


def _family(name: str, help_text: str, label: str, values: Iterable[tuple[str, Any]]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=(label,))
    for key, value in values:
        family.add_metric((key,), value)
    return family
