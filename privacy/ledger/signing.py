"""What the ledger asks of whoever holds keys: to sign, and to check a signature."""

from __future__ import annotations

from typing import Protocol


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
