"""The messages of a round, strictly parsed.

| message | from, to | paper (figure 4) |
|---|---|---|
| `Advertise`, `Roster` | silo, all silos | round 0, AdvertiseKeys |
| `Shares` of `EncryptedShares`, `Delivery` | silo, one silo | round 1, ShareKeys |
| `MaskedInput`, `Survivors` | silo; all silos | round 2, MaskedInputCollection |
| `Consent`, `Consents` | silo, all silos | round 3, ConsistencyCheck |
| `Opened` | silo | round 4, Unmasking |

How they are packed, read and signed is in `secure.aggregation.packing`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgpack

from secure.aggregation.masks import SEALED
from secure.aggregation.packing import (
    Check,
    Message,
    Signed,
    by_member,
    member,
    names,
    packed,
    raw,
)
from secure.aggregation.rounds import Round
from secure.aggregation.shamir import SHARE


def _vector(value: Any, facts: Round) -> bool:
    return type(value) is bytes and len(value) == facts.size


@dataclass(frozen=True)
class Advertise(Signed):
    """A silo's two X25519 public keys of this round, signed by its identity key."""

    sender: str
    mask_key: bytes = field(repr=False)
    share_key: bytes = field(repr=False)
    signature: bytes = field(default=b"", repr=False)

    TYPE = "advertise"
    CHECKS: ClassVar[dict[str, Check]] = {
        "sender": member,
        "mask_key": raw(32),
        "share_key": raw(32),
        "signature": raw(64),
    }


@dataclass(frozen=True)
class Roster(Message):
    """The packed `Advertise` of every silo that sent one."""

    adverts: list[bytes] = field(repr=False)

    TYPE = "roster"
    CHECKS: ClassVar[dict[str, Check]] = {"adverts": packed()}


@dataclass(frozen=True)
class EncryptedShares(Signed):
    """A silo's share of its seed and of its mask key, for one other silo, signed.

    The commitments let the receiver and the coordinator tell a forged share from an honest one.
    """

    sender: str
    receiver: str
    sealed: bytes = field(repr=False)
    seed_commitment: bytes = field(repr=False)
    key_commitment: bytes = field(repr=False)
    signature: bytes = field(default=b"", repr=False)

    TYPE = "encrypted shares"
    CHECKS: ClassVar[dict[str, Check]] = {
        "sender": member,
        "receiver": member,
        "sealed": raw(SEALED),
        "seed_commitment": raw(32),
        "key_commitment": raw(32),
        "signature": raw(64),
    }


@dataclass(frozen=True)
class Shares(Message):
    """A silo's packed `EncryptedShares`, one for each silo of the roster.

    The one for itself commits it to the shares that it keeps; its sealed bytes nobody opens.
    """

    sender: str
    sealed: list[bytes] = field(repr=False)

    TYPE = "shares"
    CHECKS: ClassVar[dict[str, Check]] = {"sender": member, "sealed": packed()}


@dataclass(frozen=True)
class Delivery(Message):
    """The packed `EncryptedShares` that the others made for one silo."""

    receiver: str
    sealed: list[bytes] = field(repr=False)

    TYPE = "delivery"
    CHECKS: ClassVar[dict[str, Check]] = {"receiver": member, "sealed": packed()}


@dataclass(frozen=True)
class MaskedInput(Message):
    """A silo's masked vector y_u, little endian."""

    sender: str
    values: bytes = field(repr=False)

    TYPE = "masked input"
    CHECKS: ClassVar[dict[str, Check]] = {"sender": member, "values": _vector}


@dataclass(frozen=True)
class Survivors(Message):
    """The silos whose masked vectors the coordinator has, sorted."""

    survivors: list[str]

    TYPE = "survivors"
    CHECKS: ClassVar[dict[str, Check]] = {"survivors": names}


@dataclass(frozen=True)
class Consent(Signed):
    """A silo's signature over the silos that shared and the survivors among them."""

    sender: str
    lists: bytes = field(repr=False)
    signature: bytes = field(default=b"", repr=False)

    TYPE = "consent"
    CHECKS: ClassVar[dict[str, Check]] = {
        "sender": member,
        "lists": raw(32),
        "signature": raw(64),
    }


@dataclass(frozen=True)
class Consents(Message):
    """The packed `Consent` of at least a threshold of survivors."""

    consents: list[bytes] = field(repr=False)

    TYPE = "consents"
    CHECKS: ClassVar[dict[str, Check]] = {"consents": packed()}


@dataclass(frozen=True)
class Opened(Message):
    """A silo's shares of the survivors' seeds and of the drop-outs' mask keys."""

    sender: str
    seeds: dict[str, bytes] = field(repr=False)
    keys: dict[str, bytes] = field(repr=False)

    TYPE = "opened"
    CHECKS: ClassVar[dict[str, Check]] = {
        "sender": member,
        "seeds": by_member(SHARE),
        "keys": by_member(SHARE),
    }


def lists_digest(facts: Round, shared: Iterable[str], survivors: Iterable[str]) -> bytes:
    """Return what a consent signs: the digest of the silos that shared and of the survivors.

    The paper signs the survivors alone. With the silos that shared, a coordinator that delivers
    different shares to different silos is found out before anything is opened.
    """
    lists = ["tacit masked lists 1", facts.digest, sorted(shared), sorted(survivors)]
    return hashlib.blake2b(msgpack.packb(lists), digest_size=32).digest()
