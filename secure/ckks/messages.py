"""What goes between client and server: keys, rows, answers. Strictly parsed.

Each is one msgpack map, bound to the digest of the plan and to the number of a key. A message is
accepted only if packing what was read gives the same bytes again. Whatever is wrong raises
`BadMessage`. Messages are meant to travel in signed, sealed envelopes (`secure.exchange`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

import msgpack

from secure.ckks.plan import Plan
from secure.errors import BadMessage

NUMBER = 16  # bytes of the random numbers that name keys and requests


@dataclass(frozen=True)
class Message:
    """What every message has."""

    TYPE: ClassVar[str]

    key: bytes


@dataclass(frozen=True)
class Keys(Message):
    """Evaluation keys: what a server needs to compute, and cannot decrypt with."""

    relinearisation: bytes = field(repr=False)
    rotations: bytes = field(repr=False)

    TYPE = "ckks keys"


@dataclass(frozen=True)
class Rows(Message):
    """Encrypted rows: one ciphertext per row, or one per feature for all rows."""

    request: bytes
    rows: int
    ciphertexts: list[bytes] = field(repr=False)

    TYPE = "ckks rows"


@dataclass(frozen=True)
class Answers(Message):
    """Encrypted answers to one request."""

    request: bytes
    rows: int
    ciphertexts: list[bytes] = field(repr=False)

    TYPE = "ckks answers"


M = TypeVar("M", bound=Message)

_KINDS: Mapping[str, type] = {
    "key": bytes,
    "request": bytes,
    "rows": int,
    "relinearisation": bytes,
    "rotations": bytes,
    "ciphertexts": list,
}


def pack(plan: Plan, message: Message) -> bytes:
    """Return the one encoding of a message."""
    body = {item.name: getattr(message, item.name) for item in fields(message)}
    packed: bytes = msgpack.packb({"type": message.TYPE, "plan": plan.digest} | body)
    return packed


def unpack(plan: Plan, kind: type[M], packed: bytes, limit: int) -> M:
    """Read a message of one kind and at most `limit` bytes."""
    if len(packed) > limit:
        raise BadMessage(f"{kind.TYPE}: too large", field="size", value=len(packed), allowed=limit)
    try:
        data: Any = msgpack.unpackb(packed)
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise BadMessage(
            f"{kind.TYPE}: malformed, {type(error).__name__}", field="message"
        ) from None
    names = [item.name for item in fields(kind)]
    if type(data) is not dict or data.keys() != {"type", "plan", *names}:
        raise BadMessage(f"{kind.TYPE}: a message has other fields", field="fields")
    if data["type"] != kind.TYPE or data["plan"] != plan.digest:
        raise BadMessage(f"{kind.TYPE}: a message of another type or plan", field="plan")
    for name in names:
        value = data[name]
        right = type(value) is _KINDS[name]
        if name in ("key", "request"):
            right = right and len(value) == NUMBER
        if name == "rows":
            right = right and 1 <= value <= plan.slots
        if name == "ciphertexts":
            right = right and all(type(item) is bytes for item in value)
        if not right:
            raise BadMessage(f"{kind.TYPE}: a wrong type or length", field=name)
    message = kind(**{name: data[name] for name in names})
    if pack(plan, message) != packed:
        raise BadMessage(f"{kind.TYPE}: not the one encoding of its content", field="encoding")
    return message
