"""Fuzzer of signed bundles and of keys: nothing that the key did not sign is accepted."""

from pathlib import Path
from random import Random

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.bundle.bundle import MANIFEST, Bundle
from edge.bundle.signing import PRIVATE_KEY, PUBLIC_KEY, SIGNATURE, VerifyingKey, read_signing_key, read_verifying_key
from edge.errors import BundleError, SignatureError
from tests.fuzz.base import Input
from tests.fuzz.readers.manifest import SPECIAL, place, remove
from tests.fuzz.stand_in import signed_stand_in
from tests.fuzz.values import damage

KINDS = ("signature", "signature", "manifest", "public", "private", "file")


class SignatureReader:
    """A signed bundle, and its keys."""

    errors = (BundleError, SignatureError)
    rooms = ("edge.bundle.signing", "edge.bundle.files")

    def __init__(self, base: Path, scratch: Path) -> None:
        self._bundle, self._key = signed_stand_in(base, scratch)
        self._files = {
            "signature": self._bundle / SIGNATURE,
            "manifest": self._bundle / MANIFEST,
            "public": scratch / "keys" / PUBLIC_KEY,
            "private": scratch / "keys" / PRIVATE_KEY,
            "file": self._bundle / "samples.npz",
        }
        self._valid = {kind: path.read_bytes() for kind, path in self._files.items()}

    def generate(self, random: Random) -> Input:
        kind = random.choice(KINDS)
        if random.random() < 0.01:
            return Input(f"{kind}-{random.choice(SPECIAL)}", b"")
        return Input(kind, random.randbytes(8))  # seed of the damage: the keys are new in each process

    def passes_first_step(self, given: Input) -> bool:
        return True

    def prepare(self) -> None:
        self.read(Input("file", b""))

    def read(self, given: Input) -> None:
        kind, _, special = given.kind.partition("-")
        path, valid = self._files[kind], self._valid[kind]
        content = damage(Random(given.content), valid) if given.content else valid
        remove(path)
        place(path, Input(special or kind, content))
        try:
            self._open(kind, is_changed=bool(special) or content != valid)
        finally:
            remove(path)
            path.write_bytes(valid)

    def _open(self, kind: str, *, is_changed: bool) -> None:
        key = self._key
        if kind == "private":
            read_signing_key(self._files[kind]).sign(b"manifest")
            return
        if kind == "public":
            key = read_verifying_key(self._files[kind])
            is_changed = raw(key) != raw(self._key)  # text around a key may change
        Bundle.open(self._bundle, key)
        assert not is_changed, f"a changed {kind} was accepted"


def raw(key: VerifyingKey) -> bytes:
    return key.key.public_bytes(Encoding.Raw, PublicFormat.Raw)


READER = SignatureReader
