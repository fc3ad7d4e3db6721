"""The bundle that a run which follows a tag begins with."""

import logging
from pathlib import Path
from typing import NamedTuple

from edge.bundle.bundle import Bundle
from edge.bundle.signing import VerifyingKey
from edge.errors import BundleError, RegistryError
from edge.live.deployment import short_digest
from edge.registry.address import RegistryAddress
from edge.registry.store import BundleStore
from edge.registry.transfer import bundle_digest, tag_digest

log = logging.getLogger(__name__)


class FirstBundle(NamedTuple):
    """A bundle to begin with."""

    bundle: Bundle
    digest: str
    is_new: bool
    """True if it was pulled, and has not been verified on this device."""


def first_bundle(address: RegistryAddress, folder: Path, key: VerifyingKey, store: BundleStore) -> FirstBundle:
    """Return the bundle accepted last, else the one in the folder, else that of the tag.

    Raises:
        RegistryError: only the tag has a bundle, and it was refused, or the registry cannot be reached.
        BundleError: the bundle of the tag is damaged, or not signed by the key.
        OSError: the disk is full.
    """
    if (accepted := store.accepted()) is not None:
        return FirstBundle(*accepted, is_new=False)
    if folder.exists():
        try:
            bundle = Bundle.open(folder, key)
            return FirstBundle(bundle, bundle_digest(bundle), is_new=False)
        except BundleError as error:  # such as a key that was replaced
            log.warning("%s; the run begins with the bundle of %s", error, address)
    digest = tag_digest(address)
    if (reason := store.refusal(digest) or store.blame(digest)) is not None:
        raise first_refused(digest, reason)
    return FirstBundle(store.pull(address, digest), digest, is_new=True)


def first_refused(digest: str, reason: str) -> RegistryError:
    """Return the error for a tag's bundle that the run cannot begin with."""
    return RegistryError(
        f"the run would begin with the tag's bundle {short_digest(digest)}, which is refused: {reason}; let the tag "
        "name another one"
    )
