"""The messages of encrypted sums, strictly parsed.

| message | from, to |
|---|---|
| `Advert`; `Roster` | silo; the silo that makes the key, once per job |
| `Deal` | the silo that makes the key, to all, with every request to encrypt or open |
| `Encrypted` with a `Half` | silo, once per round |
| `Opening` | the two silos that open, with the deal |
| `Opened` | each of the two |

How they are packed, read and signed is in `secure.aggregation.packing`. A silo's `Half` is what
the others see of its ciphertext: without the rest of it, it tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from secure.aggregation.ckks.facts import SEED, Terms
from secure.aggregation.packing import (
    PER_MEMBER,
    Check,
    Message,
    Signed,
    by_member,
    member,
    packed,
    raw,
)

SEALED = 48
"""Bytes of the job's root key, sealed for one silo."""


def _halves(value: Any, facts: Terms) -> bool:
    return packed(PER_MEMBER + facts.budget.chunks * SEED)(value, facts)


def _seeds(value: Any, facts: Terms) -> bool:
    return raw(facts.budget.chunks * SEED)(value, facts)


@dataclass(frozen=True)
class Advert(Signed):
    """A silo's X25519 public key of this job."""

    sender: str
    key: bytes = field(repr=False)
    signature: bytes = field(default=b"", repr=False)

    TYPE = "advert"
    CHECKS: ClassVar[dict[str, Check]] = {"sender": member, "key": raw(32), "signature": raw(64)}


@dataclass(frozen=True)
class Roster(Message):
    """The packed `Advert` of every silo."""

    adverts: list[bytes] = field(repr=False)

    TYPE = "roster"
    CHECKS: ClassVar[dict[str, Check]] = {"adverts": packed()}


@dataclass(frozen=True)
class Deal(Signed):
    """The job's root key, sealed for each of the other silos."""

    sender: str
    key: bytes = field(repr=False)
    sealed: dict[str, bytes] = field(repr=False)
    signature: bytes = field(default=b"", repr=False)

    TYPE = "deal"
    CHECKS: ClassVar[dict[str, Check]] = {
        "sender": member,
        "key": raw(32),
        "sealed": by_member(SEALED),
        "signature": raw(64),
    }


@dataclass(frozen=True)
class Half(Signed):
    """The seeds of the public halves of a silo's ciphertexts in this round."""

    sender: str
    seeds: bytes = field(repr=False)
    signature: bytes = field(default=b"", repr=False)

    TYPE = "half"
    CHECKS: ClassVar[dict[str, Check]] = {
        "sender": member,
        "seeds": _seeds,
        "signature": raw(64),
    }


@dataclass(frozen=True)
class Encrypted(Message):
    """A silo's packed `Half`, and the residues of the other halves."""

    half: bytes = field(repr=False)
    values: bytes = field(repr=False)

    TYPE = "encrypted"
    CHECKS: ClassVar[dict[str, Check]] = {
        "half": lambda value, facts: _halves([value], facts),
        "values": lambda value, facts: (
            type(value) is bytes and len(value) == facts.budget.upload - facts.budget.chunks * SEED
        ),
    }


@dataclass(frozen=True)
class Opening(Message):
    """The packed `Half` of every silo, in the order of names."""

    halves: list[bytes] = field(repr=False)

    TYPE = "opening"
    CHECKS: ClassVar[dict[str, Check]] = {"halves": _halves}


@dataclass(frozen=True)
class Opened(Message):
    """The flooded product that opens the sum: residues, [primes, length]."""

    values: bytes = field(repr=False)

    TYPE = "opened"
    CHECKS: ClassVar[dict[str, Check]] = {
        "values": lambda value, facts: type(value) is bytes and len(value) == facts.budget.answer
    }
