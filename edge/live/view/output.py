"""The output that serves the page, its API, metrics and health."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from edge.frames.base import PixelFormat
from edge.live.deployment import Deployment
from edge.live.messages import Message, Observation
from edge.live.outputs.base import Output, OutputQueue
from edge.live.outputs.metrics import StatisticsCollector, health_route, metrics_route
from edge.live.timeline import Pace
from edge.live.view.access import TOKEN_VARIABLE, Access, Guard
from edge.live.view.audience import Audience
from edge.live.view.files import file_routes
from edge.live.view.login import login_routes
from edge.live.view.pictures import encode_pictures
from edge.live.view.routes import Routes
from edge.live.view.state import ViewState
from edge.live.web import WebServer

MAX_RATE = 10
"""Pictures of a source a second."""

log = logging.getLogger(__name__)


class View(Output):
    """An output that serves a web page. A frame is copied and encoded only where a viewer waits for a picture."""

    wants_frames = True

    def __init__(self, host: str, port: int, *, timeout_s: float, deployment: Deployment | None = None) -> None:
        """Prepare the server.

        Args:
            host: Address to listen on. Where other machines reach it, requests need a token.
            port: Port; 0 takes a free one.
            timeout_s: Seconds without a result after which a source is unhealthy.
            deployment: Bundle and classifier to show, and to choose thresholds of.

        Raises:
            OutputError: the token in the environment is too short, or not of printable ASCII.
        """
        self._state = ViewState(deployment, timeout_s)
        self._audience = Audience()
        self._paces = defaultdict[str, Pace](lambda: Pace(1 / MAX_RATE))
        self._collector = StatisticsCollector(self._state.statistics)
        self._access = Access.for_host(host)
        routes = [
            *file_routes(),
            *login_routes(self._access),
            *Routes(self._state, self._audience).all(),
            metrics_route(self._collector),
            health_route(self._state.statistics, timeout_s),
        ]
        self._server = WebServer(host, port, routes, guard=partial(Guard, access=self._access), tick=self._tick)
        self.name = self._server.url

    def watch(self, queues: Sequence[OutputQueue]) -> None:
        """Also report drops and failures of these outputs."""
        self._collector.queues = queues

    def open(self) -> None:
        """Start the server.

        Raises:
            OutputError: the address cannot be listened on, or the server does not start.
        """
        self._server.start()
        self.name = self._server.url
        if self._access.is_generated:
            log.warning("%s: log in with the token %s, or set another as %s", self.name, self._access.token,
                        TOKEN_VARIABLE)  # fmt: skip

    def chooses(self, observation: Observation) -> bool:
        """Choose frames that viewers wait for, up to `MAX_RATE` of a source."""
        source = observation.source
        is_requested = bool(self._audience.requested_sizes(source))
        return is_requested and self._paces[source].takes(observation.result.captured_s)

    @property
    def wants_attention(self) -> bool:
        """True where a viewer waits for a picture with its attention map."""
        return self._audience.wants_attention

    def write(self, messages: Sequence[Message]) -> None:
        """Count messages, and encode the pictures that viewers wait for."""
        events = self._state.add(messages)
        sources = {message.source: None for message in messages if message.source not in self._audience.sources}
        if sources or events:
            self._server.call(self._announce, list(sources), events)
        for message in messages:
            if isinstance(message, Observation):
                self._encode(message)

    def close(self) -> None:
        """Stop the server. Idempotent."""
        self._server.stop()

    def _encode(self, observation: Observation) -> None:
        frame, source = observation.frame, observation.source
        sizes = self._audience.requested_sizes(source)
        if frame is None or frame.format is PixelFormat.ARRAY or not sizes:
            return
        deployment = self._state.deployment
        spec = None if deployment is None else deployment.classifier.chain.input
        pictures = encode_pictures(observation, self._audience.sources.index(source), sizes, spec)
        self._server.call(self._audience.deliver, source, pictures)

    def _announce(self, sources: Sequence[str], events: Sequence[Mapping[str, Any]]) -> None:
        """Tell viewers of new sources and of events; in the server's event loop."""
        added = [source for source in sources if source not in self._audience.sources]
        self._audience.sources += added
        if added:
            self._audience.announce(json.dumps({"sources": self._audience.sources}))
        for event in events:
            self._audience.announce(json.dumps({"event": event}))

    def _tick(self) -> None:
        """End a second of the charts; in the server's event loop."""
        self._audience.announce(json.dumps({"tick": self._state.tick()}))
