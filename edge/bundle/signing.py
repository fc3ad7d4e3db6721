"""Ed25519 signatures of bundles, over the bytes of the manifest, which holds the sha256 of every other file.

The file `manifest.sig` holds the 64 bytes of the signature, as RFC 8032 defines them, and keys are PEM files: `openssl`
makes the same keys and signatures, and verifies them.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import SignatureError
from edge.storage import read_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE = "manifest.sig"
SIGNATURE_BYTES = 64
PRIVATE_KEY, PUBLIC_KEY = "private.pem", "public.pem"
MAX_KEY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key whose signature a bundle must have."""

    path: Path
    key: "Ed25519PublicKey"

    def verify(self, manifest: bytes, signature: bytes, origin: object) -> None:
        """Check the signature of a manifest.

        Raises:
            SignatureError: it is not this key's signature of these bytes; `origin` names the bundle in the message.
        """
        from cryptography.exceptions import InvalidSignature

        try:
            self.key.verify(signature, manifest)
        except InvalidSignature:
            raise SignatureError(
                f"{origin} is not signed by {self.path}: the bundle was changed after it was signed, or signed with "
                "another key; get it again from its publisher, or name the publisher's public key"
            ) from None


def generate_keys(folder: Path) -> None:
    """Write a new pair of keys, `private.pem` and `public.pem`, to a new folder that only this user can read.

    Raises:
        SignatureError: the folder exists; keys are never overwritten.
        OSError: the folder cannot be written; then it does not exist.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        folder.mkdir(mode=0o700)  # not through a temporary folder, which would replace keys made meanwhile
    except FileExistsError:
        raise SignatureError(
            f"{folder} exists, and keys are never overwritten; choose another folder, or move it"
        ) from None
    try:
        (folder / PRIVATE_KEY).touch(mode=0o600)
        (folder / PRIVATE_KEY).write_bytes(private)
        (folder / PUBLIC_KEY).write_bytes(public)
    except BaseException:
        shutil.rmtree(folder)
        raise


def read_signing_key(path: Path) -> "Ed25519PrivateKey":
    """Read a private key.

    Raises:
        SignatureError: the file cannot be read, or holds no private Ed25519 key without a passphrase.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(path), password=None)
    except TypeError:
        raise SignatureError(f"{path} is protected by a passphrase; decrypt it with `openssl pkey -in`") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(
            f"{path} holds no private Ed25519 key; give {PRIVATE_KEY} of a folder made by `edge keygen`"
        )
    return key


def read_verifying_key(path: Path) -> VerifyingKey:
    """Read a public key.

    Raises:
        SignatureError: the file cannot be read, or holds no public Ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"{path} holds no public Ed25519 key; give {PUBLIC_KEY} of a folder made by `edge keygen`")
    return VerifyingKey(path, key)


def read_signature(bundle: Path) -> bytes:
    """Return the signature in a bundle's folder.

    Raises:
        SignatureError: the bundle is not signed, or the file is damaged.
    """
    file = bundle / SIGNATURE
    try:
        signature = read_file(file, MAX_KEY_BYTES, follow_links=False)
    except FileNotFoundError:
        raise SignatureError(f"{bundle} is not signed: it has no {SIGNATURE}; sign it with `edge sign`") from None
    except OSError as error:
        raise SignatureError(f"{file} cannot be read ({error.strerror}); copy the whole bundle again") from error
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(
            f"{file} has {len(signature)} bytes, a signature has {SIGNATURE_BYTES}; copy the whole bundle again"
        )
    return signature


def _read(path: Path) -> bytes:
    try:
        return read_file(path, MAX_KEY_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SignatureError(f"the key {path} cannot be read ({reason}); check its path and permissions") from error
