"""The run of a standing installation: sources to observations and events, and these to outputs."""

import threading
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from edge.frames.base import FrameSource
from edge.inference.classifier import Classifier
from edge.inference.pipeline import Policy
from edge.live.audit import Auditor
from edge.live.deadline import Deadline
from edge.live.events import Debouncer
from edge.live.hub import Hub
from edge.live.messages import Message
from edge.live.outputs.base import CLOSE_LIMIT_S, STUCK_S, Output
from edge.live.sources import Source, open_live, public_names
from edge.live.swap import Swapper
from edge.live.triggers import Trigger
from edge.live.worker import OnMessage, RunState, SourceWorker
from edge.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from edge.live.follow import Follower

STOP_LIMIT_S = 0.4
"""Longest wait at the end for sources that hang in a read."""


def ignore_message(message: Message) -> None:
    """Do nothing."""


def run(
    classifier: Classifier,
    sources: Sequence[Source],
    outputs: Sequence[Output] = (),
    *,
    policy: Policy | None = None,
    new_trigger: Callable[[], Trigger] | None = None,
    new_debouncer: Callable[[], Debouncer] | None = None,
    frames: int | None = None,
    give_up_s: float | None = None,
    skip_bad: bool = False,
    auditor: Auditor | None = None,
    deadline: Deadline | None = None,
    follower: "Follower | None" = None,
    stop: threading.Event | None = None,
    on_message: OnMessage = ignore_message,
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Classify the frames of all sources until they end, or until `stop` is set.

    Each source has a thread and a state of its own; the engines are shared. Live sources that fail are opened again,
    and a source that ends in an error does not end the others.

    Args:
        classifier: Classifier of all frames.
        sources: Names as for `edge.open_source`, addresses, or open sources; all are closed at the end.
        outputs: Receivers of all messages, closed at the end. None of them slows the run, except where no frame may be
            dropped (policy `all`, and finite sources by default): there the run waits for late ones.
        policy: Treatment of late frames, as for `Classifier.stream`.
        new_trigger: Makes the trigger of each source; by default every frame is classified.
        new_debouncer: Makes the rule by which predictions of each source become events; by default there are none.
        frames: Observations of all sources together to stop after.
        give_up_s: Seconds without a frame after which a live source is lost; by default it is never given up.
        skip_bad: Leave damaged images and video frames out, as for `edge.open_source`.
        auditor: Audits a random few of the frames, and raises alarms; closed at the end.
        deadline: Chooses among the certified candidates, so that frames are answered in time.
        follower: Swaps the bundle when its tag names another; `classifier` is the one of its `load`. Closed at the end.
        stop: Ends the run from another thread, within about a second.
        on_message: Receives every message before the outputs do, in the thread of its source or that of audits.
        on_progress: Receives the progress of each source, some times a second.

    Raises:
        SourceError: a source cannot be opened or failed; raised when the others have ended.
        EdgeError: an output or an engine cannot be used.
    """
    stop = stop or threading.Event()
    names = public_names(sources)
    hub = Hub(outputs)
    state = RunState(hub, names, stop, on_message, on_progress, frames, auditor, deadline)
    bundle = "" if follower is None else follower.load().name
    workers = [SourceWorker(name, classifier, policy, state, bundle) for name in names]
    limit_s = CLOSE_LIMIT_S
    try:
        _prepare(workers, auditor)
        for source, worker in zip(sources, workers, strict=True):
            opened = open_live(source, stop, worker, new_trigger, give_up_s=give_up_s, skip_bad=skip_bad)
            worker.start(opened, None if new_debouncer is None else new_debouncer())
        if follower is not None:
            follower.start(Swapper(workers, state))
        for worker in workers:
            worker.join()
        hub.drain()
        limit_s = STUCK_S
    finally:
        stop.set()
        _end(sources, workers, follower, auditor)
        hub.close(limit_s)
    hub.raise_errors()
    _raise_first(each.error for each in (*workers, auditor, follower) if each is not None)


def _prepare(workers: Sequence[SourceWorker], auditor: Auditor | None) -> None:
    """Make everything that takes a while, before a camera opens."""
    if auditor is not None:
        auditor.start()
    for worker in workers:
        worker.prepare()


def _end(
    sources: Sequence[Source],
    workers: Sequence[SourceWorker],
    follower: "Follower | None",
    auditor: Auditor | None,
) -> None:
    """Wait for all threads, but not for those that hang; close workers not started, and their open sources."""
    until_s = monotonic() + STOP_LIMIT_S
    for source, worker in zip(sources, workers, strict=True):
        worker.join(max(0.0, until_s - monotonic()))
        if not worker.is_started:
            worker.close()
            if isinstance(source, FrameSource):
                source.close()
    for helper in (follower, auditor):
        if helper is not None:
            helper.close(max(0.0, until_s - monotonic()))


def _raise_first(errors: Iterable[BaseException | None]) -> None:
    for error in errors:
        if error is not None:
            raise error
