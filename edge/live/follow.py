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
from edge.bundle.signing import read_verifying_key
from edge.errors import EdgeError, RegistryError, described, shortened
from edge.live.acceptance import changed_rejection, incompatibility, objection
from edge.live.deployment import Deployer, Deployment, short_digest
from edge.live.first_bundle import first_bundle, first_refused
from edge.live.messages import BundleStatus
from edge.live.swap import Swapper
from edge.progress import OnProgress, ignore_progress
from edge.registry.address import parse_registry_address
from edge.registry.store import BundleStore
from edge.registry.transfer import tag_digest

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
        error: The exception of `on_message` that ended it; None if there was none.
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
        """Open the bundle to begin with, or pull it.

        Args:
            address: A tag, such as `oci://registry.example.com/cameras/digits:stable`.
            folder: A bundle to begin with, which is never changed, or a name without a folder. Pulled bundles are in
                the folder of the same name with `.follow` at its end.
            require_signature: Public key that must have signed every bundle.
            deploy: Loads a bundle; by default a `Deployer`, which keeps the backend.
            interval_s: Mean time between two polls.

        Raises:
            RegistryError: the address is no tag, another process follows with this folder, or there is no bundle yet
                and that of the tag was refused, or the registry cannot be reached.
            BundleError: the bundle of the tag is damaged, or not signed by the key.
            OSError: the folder cannot be written.
        """
        self._address = parse_registry_address(address)
        if self._address.tag is None:
            raise RegistryError(f"{address} always names the same bundle; follow a tag, such as :stable")
        key = read_verifying_key(require_signature)
        self._deploy, self._interval_s = deploy or Deployer(), interval_s
        self._store = BundleStore(Path(f"{folder.absolute()}.follow"), key)
        try:
            self.bundle, self.digest, self._is_new = first_bundle(self._address, folder, key, self._store)
        except BaseException:
            self._store.close()
            raise
        self.faults, self._is_failing = 0, False
        self.error: BaseException | None = None
        self._deployment: Deployment | None = None
        """The bundle accepted last."""
        self._installed: Deployment | None = None
        """The bundle that answers; None if some sources have another one than others."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def load(self, on_progress: OnProgress = ignore_progress) -> Deployment:
        """Load the bundle to begin with, if it is not loaded; its engines are built if they are missing.

        Raises:
            EdgeError: it cannot be loaded on this machine, or is refused.
        """
        if self._deployment is None:
            deployment = self._deploy(self.bundle, self.digest, on_progress)
            if self._is_new:
                self._accept_first(deployment)
            self._deployment = deployment
        return self._deployment

    def start(self, swapper: Swapper) -> None:
        """Begin to follow, and swap the bundle of a run that began with the one of `load`."""
        self._installed = self.load()
        self._thread = threading.Thread(target=self._run, args=(swapper,), name="follow", daemon=True)
        self._thread.start()

    def close(self, limit_s: float) -> None:
        """Stop following; a build or a transfer that takes longer is left behind. Idempotent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(limit_s)
        self._store.end_attempt()
        self._store.close()

    def _accept_first(self, deployment: Deployment) -> None:
        """Accept the tag's bundle as the first, unless it is to be refused."""
        if (reason := objection(deployment)) is not None:
            self._store.refuse(deployment.digest, reason, lasting=True)
            raise first_refused(deployment.digest, reason)
        self._store.accept(deployment.digest)

    def _run(self, swapper: Swapper) -> None:
        try:
            while not self._stop.is_set():
                self._step(swapper)
                self._stop.wait(self._interval_s * uniform(0.5, 1.5))  # noqa: S311 - no secret
        except BaseException as error:  # of `on_message`, which is told of faults, too
            self.error = error
            swapper.end_run()

    def _step(self, swapper: Swapper) -> None:
        try:
            if self._installed is not self.load():
                self._roll_back(swapper)  # its frames in flight need the reserve, until the next step
            else:
                swapper.settle()
                self._poll(swapper)
            self._note_success(swapper)
        except Exception as error:
            self._note_fault(swapper, error)

    def _poll(self, swapper: Swapper) -> None:
        digest = tag_digest(self._address)
        if digest == self.load().digest or self._store.refusal(digest) is not None:
            return
        if (blame := self._store.blame(digest)) is not None:
            self._refuse(swapper, digest, blame, lasting=True)
            return
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
            verified = self._verify(bundle, digest)
        except OSError:  # a fault of the disk: tried again
            raise
        except Exception as error:  # of any type that libraries raise for a network that they refuse
            self._refuse(swapper, digest, described(error), lasting=False)
            return
        if isinstance(verified, str):
            self._refuse(swapper, digest, verified, lasting=True)
        elif not self._stop.is_set():
            self._swap(swapper, verified)

    def _verify(self, bundle: Bundle, digest: str) -> Deployment | str:
        """Return a bundle loaded, or the reason for which it may not answer."""
        present = self.load()
        if (reason := incompatibility(present.bundle.manifest, bundle.manifest)) is not None:
            return reason
        deployment = self._deploy(bundle, digest, ignore_progress)
        return changed_rejection(present, deployment) or objection(deployment) or deployment

    def _swap(self, swapper: Swapper, deployment: Deployment) -> None:
        before = self.load()
        try:
            self._install(swapper, deployment)
        except Exception as error:  # such as too little memory, of which there may be more at the next start
            self._refuse(swapper, deployment.digest, described(error), lasting=False)
            self._roll_back(swapper)
            return
        self._report(swapper, "swapped", deployment.digest, f"replaces {before.name}", deployment)
        if (failure := self._try(swapper)) is not None:
            self._refuse(swapper, deployment.digest, described(failure), lasting=True)
            self._roll_back(swapper)
        elif not self._stop.is_set():
            self._deployment = deployment
            self._store.accept(deployment.digest)
            swapper.settle()
            before.classifier.close()  # its engines are freed with the last slot

    def _install(self, swapper: Swapper, deployment: Deployment) -> None:
        self._installed = None  # if it fails, some sources are changed, and others are not
        swapper.install(deployment)
        self._installed = deployment

    def _roll_back(self, swapper: Swapper) -> None:
        """Let the accepted bundle answer again; if that fails, the next step repeats it."""
        accepted = self.load()
        self._install(swapper, accepted)
        self._report(swapper, "swapped", accepted.digest, "the bundle on trial failed and is rolled back", accepted)

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
        if not self._stop.is_set():  # else the run may have ended, and another process uses the folder
            reason = shortened(reason)
            self._store.refuse(digest, reason, lasting=lasting)
            self._report(swapper, "refused", digest, reason)

    def _note_fault(self, swapper: Swapper, error: Exception) -> None:
        """Count and publish a fault; the first in a row is logged."""
        self.faults += 1
        is_repeated, self._is_failing = self._is_failing, True
        self._report(swapper, "failing", self.load().digest, described(error), is_repeated=is_repeated)

    def _note_success(self, swapper: Swapper) -> None:
        """Report the first success after faults."""
        if self._is_failing:
            self._is_failing = False
            self._report(swapper, "following", self.load().digest, f"succeeds again, {self.faults} faults so far")

    def _report(
        self,
        swapper: Swapper,
        status: BundleStatus,
        digest: str,
        reason: str,
        deployment: Deployment | None = None,
        *,
        is_repeated: bool = False,
    ) -> None:
        name = short_digest(digest)
        if not is_repeated:
            log.warning("%s: bundle %s %s: %s", self._address, name, status, reason)
        swapper.report(status, name, reason, self.faults, deployment, is_repeated=is_repeated)
