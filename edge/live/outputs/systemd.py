"""Notifications to systemd: ready and alive by results, so that a hung pipeline is restarted.

A source without results keeps the run alive as well while it is opened again and again, or while its trigger leaves
frames out.
"""

import os
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic

from edge.errors import OutputError, one_line
from edge.live.messages import Audit, Message, Observation
from edge.live.outputs.base import Output
from edge.live.outputs.terminal import describe

STATUS_INTERVAL_S = 10.0
BEATS_PER_TIMEOUT = 4
"""Beats within the watchdog's timeout, at most. With two, results that come just too soon would be a beat missed."""
MAX_STATUS = 200


class Systemd(Output):
    """An output that notifies the service manager of a unit of `Type=notify`."""

    name = "systemd"

    def __init__(self, address: str, watchdog_s: float | None = None) -> None:
        """Store the service manager's socket and the timeout of the unit's watchdog.

        Args:
            address: A path, or with `@` in front an abstract name.
            watchdog_s: The unit's `WatchdogSec`; None where it has none.

        Raises:
            OutputError: the address is neither.
        """
        if address[:1] not in ("/", "@"):
            raise OutputError(f"NOTIFY_SOCKET is {address!r}; it must be a path, or a name that begins with @")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self._is_ready, self._frames, self._lock = False, 0, threading.Lock()
        self._beat_s = 0.0 if watchdog_s is None else watchdog_s / BEATS_PER_TIMEOUT
        self._next_beat_s = float("inf") if watchdog_s is None else 0.0
        self._next_status_s = 0.0

    def open(self) -> None:
        """Create the socket."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def write(self, messages: Sequence[Message]) -> None:
        """Notify of results, and of the state of sources.

        Raises:
            OSError: the service manager does not listen.
        """
        now_s = monotonic()
        results = [message for message in messages if isinstance(message, Observation)]
        others = [message for message in messages if not isinstance(message, Observation | Audit)]
        self._frames += len(results)
        status = []
        if others or (results and now_s >= self._next_status_s):
            status = [f"STATUS={self._status([*results, *others][-1])}"]
            self._next_status_s = now_s + STATUS_INTERVAL_S
        if results:
            self._beat(status)
        else:
            self._send(status)

    def keep_alive(self) -> None:
        """Notify that the run is ready and alive."""
        with suppress(OSError):  # a manager that does not listen is reported with the next result
            self._beat([])

    def close(self) -> None:
        """Announce the end. Idempotent."""
        if self._socket is not None:
            try:
                self._send(["STOPPING=1"])
            finally:
                self._socket.close()
                self._socket = None

    def _beat(self, lines: Sequence[str]) -> None:
        """Send lines, with the notifications that are due. Called by several threads."""
        with self._lock:
            now_s = monotonic()
            is_due = now_s >= self._next_beat_s
            self._send(["READY=1"] * (not self._is_ready) + ["WATCHDOG=1"] * is_due + [*lines])
            self._is_ready = True
            if is_due:
                self._next_beat_s = now_s + self._beat_s

    def _status(self, message: Message) -> str:
        return one_line(f"{self._frames} frames; {describe(message)}")[:MAX_STATUS]

    def _send(self, lines: Sequence[str]) -> None:
        if lines and self._socket is not None:
            self._socket.sendto("\n".join(lines).encode(), self._address)


def systemd_from(environment: Mapping[str, str] = os.environ) -> Systemd | None:
    """Return the output for a service's environment; None where no service manager wants notifications.

    Raises:
        OutputError: the environment is inconsistent.
    """
    if not (address := environment.get("NOTIFY_SOCKET")):
        return None
    is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    timeout_us = environment.get("WATCHDOG_USEC", "") if is_ours else ""
    return Systemd(address, int(timeout_us) / 1e6 if timeout_us.isdecimal() and int(timeout_us) else None)
