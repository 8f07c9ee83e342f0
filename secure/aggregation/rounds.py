"""The public facts of one round of aggregation, known to every party before it starts.

    >>> from secure.aggregation.rounds import Round
    >>> keys = {"east": "aa" * 32, "north": "bb" * 32, "west": "cc" * 32}
    >>> facts = Round("heart", "job-1", 0, keys, length=10, bits=32, bound=1 << 20)
    >>> facts.threshold
    3

Whatever a silo signs or encrypts in the round is bound to `Round.digest`, so that nothing from
another round, job, federation or list of members agrees with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import msgpack
import numpy as np
import numpy.typing as npt

from secure.aggregation.packing import PER_MEMBER
from secure.aggregation.quantize import check_sum
from secure.errors import BadParameters, TooFewSilos

FEWEST, MOST = 3, 64
"""How many members a round may have. Of two silos, each would know the other's vector."""

MAX_LENGTH = 1 << 26
"""Most values in one vector: half a gibibyte at 64 bits."""

Ring = npt.NDArray[np.unsignedinteger[Any]]
"""A vector of residues modulo 2^32 or 2^64."""


def threshold(silos: int) -> int:
    """The number of so many silos that have to agree on a list of survivors, and open shares."""
    return 2 * silos // 3 + 1


@dataclass(frozen=True)
class Round:
    """One round: who sums what.

    Shapes and units: `members` names each silo's identity key (64 hexadecimal digits); a vector
    has `length` integers, each at most `bound` in absolute value; sums are modulo 2^`bits`.
    Privacy: every field is public. `length` and `bound` may not depend on any silo's rows.
    Errors: `TooFewSilos` below three members, `BadParameters` for anything else, and for a sum
    that could wrap around.
    Source: Bonawitz et al. 2017, section 4; against a hostile coordinator, which their section 6
    treats, two lists of survivors may not both find t signatures, which takes t > 2n/3.
    """

    federation: str
    job: str
    number: int
    members: Mapping[str, str]
    length: int
    bits: int
    bound: int
    digest: bytes = field(init=False, repr=False, compare=False)

    scheme: ClassVar[str] = "masked"

    def __post_init__(self) -> None:
        ordered = MappingProxyType(dict(sorted(self.members.items())))
        object.__setattr__(self, "members", ordered)
        self._validate()
        facts = [
            "tacit masked round 1",
            self.federation,
            self.job,
            self.number,
            [list(pair) for pair in ordered.items()],
            self.length,
            self.bits,
            self.bound,
        ]
        digest = hashlib.blake2b(msgpack.packb(facts), digest_size=32).digest()
        object.__setattr__(self, "digest", digest)

    @property
    def threshold(self) -> int:
        """The number t of silos without which nothing is opened: floor(2n/3) + 1."""
        return threshold(len(self.members))

    @property
    def key(self) -> str:
        """The name under which a silo stores its state: one state per round, whoever is in it."""
        return f"{self.federation}/{self.job}/{self.number}"

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The type of one residue, little endian on every machine."""
        return np.dtype(f"<u{self.bits // 8}")

    @property
    def size(self) -> int:
        """The size of one vector in bytes."""
        return self.length * self.bits // 8

    @property
    def limit(self) -> int:
        """The most bytes that a message of the round can have."""
        return self.size + (len(self.members) + 1) * PER_MEMBER

    def place(self, name: str) -> int:
        """Return the silo's place in the sorted members, from 1: where its shares are taken."""
        return list(self.members).index(name) + 1

    def enough(self, silos: Iterable[str], what: str) -> None:
        """Refuse fewer silos than the threshold, or than three, with `TooFewSilos`."""
        count, needed = len(set(silos)), max(self.threshold, FEWEST)
        if count < needed:
            raise TooFewSilos(
                f"{count} of {len(self.members)} silos {what}, {needed} are needed: "
                "nothing is opened, and a new round needs fresh keys",
                field="silos",
                value=count,
                allowed=f"at least {needed}",
            )

    def _validate(self) -> None:
        check_parties(self.federation, self.job, self.members)
        for name, low, high in (
            ("number", 0, 1 << 53),
            ("length", 1, MAX_LENGTH),
            ("bound", 1, 1 << 62),
        ):
            check_number(name, getattr(self, name), low, high)
        check_sum(len(self.members), self.bound, self.bits)


def check_parties(federation: str, job: str, members: Mapping[str, str]) -> None:
    """Refuse names that are none, too few or too many silos, and keys that are none or shared."""
    for name, text in (("federation", federation), ("job", job)):
        if not _is_name(text):
            raise _wrong(name, text, "text of 1 to 128 printable bytes without a slash")
    for member in members:
        if not _is_name(member):
            raise _wrong("members", member, "names of 1 to 128 printable bytes without a slash")
    if len(members) < FEWEST:
        raise TooFewSilos(
            f"a sum of {len(members)} silos hides nothing from the others",
            field="members",
            value=len(members),
            allowed=f"at least {FEWEST}",
        )
    if len(members) > MOST:
        raise _wrong("members", len(members), f"{FEWEST} to {MOST}")
    for public in members.values():
        if not _is_key(public):
            raise _wrong("members", "a key", "keys of 64 lower-case hexadecimal digits")
    if len(set(members.values())) < len(members):
        raise _wrong("members", "one key twice", "a key of its own for each silo")


def check_number(name: str, value: object, low: int, high: int) -> None:
    """Refuse what is no integer from `low` to `high`, with `BadParameters`."""
    if type(value) is not int or not low <= value <= high:
        raise _wrong(name, value, f"{low} to {high}")


def _is_name(text: object) -> bool:
    if type(text) is not str or not text.isprintable() or "/" in text:
        return False
    return 0 < len(text.encode()) <= 128


def _is_key(text: object) -> bool:
    if type(text) is not str or len(text) != 64:
        return False
    return all(digit in "0123456789abcdef" for digit in text)


def _wrong(name: str, value: object, allowed: str) -> BadParameters:
    return BadParameters(
        f"{name} of a round: {value!r} is not {allowed}", field=name, value=value, allowed=allowed
    )
