"""How messages of an aggregation are packed, read and signed, whatever its scheme.

Each is one msgpack map: its type, the federation, job, round and digest of the facts, then its
fields. A message is accepted only if packing what was read gives the same bytes again, so each has
exactly one encoding and carries nothing else. Whatever is wrong raises `BadMessage`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, TypeVar

import msgpack

from secure.errors import BadMessage
from secure.exchange.envelope import Signer
from secure.keys import verify

PER_MEMBER = 2048
"""More bytes than any part of a message that is there once per member, vectors aside."""


class Facts(Protocol):
    """The public facts that messages are bound to: of one round, or of what comes before them.

    `scheme` is the name of the protocol, `digest` binds all of the facts, `limit` is the most
    bytes that a message can have.
    """

    scheme: ClassVar[str]

    @property
    def federation(self) -> str:
        """The federation."""
        ...

    @property
    def job(self) -> str:
        """The job."""
        ...

    @property
    def number(self) -> int:
        """The number of the round, or of the attempt at it."""
        ...

    @property
    def members(self) -> Mapping[str, str]:
        """The silos that take part, with their identity keys."""
        ...

    @property
    def digest(self) -> bytes:
        """BLAKE2b-256 of all the facts."""
        ...

    @property
    def limit(self) -> int:
        """The most bytes that a message can have."""
        ...


Check = Callable[[Any, Any], bool]


@dataclass(frozen=True)
class Message:
    """What every message has: a type, and a check for each field."""

    TYPE: ClassVar[str]
    CHECKS: ClassVar[dict[str, Check]]


class Signed(Message):
    """A message with these two among its fields; the identity key of the sender signs it."""

    sender: str
    signature: bytes


M = TypeVar("M", bound=Message)


def member(value: Any, facts: Facts) -> bool:
    """Whether a field names a silo that takes part."""
    return type(value) is str and value in facts.members


def raw(size: int) -> Check:
    """A check for bytes of one size."""
    return lambda value, facts: type(value) is bytes and len(value) == size


def names(value: Any, facts: Facts) -> bool:
    """Whether a field is a sorted list of silos that take part."""
    if type(value) is not list or not all(member(name, facts) for name in value):
        return False
    return value == sorted(set(value))


def packed(limit: int = PER_MEMBER) -> Check:
    """A check for packed messages, at most one per member, of at most `limit` bytes each."""

    def check(value: Any, facts: Facts) -> bool:
        if type(value) is not list or len(value) > len(facts.members):
            return False
        return all(type(item) is bytes and len(item) <= limit for item in value)

    return check


def by_member(size: int) -> Check:
    """A check for bytes of one size by the names of silos, sorted."""

    def check(value: Any, facts: Facts) -> bool:
        if type(value) is not dict or not names(list(value), facts):
            return False
        return all(raw(size)(item, facts) for item in value.values())

    return check


def pack(facts: Facts, message: Message) -> bytes:
    """Return the one encoding of a message."""
    body = {item.name: getattr(message, item.name) for item in fields(message)}
    packed: bytes = msgpack.packb(_head(facts, message) | body)
    return packed


def unpack(facts: Facts, kind: type[M], packed: bytes) -> M:
    """Read a message of one kind; `BadMessage` says which field is wrong, never its value."""
    if len(packed) > facts.limit:
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


S = TypeVar("S", bound=Signed)


def signed(facts: Facts, message: S, key: Signer) -> S:
    """Return the message with its sender's signature."""
    made: dict[str, Any] = {"signature": key.sign(_statement(facts, message))}
    return replace(message, **made)


def check_signature(facts: Facts, message: Signed) -> None:
    """Check a message's signature by the sender's identity key; `BadSignature` in doubt."""
    verify(facts.members[message.sender], _statement(facts, message), message.signature)


_MEANING = {"facts": "list of members, length or other terms of the sum"}


def _head(facts: Facts, kind: Message | type[Message]) -> dict[str, Any]:
    return {
        "type": kind.TYPE,
        "federation": facts.federation,
        "job": facts.job,
        "round": facts.number,
        "facts": facts.digest,
    }


def _statement(facts: Facts, message: Message) -> bytes:
    body = [getattr(message, item.name) for item in fields(message) if item.name != "signature"]
    label = f"tacit {facts.scheme} signature 1"
    statement: bytes = msgpack.packb([label, message.TYPE, facts.digest, body])
    return statement
