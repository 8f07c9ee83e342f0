"""What the ledger asks of whoever holds keys: to sign, and to check a signature."""

from __future__ import annotations

from typing import Protocol

from nacl.signing import VerifyKey


class Signer(Protocol):
    """A private key; `secure.keys.SigningKey` is one."""

    public: str

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message`."""
        ...


class Verifier(Protocol):
    """A check of a signature, which raises where it does not agree; `secure.keys.verify` is one."""

    def __call__(self, public: str, message: bytes, signature: bytes) -> None:
        """Raise any exception unless `signature` over `message` is by `public`."""
        ...


def ed25519(public: str, message: bytes, signature: bytes) -> None:
    """Check an Ed25519 signature by a key of 64 hexadecimal digits; raises where it is wrong."""
    VerifyKey(bytes.fromhex(public)).verify(message, signature)
