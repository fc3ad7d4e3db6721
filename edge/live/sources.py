"""Live sources: opened by address, with everything that keeps them alive."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from edge.errors import utf8
from edge.frames.address import SourceAddress, parse_address, public_address
from edge.frames.base import FrameSource
from edge.frames.guarded import START_LIMIT_S
from edge.frames.open import open_address
from edge.frames.stream_properties import LIVE_SCHEMES
from edge.live.messages import SourceStatus
from edge.live.reconnect import STALL_S, ReconnectingSource
from edge.live.triggers import Trigger, Triggered

CONNECT_S = 1.0
"""Seconds to wait at the start for a stream, so that a wrong address is refused before the run begins."""


Source = str | int | Path | SourceAddress | FrameSource
"""A name for `edge.open_source`, an address, or an open source."""


class SourceWatcher(Protocol):
    """Follower of a source's state, called by the thread that reads."""

    def report(self, status: SourceStatus, reason: str, reconnects: int) -> None:
        """Note that the source came, went, or gives a frozen picture."""

    def attempt(self) -> None:
        """Note that an attempt to open the source failed."""

    def skip(self, passed: int) -> None:
        """Note that the trigger left a frame out, after so many that it passed on."""


def public_names(sources: Sequence[Source]) -> list[str]:
    """Return the names of sources in messages; those that differ only in a secret get a number."""
    names: list[str] = []
    for source in sources:
        if isinstance(source, str | int | Path):
            name = utf8(public_address(str(source)))
        else:
            name = utf8(source.public) if isinstance(source, SourceAddress) else type(source).__name__
        same = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({same + 1})" if same else name)
    return names


def open_live(
    source: Source,
    stop: threading.Event,
    watcher: SourceWatcher,
    new_trigger: Callable[[], Trigger] | None,
    *,
    give_up_s: float | None,
    skip_bad: bool,
) -> FrameSource:
    """Open a source, which reconnects after faults. Files and other finite sources, and open ones, stay as they are.

    Args:
        source: A name, an address, or an open source.
        stop: Ends a read that waits, within 50 ms; the source then has no more frames.
        watcher: Follows the state of the source.
        new_trigger: Makes the trigger of the source; None passes every frame on.
        give_up_s: Seconds without a frame after which the source is lost for good; None waits forever.
        skip_bad: Leave damaged files and frames of finite sources out.

    Raises:
        AddressError: the source can never work as it is addressed.
        UnavailableError: a library or a permission is missing.
        SourceError: a finite source cannot be opened.
    """
    opened: FrameSource
    if isinstance(source, str | int | Path):
        source = parse_address(str(source))
    if not isinstance(source, SourceAddress):
        opened = source
    elif source.is_finite:
        opened = open_address(source, skip_bad=skip_bad)
    else:
        opened = _connected(source, stop, watcher, give_up_s=give_up_s, skip_bad=skip_bad)
    return opened if new_trigger is None else Triggered(opened, new_trigger(), watcher.skip, stop)


def _connected(
    address: SourceAddress, stop: threading.Event, watcher: SourceWatcher, *, give_up_s: float | None, skip_bad: bool
) -> ReconnectingSource:
    source = ReconnectingSource(
        partial(open_address, address, skip_bad=skip_bad),
        address.public,
        stop=stop,
        stall_s=address.options.timeout_s or STALL_S,
        give_up_s=give_up_s,
        on_change=watcher.report,
        on_attempt=watcher.attempt,
    )
    # Other servers may send a file, which ends: the treatment of late frames depends on it.
    source.connect(CONNECT_S if address.scheme in LIVE_SCHEMES else START_LIMIT_S)
    return source
