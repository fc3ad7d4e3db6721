"""Messages and servers for tests of outputs."""

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from edge.live.messages import (
    Alarm,
    AlarmKind,
    Audit,
    BundleChange,
    BundleStatus,
    CandidateChange,
    Event,
    Message,
    SourceChange,
    SourceStatus,
)
from tests.support.commands import wait_until
from tests.support.observations import LABELS, START, observation


def event(
    label: str = "7", kind: Any = "entered", *, source: str = "test://", duration_s: float | None = None
) -> Event:
    return Event(kind, source, START, label, LABELS.index(label), duration_s)


def change(status: SourceStatus, reason: str = "", *, source: str = "test://", reconnects: int = 0) -> SourceChange:
    return SourceChange(source, START, status, reason, reconnects)


def audit(differs: bool = False, *, source: str = "test://", left_out: int = 0, **changes: Any) -> Audit:
    """Return an audit; `changes` are of the observation."""
    audited = observation(0, source=source, **changes)
    last = audited.prediction._replace(label="3", label_index=3) if differs else audited.prediction
    return Audit(source, audited.result, last, left_out)


def alarm(kind: AlarmKind = "disagreement", reason: str = "9.0% differ", *, source: str = "test://") -> Alarm:
    return Alarm(kind, source, START, reason, audited=500)


def candidate_change(index: int = 1, *, source: str = "test://") -> CandidateChange:
    return CandidateChange(source, START, index, candidates=4, reason="6 of 40 frames took longer than 33 ms")


def bundle_change(
    status: BundleStatus = "swapped", *, source: str = "test://", faults: int = 0, **changes: Any
) -> BundleChange:
    return BundleChange(source, START, status, "9f86d081884c", "replaces 3bd92ffd919a", faults, **changes)


@contextmanager
def opened(output: Any, messages: Sequence[Message] = ()) -> Iterator[Any]:
    """Open an output, write messages, and close it after the block."""
    output.open()
    try:
        if messages:
            output.write(messages)
        yield output
    finally:
        output.close()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@contextmanager
def server(command: Sequence[object], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; it listens when the block begins."""
    words = [str(word) for word in command]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with process:
        try:
            wait_until(lambda: process.poll() is not None or listens(port), f"{words[0]} on port {port}")
            assert process.poll() is None, f"{words[0]} ended"
            yield process
        finally:
            process.kill()


def listens(port: int) -> bool:
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
