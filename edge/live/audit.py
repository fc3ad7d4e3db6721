"""Audits: a random few of the classified frames also run to the last exit, off the critical path.

A frame is selected before anything is known of it: right after the frame before, by a random number that does not
depend on any frame, and only if there is room for it then. So the choice depends on earlier frames alone. Were a frame
left out once it is there, the choice could depend on its exit: those that exit early come sooner after each other.
"""

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from random import Random
from typing import NamedTuple

from edge.errors import described
from edge.frames.base import Frame
from edge.inference.classifier import Classifier
from edge.live.drift import Expectations, SourceTests
from edge.live.messages import Audit, Message, Observation

DEFAULT_SHARE = 0.01
MAX_WAITING = 4
"""Frames that wait for their audit, of all sources."""
NICENESS = 5
"""Lowers the scheduling priority; not to the lowest, since the thread at times holds the interpreter lock."""

log = logging.getLogger(__name__)

Publish = Callable[[Message], None]


def lower_priority() -> None:
    """Lower the scheduling priority of this thread."""
    thread = threading.get_native_id()
    with suppress(OSError):  # a low priority is a courtesy
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)


class Audited(NamedTuple):
    """A classifier of frames, to the last exit, and the behaviour expected of it."""

    to_last_exit: Classifier
    expected: Expectations


class Task(NamedTuple):
    """A frame to audit."""

    observation: Observation
    frame: Frame | None
    """None if the last exit has answered: it agrees with itself."""
    left_out: int
    tests: SourceTests
    publish: Publish


class Auditor:
    """A thread that runs frames of all sources to the last exit, and tests the outcome.

    Attributes:
        error: The first exception of an audit, which is not tested then; None if all succeeded.
    """

    def __init__(
        self,
        classifier: Classifier,
        expected: Expectations,
        *,
        share: float = DEFAULT_SHARE,
        deadline_ms: float | None = None,
        bundle: str = "",
    ) -> None:
        """Prepare audits.

        Args:
            classifier: Classifier of the frames, whose engines are shared.
            expected: Expected behaviour under each candidate.
            share: Probability with which a frame is selected.
            deadline_ms: Latency that 95 % of the frames are to keep; None if there is no deadline.
            bundle: Name of the classifier's bundle in results.
        """
        self.error: Exception | None = None
        self._last_failure = ""
        self.share = share
        self.room = threading.Semaphore(MAX_WAITING)
        self._deadline_ms = deadline_ms
        self._audited = {bundle: Audited(classifier.to_last_exit(), expected)}
        self._newest = bundle
        """Bundle that answers the frames captured from now on; alarms about others come too late."""
        self._tasks: SimpleQueue[Task | Audited | None] = SimpleQueue()
        """Frames to audit, and classifiers to close after those before."""
        self._thread = threading.Thread(target=self._run, name="audits", daemon=True)

    def add(self, bundle: str, classifier: Classifier, expected: Expectations) -> None:
        """Also audit the frames of another bundle's classifier, which answers from now on."""
        if bundle not in self._audited:
            audited = Audited(classifier.to_last_exit(), expected)
            audited.to_last_exit.prepare()
            self._audited = {**self._audited, bundle: audited}
        self._newest = bundle

    def keep_only(self, bundle: str) -> None:
        """Audit the frames of one bundle only; others are left out."""
        before, self._audited = self._audited, {bundle: self._audited[bundle]}
        for name, audited in before.items():
            if name != bundle:
                self._tasks.put(audited)

    def audited(self, bundle: str) -> Audited | None:
        """Return the classifier of a bundle's frames; None if they are not audited."""
        return self._audited.get(bundle)

    def start(self) -> None:
        """Prepare the classifier, and start the thread."""
        for audited in self._audited.values():
            audited.to_last_exit.prepare()
        self._thread.start()

    def sampler(self, publish: Publish) -> "FrameSampler":
        """Return the selection of a source's frames, with tests of its own; `publish` receives audits and alarms."""
        return FrameSampler(self, self._deadline_ms, publish)

    def put(self, task: Task) -> None:
        """Add a frame, for which there is room."""
        self._tasks.put(task)

    def close(self, limit_s: float) -> None:
        """Audit the frames that wait, and end the thread; if it hangs, it is left behind. Idempotent."""
        self._tasks.put(None)
        if self._thread.is_alive():
            self._thread.join(limit_s)

    def _run(self) -> None:
        lower_priority()
        while (task := self._tasks.get()) is not None:
            if isinstance(task, Audited):
                task.to_last_exit.close()
                continue
            try:
                self._audit(task)
            except Exception as error:
                self._note_failure(error)
            finally:
                self.room.release()
        for audited in self._audited.values():
            audited.to_last_exit.close()

    def _note_failure(self, error: Exception) -> None:
        """Keep the first exception, and log each that differs from the last."""
        self.error = self.error or error
        reason = described(error)
        if reason != self._last_failure:
            log.warning("an audit failed (%s)", reason)
        self._last_failure = reason

    def _audit(self, task: Task) -> None:
        source, result = task.observation.source, task.observation.result
        audited = self.audited(result.bundle)
        if audited is None:
            return
        last = result.prediction if task.frame is None else audited.to_last_exit.predict(task.frame)
        audit = Audit(source, result, last, task.left_out)
        task.publish(audit)
        for alarm in task.tests.add(audit) if result.bundle == self._newest else ():
            log.warning("%s: %s", source, alarm.reason)
            task.publish(alarm)


class FrameSampler:
    """The random selection of a source's frames, and the tests of those of the bundle that answers."""

    def __init__(self, auditor: Auditor, deadline_ms: float | None, publish: Publish) -> None:
        """Select the first frame, or not."""
        self._auditor, self._deadline_ms, self._publish = auditor, deadline_ms, publish
        self._bundle = ""
        self._tests: SourceTests | None = None
        self._random = Random()  # noqa: S311 - seeded by the operating system
        self._left_out, self._is_selected = 0, False
        self._select_next()

    def add(self, observation: Observation) -> None:
        """Hand a frame over if it was selected, and select the next, or not."""
        if self._is_selected and not self._put(observation):
            self.close()
        self._select_next()

    def close(self) -> None:
        """Give back the room of a frame that did not come. Idempotent."""
        if self._is_selected:
            self._auditor.room.release()
            self._is_selected = False

    def _put(self, observation: Observation) -> bool:
        """Hand a frame over, unless its bundle is no longer audited. Tests begin anew with each bundle."""
        result = observation.result
        if (audited := self._auditor.audited(result.bundle)) is None:
            return False
        if self._tests is None or result.bundle != self._bundle:
            self._bundle, self._tests = result.bundle, SourceTests(audited.expected, self._deadline_ms)
        is_last = result.exit_index == audited.to_last_exit.chain.exits - 1
        frame = None if is_last else result.copy_frame()
        self._auditor.put(Task(observation, frame, self._left_out, self._tests, self._publish))
        return True

    def _select_next(self) -> None:
        self._is_selected = False
        if self._random.random() < self._auditor.share:
            self._is_selected = self._auditor.room.acquire(blocking=False)
            self._left_out += not self._is_selected
