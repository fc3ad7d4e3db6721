"""The swap of the bundle that a run answers with: all sources, the audits, the deadline and the outputs."""

from collections.abc import Sequence
from datetime import datetime, timezone

from edge.live.deployment import Deployment
from edge.live.drift import expectations
from edge.live.messages import BundleChange, BundleStatus
from edge.live.worker import RunState, SourceWorker


class Swapper:
    """Everything in a run that depends on its bundle."""

    def __init__(self, workers: Sequence[SourceWorker], state: RunState) -> None:
        """Store the sources of a run, and their state."""
        self._workers, self._state = workers, state
        self._bundle: str | None = None
        """Name of the bundle that was installed last."""

    def install(self, deployment: Deployment) -> None:
        """Let a bundle answer the frames captured from now on, on trial until `settle`.

        Raises:
            EdgeError: some sources cannot be changed, or none; install the bundle before again.
        """
        classifier, name = deployment.classifier, deployment.name
        for worker in self._workers:
            worker.replace(classifier, name)
        self._bundle = name
        if self._state.auditor is not None:
            self._state.auditor.add(name, classifier, expectations(deployment.bundle, deployment.precision))
        if self._state.deadline is not None:
            self._state.deadline.replace(classifier, [candidate.values for candidate in deployment.candidates])

    def failure(self) -> Exception | None:
        """Return an exception of the bundle on trial; None if it has answered every frame."""
        streams = [worker.stream for worker in self._workers]
        return next((stream.failure for stream in streams if stream is not None and stream.failure), None)

    def answered(self) -> int:
        """Return the frames that the bundle has answered, of the source with the fewest; 0 if all have ended."""
        return min((worker.answered for worker in self._workers if worker.stream is not None), default=0)

    def answered_in_all(self) -> int:
        """Return the frames that the bundle has answered, of all sources together."""
        return sum(worker.answered for worker in self._workers)

    def settle(self) -> None:
        """End the trial, and release slots of bundles that no longer answer."""
        if self._state.auditor is not None and self._bundle is not None:
            self._state.auditor.keep_only(self._bundle)
        for worker in self._workers:
            if (stream := worker.stream) is not None:
                stream.confirm()
                stream.close_retired()

    def end_run(self) -> None:
        """Stop the run."""
        self._state.stop.set()

    def report(
        self,
        status: BundleStatus,
        bundle: str,
        reason: str,
        faults: int,
        deployment: Deployment | None = None,
        *,
        is_repeated: bool = False,
    ) -> None:
        """Publish a change to every source."""
        for worker in self._workers:
            now = datetime.now(timezone.utc)
            change = BundleChange(worker.name, now, status, bundle, reason, faults, deployment, is_repeated)
            self._state.publish(change, may_wait=False)
