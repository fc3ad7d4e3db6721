"""Limits of TCP connections, which uvicorn does not have."""

import asyncio
from collections.abc import Collection
from time import monotonic
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from edge.live.addresses import client_network, is_loopback

MAX_CONNECTIONS = 500
MAX_CLIENT_CONNECTIONS = 100
"""Connections of a client on another machine."""
IDLE_S = 10.0
"""Longest wait for a complete request, and for the client to read the end of a connection."""
MAX_UNSENT_BYTES = 8 * 2**20
"""Data that wait for a client; the answers to its pings also wait, without a limit of uvicorn's."""


class LimitedProtocol(H11Protocol):
    """HTTP on a connection; connections above a limit are cut off at once, without a response."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or cut it off."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS or self._are_too_many():
            transport.abort()

    def _are_too_many(self) -> bool:
        if self.client is None or is_loopback(self.client[0]):
            return False
        network = client_network(self.client[0])
        clients = [getattr(each, "client", None) for each in self.connections]
        return sum(client_network(each[0]) == network for each in clients if each) > MAX_CLIENT_CONNECTIONS


class ConnectionWatch:
    """The connections of a server, looked at from time to time: those whose client is stuck are cut off."""

    def __init__(self) -> None:
        """Start without connections."""
        self._waiting: dict[Any, tuple[object, float]] = {}

    def cut_off(self, connections: Collection[Any]) -> None:
        """Abort connections that wait too long for their client, or have too much unsent.

        Args:
            connections: Protocols of the connections.
        """
        now_s, before = monotonic(), self._waiting
        self._waiting = {}
        for connection in list(connections):
            request = getattr(connection, "cycle", None)
            if connection.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
                connection.transport.abort()
            elif _waits(connection):
                last_request, since_s = before.get(connection, (request, now_s))
                since_s = since_s if last_request is request else now_s
                self._waiting[connection] = (request, since_s)
                if now_s - since_s >= IDLE_S:
                    connection.transport.abort()


def _waits(connection: Any) -> bool:
    """Check that a connection waits for a request, or for its client to read the end."""
    if connection.transport.is_closing():
        return True
    return isinstance(connection, H11Protocol) and (connection.cycle is None or connection.cycle.response_complete)
