"""Live sources: opened by address, with everything that keeps them alive."""

import threading
from collections.abc import Callable
from pathlib import Path

from edge.frames.address import public_address
from edge.frames.base import FrameSource
from edge.frames.open import open_source
from edge.live.messages import SourceStatus
from edge.live.triggers import Trigger, Triggered

OnChange = Callable[[SourceStatus, str, int], None]
"""Receives the new status of a source, the reason, and the number of its reconnects."""


def public_name(source: str | int | Path | FrameSource) -> str:
    """Return the name of a source in messages."""
    return public_address(str(source)) if isinstance(source, str | int | Path) else type(source).__name__


def open_live(
    source: str | int | Path | FrameSource,
    stop: threading.Event,
    on_change: OnChange,
    new_trigger: Callable[[], Trigger] | None,
    *,
    give_up_s: float | None,
    skip_bad: bool,
) -> FrameSource:
    """Open a source."""
    opened = open_source(source, skip_bad=skip_bad) if isinstance(source, str | int | Path) else source
    return opened if new_trigger is None else Triggered(opened, new_trigger())
