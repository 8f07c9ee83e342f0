"""Key agreement, key derivation, masks and encrypted shares.

Every key is derived by HKDF-SHA256 from a secret of this round and a label that names its use, the
digest of the round's facts (federation, job, round, members and the rest) and the silo or pair it
belongs to. So no key serves two uses, two pairs or two rounds.
Source: Bonawitz et al. 2017, section 4; X25519 (RFC 7748), HKDF (RFC 5869), ChaCha20 and
ChaCha20-Poly1305 (RFC 8439), all of them from `cryptography`.
"""

from __future__ import annotations

import hashlib
import os

import msgpack
import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secure.aggregation.packing import Facts
from secure.aggregation.rounds import Ring, Round
from secure.aggregation.shamir import SHARE
from secure.errors import BadMessage

NONCE, TAG = 12, 16
SEALED = NONCE + 2 * SHARE + TAG
"""The size in bytes of the two encrypted shares that one silo has for another."""

_CHUNK = 1 << 16  # bytes of key stream at a time: it stays in the processor's cache
_ZEROS = bytes(_CHUNK)


def public_of(secret: bytes) -> bytes:
    """Return the X25519 public key of a 32-byte secret."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, public: bytes) -> bytes:
    """Return the X25519 shared secret; `BadMessage` for a public key of small order."""
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        raise BadMessage("a public key agrees on nothing secret", field="key") from None


def derive(facts: Facts, use: str, secret: bytes, *parties: str) -> bytes:
    """Return the 32-byte key of one use, for the parties in this order."""
    label: bytes = msgpack.packb([f"tacit {facts.scheme} 1", use, facts.digest, list(parties)])
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=label).derive(secret)


def pair_key(facts: Round, secret: bytes, public: bytes, own: str, other: str) -> bytes:
    """Return the key of the mask that two silos share: the same from either side."""
    return derive(facts, "pair mask", agree(secret, public), *sorted((own, other)))


def self_key(facts: Round, seed: bytes, owner: str) -> bytes:
    """Return the key of the mask that a silo adds from its own seed b_u."""
    return derive(facts, "self mask", seed, owner)


def apply(total: Ring, key: bytes, *, subtract: bool = False) -> None:
    """Add the mask PRG(key) to a vector, or subtract it, in place, modulo its 2^32 or 2^64.

    The mask is the ChaCha20 key stream from block 0 at nonce 0, read as little-endian integers:
    a key is used for one mask only.
    """
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    buffer = bytearray(_CHUNK)
    mask = np.frombuffer(buffer, dtype=total.dtype)
    for begin in range(0, len(total), len(mask)):
        part = total[begin : begin + len(mask)]
        stream.update_into(_ZEROS[: part.nbytes] if len(part) < len(mask) else _ZEROS, buffer)
        combine = np.subtract if subtract else np.add
        combine(part, mask[: len(part)], out=part)


def seal_shares(key: bytes, shares: bytes, bound: bytes) -> bytes:
    """Encrypt two shares for their receiver; `bound` is authenticated with them."""
    nonce = os.urandom(NONCE)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, shares, bound)


def open_shares(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    """Decrypt two shares; `BadMessage` where they are for others, or changed."""
    try:
        shares = ChaCha20Poly1305(key).decrypt(sealed[:NONCE], sealed[NONCE:], bound)
    except InvalidTag:
        raise BadMessage(
            "an encrypted share does not open: it is for another silo, round or list of members, "
            "or was changed",
            field="sealed",
        ) from None
    if len(shares) != 2 * SHARE:
        raise BadMessage("an encrypted share has a wrong length", field="sealed")
    return shares


def commit(facts: Round, kind: str, owner: str, holder: str, share: bytes) -> bytes:
    """Return the 32-byte commitment to one share.

    It hides the share, which has 256 bits that nobody else knows until the share is opened.
    """
    bound: bytes = msgpack.packb(["tacit masked commit 1", facts.digest, kind, owner, holder])
    return hashlib.blake2b(bound + share, digest_size=32).digest()
