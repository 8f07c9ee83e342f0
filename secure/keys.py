"""Identity keys: Ed25519, made by the party that owns them, kept in files of mode 0600.

    >>> key = SigningKey.generate()
    >>> verify(key.public, b"statement", key.sign(b"statement"))

A public key is 64 hexadecimal digits; a fingerprint, for comparing out of band, is the first
32 digits of its BLAKE2b digest in groups of four. PyNaCl (libsodium) does the arithmetic.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from nacl import exceptions, signing
from nacl.public import PrivateKey, SealedBox

from secure.errors import BadSignature, KeyFileError


class SigningKey:
    """A party's private key. It signs; it never shows itself (no repr, no pickle, no log)."""

    __slots__ = ("_box", "_key", "public")

    def __init__(self, seed: bytes) -> None:
        self._key = signing.SigningKey(seed)
        self._box: SealedBox[PrivateKey] | None = None
        self.public = self._key.verify_key.encode().hex()

    @classmethod
    def generate(cls) -> SigningKey:
        """Draw a key from the operating system's generator."""
        return cls(os.urandom(32))

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a key file; one that is missing or readable by others raises `KeyFileError`."""
        try:
            mode = path.stat().st_mode & 0o777
            seed = bytes.fromhex(path.read_text().strip())
        except FileNotFoundError:
            raise KeyFileError(f"{path}: no key file here", field="key", value=str(path)) from None
        except ValueError:
            raise KeyFileError(f"{path}: not a key file", field="key", value=str(path)) from None
        if mode & 0o077:
            raise KeyFileError(
                f"{path}: mode {mode:04o} lets others read the key; run chmod 600",
                field="key",
                value=f"{mode:04o}",
                allowed="0600",
            )
        return cls(seed)

    def save(self, path: Path) -> None:
        """Write the key at mode 0600; an existing file is never overwritten."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(bytes(self._key).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`."""
        return self._key.sign(message).signature

    def unseal(self, sealed: bytes) -> bytes:
        """Open a sealed box that was made for this key (`secure.exchange.sealing`)."""
        if self._box is None:
            self._box = SealedBox(self._key.to_curve25519_private_key())
        opened: bytes = self._box.decrypt(sealed)
        return opened

    @property
    def fingerprint(self) -> str:
        """The public key's fingerprint, to compare out of band."""
        return fingerprint(self.public)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a signing key does not travel")


def fingerprint(public: str, *, size: int = 16) -> str:
    """Return the fingerprint of a public key: 32 hexadecimal digits in groups of four.

    Whoever made the key cannot be answered by another key of that fingerprint (2^128 tries). What
    others had a hand in, such as a document, takes `size` 24: two of one fingerprint take 2^96.
    """
    digest = hashlib.blake2b(bytes.fromhex(public), digest_size=size).hexdigest()
    return "-".join(digest[i : i + 4] for i in range(0, 2 * size, 4))


def same_fingerprint(said: str, expected: str) -> bool:
    """Whether a person typed this fingerprint, whatever the case, the dashes and the blanks."""
    return re.sub(r"[\s-]", "", said).lower() == expected.replace("-", "")


def verify(public: str, message: bytes, signature: bytes) -> None:
    """Check a signature; one that does not agree raises `BadSignature`."""
    try:
        signing.VerifyKey(bytes.fromhex(public)).verify(message, signature)
    except (exceptions.BadSignatureError, ValueError):
        raise BadSignature(
            f"a signature does not agree with key {fingerprint_or_text(public)}", field="signature"
        ) from None


def fingerprint_or_text(public: str) -> str:
    """The fingerprint where `public` is a key, else a word that says it is not."""
    try:
        return fingerprint(public)
    except ValueError:
        return "(not a key)"
