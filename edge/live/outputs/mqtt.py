"""Events, states and predictions to an MQTT broker, with discovery by Home Assistant."""

import asyncio
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from urllib.parse import unquote, urlsplit

import aiomqtt

from edge.errors import OutputError, one_line, utf8
from edge.frames.address import public_address
from edge.live.backoff import Backoff
from edge.live.messages import Message, Observation
from edge.live.outputs.base import Output
from edge.live.outputs.mqtt_topics import OFFLINE, ONLINE, PREDICTION_INTERVAL_S, Outbox, Publication
from edge.system import BLOCKING_CALL

PORTS = {"mqtt": 1883, "mqtts": 8883}
USER, PASSWORD = "EDGE_MQTT_USER", "EDGE_MQTT_PASSWORD"
KEEPALIVE_S = 15
"""A broker that does not answer for this long is lost; it publishes the last will after half as long again."""
REPLY_S = 5.0
MIN_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
STOP_S, DISCONNECT_S = 0.3, 0.1
"""Longest times at the end for the last publications, and for the disconnection."""

log = logging.getLogger(__name__)
CLIENT_LOG = logging.getLogger(f"{__name__}.client")
CLIENT_LOG.setLevel(logging.CRITICAL)  # it reports errors that it raises as well


@dataclass(frozen=True, slots=True)
class Broker:
    """Address of a broker, and the first part of the topics."""

    host: str
    port: int
    uses_tls: bool
    base: str
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


def parse_broker(url: str, environment: Mapping[str, str] = os.environ) -> Broker:
    """Parse `mqtt[s]://[user:password@]host[:port][/base/topic]`.

    User and password may also be in the environment variables EDGE_MQTT_USER and EDGE_MQTT_PASSWORD. Without a topic,
    it is `edge/` and the name of this machine.

    Raises:
        OutputError: the address is invalid.
    """
    usage = (
        "give mqtt://user:password@host:port/base/topic, or mqtts:// for TLS, with special characters of user and "
        "password percent-encoded"
    )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text may hold a part of the password
        raise OutputError(f"{public_address(url)} is not the address of a broker; {usage}") from None
    base = unquote(parts.path).strip("/") or f"edge/{socket.gethostname()}"
    if parts.scheme not in PORTS or not parts.hostname or parts.query or "#" in url:
        raise OutputError(f"{public_address(url)} is not the address of a broker; {usage}")
    if set("+#\0") & set(base) or utf8(base) != base:
        raise OutputError(
            f"{public_address(url)} has a topic with +, # or bytes that are not UTF-8, which nothing can be published "
            f"to; {usage}"
        )
    return Broker(
        host=parts.hostname,
        port=port or PORTS[parts.scheme],
        uses_tls=parts.scheme == "mqtts",
        base=base,
        user=unquote(parts.username) if parts.username else environment.get(USER),
        password=unquote(parts.password) if parts.password else environment.get(PASSWORD),
    )


