"""A tag in a registry, followed by a run: pull, build, verify, swap; roll back where the new bundle fails.

    poll ─▶ pull, signature ─▶ labels ─▶ engines ─▶ parity, guarantee ─▶ swap ─▶ trial ─▶ accepted
                 │                └──────────────────────┴───── refused ◀──────────┘ the bundle before answers
                 └ faults of network and disk: tried again at the next poll

Nothing here ends the run. A bundle that was refused is not tried again, until the tag names another.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from random import uniform
from time import monotonic

from edge.bundle.bundle import Bundle
from edge.bundle.manifest import Manifest
from edge.bundle.signing import VerifyingKey, read_verifying_key
from edge.errors import EdgeError, RegistryError, one_line
from edge.live.audit import lower_priority
from edge.live.deployment import Deployer, Deployment, short_digest
from edge.live.messages import BundleStatus
from edge.live.swap import Swapper
from edge.parity.compare import verify_classifier
from edge.parity.guarantee import broken_guarantee
from edge.parity.report import verdict
from edge.progress import OnProgress, ignore_progress
from edge.registry.address import RegistryAddress, parse_registry_address
from edge.registry.store import BundleStore
from edge.registry.transfer import Pulled, bundle_digest, tag_digest

INTERVAL_S = 30.0
"""Mean time between two polls."""
TRIAL_FRAMES, TRIAL_S = 100, 60.0
"""A new bundle is accepted after so many frames of each source, or after this time if a source gives fewer."""
WATCH_S = 0.05
"""Time between two looks at a bundle on trial."""

log = logging.getLogger(__name__)

Deploy = Callable[[Bundle, str, OnProgress], Deployment]
"""Builds and loads the engines of a bundle with a digest; receives the progress of building."""


class Follower:
    """Follows a tag, in a thread of its own.

    Attributes:
        bundle: The bundle to begin with: the one accepted last, else the one in the folder, else that of the tag.
        digest: Its digest in the registry.
        faults: Polls and pulls that failed.
    """

    def __init__(
        self,
        address: str,
        folder: Path,
        require_signature: Path,
        deploy: Deploy | None = None,
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Open the bundle to begin with.

        Args:
            address: A tag, such as `oci://registry.example.com/cameras/digits:stable`.
            folder: A bundle to begin with, which is never changed, or a name without a folder. Pulled bundles are in
                the folder of the same name with `.follow` at its end.
            require_signature: Public key that must have signed every bundle.
            deploy: Loads a bundle; by default a `Deployer`, which keeps the backend.
            interval_s: Mean time between two polls.

        Raises:
            RegistryError: the address is no tag, another process follows with this folder, or there is no bundle yet
                and the registry cannot be reached.
            BundleError: the bundle to begin with is damaged, or not signed by the key.
            OSError: the folder cannot be written.
        """
        self._address = parse_registry_address(address)
        if self._address.tag is None:
            raise RegistryError(f"{address} always names the same bundle; follow a tag, such as :stable")
        key = read_verifying_key(require_signature)
        self._deploy, self._interval_s = deploy or Deployer(), interval_s
        self._store = BundleStore(Path(f"{folder.absolute()}.follow"), key)
        try:
            self.bundle, self.digest = self._store.accepted() or _first(self._address, folder, key, self._store)
        except BaseException:
            self._store.close()
            raise
        self.faults, self._is_failing = 0, False
        self._deployment: Deployment | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def load(self, on_progress: OnProgress = ignore_progress) -> Deployment:
        """Load the bundle to begin with, if it is not loaded; its engines are built if they are missing.

        Raises:
            EdgeError: it cannot be loaded on this machine.
        """
        self._deployment = self._deployment or self._deploy(self.bundle, self.digest, on_progress)
        return self._deployment

    def start(self, swapper: Swapper) -> None:
        """Begin to follow, and swap the bundle of a run that began with the one of `load`."""
        self._thread = threading.Thread(target=self._run, args=(swapper,), name="follow", daemon=True)
        self._thread.start()

    def close(self, limit_s: float) -> None:
        """Stop following; a build or a transfer that takes longer is left behind. Idempotent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(limit_s)
        self._store.end_attempt()
        self._store.close()

    def _run(self, swapper: Swapper) -> None:
        lower_priority()
        while not self._stop.is_set():
            try:
                swapper.settle()
                self._poll(swapper)
                self._note_success(swapper)
            except Exception as error:
                self._note_fault(swapper, error)
            self._stop.wait(self._interval_s * uniform(0.5, 1.5))  # noqa: S311 - no secret

    def _poll(self, swapper: Swapper) -> None:
        digest = tag_digest(self._address)
        if digest != self.load().digest and self._store.refusal(digest) is None:
            bundle = self._pull(swapper, digest)
            if bundle is not None and not self._stop.is_set():
                with self._store.attempt(digest):
                    self._adopt(swapper, bundle, digest)

    def _pull(self, swapper: Swapper, digest: str) -> Bundle | None:
        """Return the bundle of a digest; None if it is refused."""
        try:
            return self._store.pull(self._address, digest)
        except RegistryError:
            raise
        except EdgeError as error:
            self._refuse(swapper, digest, str(error), lasting=False)
            return None

    def _adopt(self, swapper: Swapper, bundle: Bundle, digest: str) -> None:
        """Verify a bundle, and let it answer from now on; or refuse it."""
        try:
            deployment, objection = None, incompatibility(self.load().bundle.manifest, bundle.manifest)
            if objection is None:
                deployment = self._deploy(bundle, digest, ignore_progress)
                objection = self._objection(deployment)
        except Exception as error:  # of any type that libraries raise for a network that they refuse
            self._refuse(swapper, digest, _described(error), lasting=False)
            return
        if deployment is None or objection is not None:
            self._refuse(swapper, digest, str(objection), lasting=True)
        elif not self._stop.is_set():
            self._swap(swapper, deployment)

    @staticmethod
    def _objection(deployment: Deployment) -> str | None:
        """Return the reason for which a loaded bundle may not answer; None if there is none."""
        bundle, precision = deployment.bundle, deployment.precision
        parity = verify_classifier(bundle, precision, deployment.classifier, "this device")
        return broken_guarantee(bundle, precision) if parity.passed else verdict(parity)

    def _swap(self, swapper: Swapper, deployment: Deployment) -> None:
        before = self.load()
        try:
            swapper.install(deployment)
            self._report(swapper, "swapped", deployment.digest, f"replaces {before.name}", deployment)
            failure = self._try(swapper)
        except Exception as error:
            failure = error
        if failure is not None:
            self._refuse(swapper, deployment.digest, _described(failure), lasting=True)
            swapper.install(before)
            self._report(swapper, "swapped", before.digest, f"{deployment.name} failed and is rolled back", before)
        elif not self._stop.is_set():
            self._deployment = deployment
            self._store.accept(deployment.digest)
            swapper.settle()
            before.classifier.close()  # its engines are freed with the last slot

    def _try(self, swapper: Swapper) -> Exception | None:
        """Wait for enough frames of a new bundle; return the exception with which it failed, or None."""
        started_s = monotonic()
        while not self._stop.wait(WATCH_S):
            if (failure := swapper.failure()) is not None:
                return failure
            is_over = monotonic() - started_s >= TRIAL_S and swapper.answered_in_all() > 0
            if is_over or swapper.answered() >= TRIAL_FRAMES:
                return None
        return None

    def _refuse(self, swapper: Swapper, digest: str, reason: str, *, lasting: bool) -> None:
        self._store.refuse(digest, reason, lasting=lasting)
        self._report(swapper, "refused", digest, reason)

    def _note_fault(self, swapper: Swapper, error: Exception) -> None:
        """Count a fault; the first in a row is reported."""
        self.faults += 1
        if not self._is_failing:
            self._is_failing = True
            self._report(swapper, "failing", self.load().digest, _described(error))

    def _note_success(self, swapper: Swapper) -> None:
        """Report the first success after faults."""
        if self._is_failing:
            self._is_failing = False
            self._report(swapper, "following", self.load().digest, f"succeeds again, {self.faults} faults so far")

    def _report(
        self, swapper: Swapper, status: BundleStatus, digest: str, reason: str, deployment: Deployment | None = None
    ) -> None:
        log.warning("%s: bundle %s %s: %s", self._address, short_digest(digest), status, reason)
        swapper.report(status, short_digest(digest), reason, self.faults, deployment)


def incompatibility(present: Manifest, new: Manifest) -> str | None:
    """Return the reason for which a bundle cannot take the place of another; None if it can.

    Receivers of results rely on the labels and their indices. Size, colour and scaling of the input may differ: each
    bundle preprocesses frames for itself.
    """
    if new.labels != present.labels:
        return (
            f"its labels are {', '.join(new.labels)}, those in use {', '.join(present.labels)}; receivers rely on "
            "them: to change them, start the run with the new bundle"
        )
    if new.input.kind != present.input.kind:
        return f"it reads frames of the kind {new.input.kind}, the one in use {present.input.kind}"
    return None


def _first(address: RegistryAddress, folder: Path, key: VerifyingKey, store: BundleStore) -> Pulled:
    """Return the bundle in the folder, else that of the tag."""
    if folder.exists():
        bundle = Bundle.open(folder, key)
        return Pulled(bundle, bundle_digest(bundle))
    digest = tag_digest(address)
    bundle = store.pull(address, digest)
    store.accept(digest)
    return Pulled(bundle, digest)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(str(error))}"
