"""The messages of a round, strictly parsed.

| message | from, to | paper (figure 4) |
|---|---|---|
| `Advertise`, `Roster` | silo, all silos | round 0, AdvertiseKeys |
| `Shares` of `EncryptedShares`, `Delivery` | silo, one silo | round 1, ShareKeys |
| `MaskedInput`, `Survivors` | silo; all silos | round 2, MaskedInputCollection |
| `Consent`, `Consents` | silo, all silos | round 3, ConsistencyCheck |
| `Opened` | silo | round 4, Unmasking |

Each is one msgpack map: its type, the federation, job, round and digest of the round's facts, then
its fields. A message is accepted only if packing what was read gives the same bytes again, so each
has exactly one encoding and carries nothing else. Whatever is wrong raises `BadMessage`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar

import msgpack

from secure.aggregation.masks import SEALED
from secure.aggregation.rounds import Round
from secure.aggregation.shamir import SHARE
from secure.errors import BadMessage
from secure.exchange.envelope import Signer
from secure.keys import verify

_PER_MEMBER = 2048  # more than any part of a message that is there once per member

Check = Callable[[Any, Round], bool]


def _member(value: Any, facts: Round) -> bool:
    return type(value) is str and value in facts.members


def _raw(size: int) -> Check:
    return lambda value, facts: type(value) is bytes and len(value) == size


def _vector(value: Any, facts: Round) -> bool:
    return type(value) is bytes and len(value) == facts.size


def _members(value: Any, facts: Round) -> bool:
    if type(value) is not list or not all(_member(name, facts) for name in value):
        return False
    return value == sorted(set(value))


def _packed(value: Any, facts: Round) -> bool:
    if type(value) is not list or len(value) > len(facts.members):
        return False
    return all(type(item) is bytes and len(item) <= _PER_MEMBER for item in value)


def _shares(value: Any, facts: Round) -> bool:
    if type(value) is not dict or not _members(list(value), facts):
        return False
    return all(_raw(SHARE)(share, facts) for share in value.values())


@dataclass(frozen=True)
class Message:
    """What every message has: a type, and a check for each field."""

    TYPE: ClassVar[str]
    CHECKS: ClassVar[dict[str, Check]]


@dataclass(frozen=True)
class Advertise(Message):
    """A silo's two X25519 public keys of this round, signed by its identity key."""

    sender: str
    mask_key: bytes = field(repr=False)
    share_key: bytes = field(repr=False)
    signature: bytes = field(default=b"", repr=False)

    TYPE = "advertise"
    CHECKS: ClassVar[dict[str, Check]] = {
        "sender": _member,
        "mask_key": _raw(32),
        "share_key": _raw(32),
        "signature": _raw(64),
    }


@dataclass(frozen=True)
class Roster(Message):
    """The packed `Advertise` of every silo that sent one."""

    adverts: list[bytes] = field(repr=False)

    TYPE = "roster"
    CHECKS: ClassVar[dict[str, Check]] = {"adverts": _packed}


@dataclass(frozen=True)
class EncryptedShares(Message):
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
        "sender": _member,
        "receiver": _member,
        "sealed": _raw(SEALED),
        "seed_commitment": _raw(32),
        "key_commitment": _raw(32),
        "signature": _raw(64),
    }


@dataclass(frozen=True)
class Shares(Message):
    """A silo's packed `EncryptedShares`, one for each silo of the roster.

    The one for itself commits it to the shares that it keeps; its sealed bytes nobody opens.
    """

    sender: str
    sealed: list[bytes] = field(repr=False)

    TYPE = "shares"
    CHECKS: ClassVar[dict[str, Check]] = {"sender": _member, "sealed": _packed}


@dataclass(frozen=True)
class Delivery(Message):
    """The packed `EncryptedShares` that the others made for one silo."""

    receiver: str
    sealed: list[bytes] = field(repr=False)

    TYPE = "delivery"
    CHECKS: ClassVar[dict[str, Check]] = {"receiver": _member, "sealed": _packed}


@dataclass(frozen=True)
class MaskedInput(Message):
    """A silo's masked vector y_u, little endian."""

    sender: str
    values: bytes = field(repr=False)

    TYPE = "masked input"
    CHECKS: ClassVar[dict[str, Check]] = {"sender": _member, "values": _vector}


