"""Bundles pulled from a tag, in a folder with a record of which one is in use.

FOLDER/<sha256 of the artifact>/   the bundle in use, and the one before; others are removed
FOLDER/record.json                 which they are, which were refused and why, and attempts that did not end
"""

import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from edge.bundle.bundle import Bundle
from edge.bundle.decoding import decode
from edge.bundle.signing import VerifyingKey
from edge.errors import BundleError, RegistryError, shortened
from edge.registry.address import RegistryAddress
from edge.registry.transfer import Pulled, pull
from edge.storage import locked_file, read_file, remove_stale, write_file

RECORD, LOCK = "record.json", "lock"
DIGITS = re.compile("[0-9a-f]{64}")
"""Names of the folders of bundles; nothing else in the folder is removed."""
MAX_REFUSED = 100
"""Refused bundles that are remembered."""
MAX_RECORD_BYTES = 1 << 22
"""Room for so many reasons of the length of a message, in any script."""
MAX_ATTEMPTS = 3
"""Attempts with a bundle that ended with the process: after them, the bundle is to blame."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """Digests of bundles, and their history on this device."""

    current: str | None
    """The bundle accepted last."""
    previous: str | None
    refused: dict[str, str]
    """Reasons by digest."""
    attempts: dict[str, int]
    """Attempts by digest that began and did not end: the process was killed, or the machine lost power."""


class BundleStore:
    """The folder of a followed tag. One process uses it at a time."""

    def __init__(self, folder: Path, key: VerifyingKey) -> None:
        """Open or create a folder for bundles signed by a key.

        Raises:
            RegistryError: another process uses the folder.
            OSError: it cannot be written.
        """
        self._folder, self._key = folder, key
        self._refused: dict[str, str] = {}
        """Refused in this process only."""
        self._attempted: str | None = None
        self._running: str | None = None
        """The bundle that this process runs, whether or not the record could be saved."""
        self._saving, self._is_closed = Lock(), False
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked_file(folder / LOCK, lambda waited_s: None, limit_s=0.0))
            except TimeoutError:
                raise RegistryError(f"another process uses {folder}; end it, or give each its own bundle") from None
            self._record = self._read_record()
            self._lock = stack.pop_all()

    def close(self) -> None:
        """Let other processes use the folder, which this one does not change any more. Idempotent."""
        with self._saving:
            self._is_closed = True
            self._lock.close()

    def accepted(self) -> Pulled | None:
        """Return the bundle accepted last, or the one before if that one is damaged; None if there is none."""
        for digest in (self._record.current, self._record.previous):
            if digest is not None:
                try:
                    bundle = Bundle.open(self._path(digest), self._key)
                except BundleError as error:
                    log.warning("%s cannot be used again: %s", digest, error)
                else:
                    self._running = digest
                    return Pulled(bundle, digest)
        return None

    def pull(self, address: RegistryAddress, digest: str) -> Bundle:
        """Return the bundle of a digest, pulled unless it is in the folder; room is made before.

        Raises:
            BundleError: the bundle is damaged, of another version, or not signed by the key.
            RegistryError: the registry cannot be reached, refuses, or gives something else.
            OSError: the disk is full.
        """
        path = self._path(digest)
        self._remove_others(digest)
        if path.exists():
            try:
                return Bundle.open(path, self._key)
            except BundleError as error:
                log.warning("%s is damaged and pulled again: %s", digest, error)
                shutil.rmtree(path)
        exact = replace(address, tag=None, sha256=digest.removeprefix("sha256:"))
        return pull(exact, path, self._key).bundle

    def refusal(self, digest: str) -> str | None:
        """Return the reason for which a bundle is not tried again; None if it may be tried."""
        return self._refused.get(digest) or self._record.refused.get(digest)

    def blame(self, digest: str) -> str | None:
        """Return the reason to refuse a bundle that ended too many processes; None if there is none."""
        attempts = self._record.attempts.get(digest, 0)
        return f"{attempts} attempts with it ended with the process" if attempts >= MAX_ATTEMPTS else None

    @contextmanager
    def attempt(self, digest: str) -> Iterator[None]:
        """Record an attempt until the end of the block, or of this process if that is killed.

        Raises:
            OSError: the attempt cannot be recorded.
        """
        attempts, self._attempted = self._record.attempts, digest
        self._save(replace(self._record, attempts={**attempts, digest: attempts.get(digest, 0) + 1}))
        try:
            yield
        finally:
            self.end_attempt()

    def end_attempt(self) -> None:
        """Forget the attempt of this process, which did not kill it. Idempotent."""
        kept = {digest: count for digest, count in self._record.attempts.items() if digest != self._attempted}
        self._attempted = None
        if kept != self._record.attempts:
            with _logged_oserror():
                self._save(replace(self._record, attempts=kept))

    def accept(self, digest: str) -> None:
        """Note that a bundle is in use, and remove the one before the last."""
        self._running = digest
        with _logged_oserror():  # the run goes on; its next start begins with the bundle before
            previous = self._record.previous if digest == self._record.current else self._record.current
            attempts = {each: count for each, count in self._record.attempts.items() if each != digest}
            self._save(replace(self._record, current=digest, previous=previous, attempts=attempts))
            self._remove_others()

    def refuse(self, digest: str, reason: str, *, lasting: bool) -> None:
        """Note that a bundle is not to be tried again: where `lasting`, not by later processes either."""
        self._refused[digest] = reason = shortened(reason)  # it may name a thousand labels
        if lasting:
            kept = list(self._record.refused.items())[1 - MAX_REFUSED :]
            with _logged_oserror():
                self._save(replace(self._record, refused={**dict(kept), digest: reason}))
                self._remove_others()

    def _path(self, digest: str) -> Path:
        return self._folder / digest.removeprefix("sha256:")

    def _remove_others(self, *needed: str) -> None:
        """Remove bundles other than these, the one in use and the one before, and leftovers of killed pulls."""
        if self._is_closed:
            return
        remove_stale(self._folder)
        used = (*needed, self._running, self._record.current, self._record.previous)
        kept = {self._path(each) for each in used if each}
        for path in self._folder.iterdir():
            if path not in kept and DIGITS.fullmatch(path.name):
                shutil.rmtree(path)

    def _save(self, record: StoreRecord) -> None:
        with self._saving:
            if not self._is_closed:  # else the folder may be another process's
                write_file(self._folder / RECORD, json.dumps(dataclasses.asdict(record), indent=2))
                self._record = record

    def _read_record(self) -> StoreRecord:
        """Read the record; without a valid one, the run begins as on a new device."""
        path = self._folder / RECORD
        try:
            return decode(StoreRecord, json.loads(read_file(path, MAX_RECORD_BYTES, follow_links=False)), "record")
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s is damaged (%s); the followed tag is pulled again", path, error)
        return StoreRecord(None, None, {}, {})


@contextmanager
def _logged_oserror() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("the record of followed bundles cannot be changed (%s)", error)