class Mqtt(Output):
    """An output to an MQTT broker, which may come and go. Retained topics are published again when it is back."""

    def __init__(self, broker: Broker, on_request: Callable[[], None] | None = None) -> None:
        """Store the address; `on_request` is called for every message that somebody publishes to `BASE/request`."""
        scheme = "mqtts" if broker.uses_tls else "mqtt"
        self.name = f"{scheme}://{broker.host}:{broker.port}/{broker.base}"
        self._broker, self._outbox, self._on_request = broker, Outbox(broker.base), on_request
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name=self.name, daemon=True)
        self._started, self._lock = threading.Event(), threading.Lock()
        self._newest: dict[str, Message] = {}
        self._last_error = ""

    def open(self) -> None:
        """Begin to connect; a broker that is not there yet is waited for."""
        self._thread.start()
        self._started.wait()

    def write(self, messages: Sequence[Message]) -> None:
        """Hand messages to the thread of the connection, which fetches observations itself once a second."""
        with self._lock:
            self._newest |= {message.source: message for message in messages if isinstance(message, Observation)}
        if others := [message for message in messages if not isinstance(message, Observation)]:
            self._call(lambda: self._outbox.add(others))

    def close(self) -> None:
        """Publish the rest, go offline and disconnect. Idempotent."""
        self._call(lambda: self._closing.set())
        self._thread.join()

    def _call(self, change: Callable[[], None]) -> None:
        """Make a change in the thread of the connection, and wake it."""

        def change_and_wake() -> None:
            change()
            self._changed.set()

        with suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(change_and_wake)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(DaemonExecutor())
        self._changed, self._closing = asyncio.Event(), asyncio.Event()
        self._started.set()
        serving = asyncio.create_task(self._serve())
        await self._closing.wait()
        await asyncio.wait({serving}, timeout=STOP_S)
        serving.cancel()
        await asyncio.wait({serving}, timeout=DISCONNECT_S)

    async def _serve(self) -> None:
        """Publish over one connection after the other."""
        backoff = Backoff(MIN_BACKOFF_S)
        while not self._closing.is_set():
            try:
                async with self._client() as client:
                    self._report_connection()
                    backoff.reset()
                    await self._publish(client)
            except Exception as error:
                self._report_error(error)
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), backoff.delay_s(MAX_BACKOFF_S))

    def _client(self) -> aiomqtt.Client:
        broker = self._broker
        return aiomqtt.Client(
            broker.host,
            broker.port,
            username=broker.user,
            password=broker.password,
            will=aiomqtt.Will(f"{broker.base}/availability", OFFLINE, qos=1, retain=True),
            tls_context=ssl.create_default_context() if broker.uses_tls else None,
            keepalive=KEEPALIVE_S,
            timeout=REPLY_S,
            logger=CLIENT_LOG,
        )

    async def _publish(self, client: aiomqtt.Client) -> None:
        """Publish until the end.

        Raises:
            aiomqtt.MqttError: the connection broke, or the broker does not answer.
        """
        availability = f"{self._broker.base}/availability"
        self._outbox.restore()
        await _send(client, Publication(availability, ONLINE, retain=True))
        lost = asyncio.create_task(self._receive(client))
        try:
            while True:
                is_closing = self._closing.is_set()
                self._changed.clear()
                with self._lock:
                    newest, self._newest = self._newest, {}
                self._outbox.add(list(newest.values()))
                for publication in self._outbox.due(monotonic()):
                    await _send(client, publication)
                if is_closing:
                    await _send(client, Publication(availability, OFFLINE, retain=True))
                    return
                await self._wait(lost)
        except asyncio.CancelledError:  # the broker does not answer; it reads this later, instead of the last will
            offline = asyncio.create_task(_send(client, Publication(availability, OFFLINE, retain=True)))
            await asyncio.sleep(0)
            offline.cancel()
            raise
        finally:
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)

    async def _receive(self, client: aiomqtt.Client) -> None:
        """Receive requests until the connection breaks.

        Raises:
            aiomqtt.MqttError: it broke.
        """
        if self._on_request is not None:
            await client.subscribe(f"{self._broker.base}/request", qos=1)
        async for message in client.messages:
            if self._on_request is not None and not message.retain:
                self._on_request()

    async def _wait(self, lost: "asyncio.Task[None]") -> None:
        """Wait for a change, or until the next predictions are due.

        Raises:
            aiomqtt.MqttError: the connection broke.
        """
        changed = asyncio.create_task(self._changed.wait())
        await asyncio.wait({lost, changed}, timeout=PREDICTION_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
        if lost.done():
            lost.result()

    def _report_connection(self) -> None:
        if self._last_error:
            log.warning("%s is connected again; %d events were lost", self.name, self._outbox.lost_events)
        self._last_error = ""

    def _report_error(self, error: Exception) -> None:
        reason = one_line(str(error))
        if reason != self._last_error:
            log.warning("%s is not connected (%s); trying again", self.name, reason)
        self._last_error = reason


async def _send(client: aiomqtt.Client, publication: Publication) -> None:
    await client.publish(publication.topic, publication.payload, qos=publication.qos, retain=publication.retain)


class DaemonExecutor(ThreadPoolExecutor):
    """An executor whose threads do not delay the end of the process while they wait for a network."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run a call in a thread of its own."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name=BLOCKING_CALL, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for nothing."""