@dataclass(frozen=True)
class Survivors(Message):
    """The silos whose masked vectors the coordinator has, sorted."""

    survivors: list[str]

    TYPE = "survivors"
    CHECKS: ClassVar[dict[str, Check]] = {"survivors": _members}


@dataclass(frozen=True)
class Consent(Message):
    """A silo's signature over the silos that shared and the survivors among them."""

    sender: str
    lists: bytes = field(repr=False)
    signature: bytes = field(default=b"", repr=False)

    TYPE = "consent"
    CHECKS: ClassVar[dict[str, Check]] = {
        "sender": _member,
        "lists": _raw(32),
        "signature": _raw(64),
    }


@dataclass(frozen=True)
class Consents(Message):
    """The packed `Consent` of at least a threshold of survivors."""

    consents: list[bytes] = field(repr=False)

    TYPE = "consents"
    CHECKS: ClassVar[dict[str, Check]] = {"consents": _packed}


@dataclass(frozen=True)
class Opened(Message):
    """A silo's shares of the survivors' seeds and of the drop-outs' mask keys."""

    sender: str
    seeds: dict[str, bytes] = field(repr=False)
    keys: dict[str, bytes] = field(repr=False)

    TYPE = "opened"
    CHECKS: ClassVar[dict[str, Check]] = {"sender": _member, "seeds": _shares, "keys": _shares}


M = TypeVar("M", bound=Message)
S = TypeVar("S", Advertise, EncryptedShares, Consent)


def pack(facts: Round, message: Message) -> bytes:
    """Return the one encoding of a message."""
    body = {item.name: getattr(message, item.name) for item in fields(message)}
    packed: bytes = msgpack.packb(_head(facts, message) | body)
    return packed


def unpack(facts: Round, kind: type[M], packed: bytes) -> M:
    """Read a message of one kind; `BadMessage` says which field is wrong, never its value."""
    if len(packed) > facts.size + (len(facts.members) + 1) * _PER_MEMBER:
        raise BadMessage(f"{kind.TYPE}: a message is too large", field="size", value=len(packed))
    try:
        data = msgpack.unpackb(packed)
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise BadMessage(f"{kind.TYPE}: malformed, {type(error).__name__}") from None
    head = _head(facts, kind)
    if type(data) is not dict or data.keys() != head.keys() | kind.CHECKS.keys():
        raise BadMessage(f"{kind.TYPE}: a message has other fields", field="fields")
    for name, expected in head.items():
        if type(data[name]) is not type(expected) or data[name] != expected:
            raise BadMessage(
                f"{kind.TYPE}: a message of another {_MEANING.get(name, name)}", field=name
            )
    for name, check in kind.CHECKS.items():
        if not check(data[name], facts):
            raise BadMessage(f"{kind.TYPE}: a wrong type, length or name", field=name)
    message = kind(**{name: data[name] for name in kind.CHECKS})
    if pack(facts, message) != packed:
        raise BadMessage(f"{kind.TYPE}: not the one encoding of its content", field="encoding")
    return message


def signed(facts: Round, message: S, key: Signer) -> S:
    """Return the message with its sender's signature."""
    return replace(message, signature=key.sign(_statement(facts, message)))


def check_signature(facts: Round, message: Advertise | EncryptedShares | Consent) -> None:
    """Check a message's signature by the sender's identity key; `BadSignature` in doubt."""
    verify(facts.members[message.sender], _statement(facts, message), message.signature)


def lists_digest(facts: Round, shared: Iterable[str], survivors: Iterable[str]) -> bytes:
    """Return what a consent signs: the digest of the silos that shared and of the survivors.

    The paper signs the survivors alone. With the silos that shared, a coordinator that delivers
    different shares to different silos is found out before anything is opened.
    """
    lists = ["tacit masked lists 1", facts.digest, sorted(shared), sorted(survivors)]
    return hashlib.blake2b(msgpack.packb(lists), digest_size=32).digest()


_MEANING = {"facts": "list of members, length, modulus or bound"}


def _head(facts: Round, kind: Message | type[Message]) -> dict[str, Any]:
    return {
        "type": kind.TYPE,
        "federation": facts.federation,
        "job": facts.job,
        "round": facts.number,
        "facts": facts.digest,
    }


def _statement(facts: Round, message: Message) -> bytes:
    body = [getattr(message, item.name) for item in fields(message) if item.name != "signature"]
    statement: bytes = msgpack.packb(["tacit masked signature 1", message.TYPE, facts.digest, body])
    return statement
