"""Sealing: bytes that only one party can read, for transport over a broker.

An anonymous sealed box of libsodium (X25519, XSalsa20-Poly1305) to the X25519 form of the
receiver's identity key. Who sent it is said, and signed, inside. Signing and key agreement may
share a key pair in this form (Thormarker 2021, ePrint 2021/509), so a party has one key to
compare. The box gives no forward secrecy: who obtains a party's key opens what was recorded.
"""

from __future__ import annotations

from functools import lru_cache

from nacl import exceptions
from nacl.public import PublicKey, SealedBox
from nacl.signing import VerifyKey

from secure.errors import BadMessage
from secure.keys import SigningKey

OVERHEAD = 48
"""Bytes that sealing adds."""


def seal_for(public: str, message: bytes) -> bytes:
    """Seal a message for the holder of a public key (64 hexadecimal digits)."""
    sealed: bytes = SealedBox(_agreement(public)).encrypt(message)
    return sealed


def unseal(key: SigningKey, sealed: bytes) -> bytes:
    """Open what was sealed for this key; anything else raises `BadMessage`."""
    try:
        return key.unseal(sealed)
    except (exceptions.CryptoError, exceptions.TypeError, ValueError):
        raise BadMessage("a message that was not sealed for this party, or is damaged") from None


@lru_cache(maxsize=256)
def _agreement(public: str) -> PublicKey:
    return VerifyKey(bytes.fromhex(public)).to_curve25519_public_key()
