"""The coordinator's part: gathering, adding, and rounding to the grid. It holds no key.

roster = roster_of(terms, adverts)              # once: adverts by silo, for the maker
adder = Adder(terms.at(round))
adder.receive(sender, packed)                   # of every silo; the sender of its envelope
opening = adder.opening()                       # for the two silos that open
total = adder.total({name: opened, ...})
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from secure.aggregation.ckks.engine import coefficients
from secure.aggregation.ckks.facts import SLACK, Terms
from secure.aggregation.ckks.messages import Advert, Encrypted, Half, Opened, Opening, Roster
from secure.aggregation.ckks.parameters import DATA, DEGREE
from secure.aggregation.ckks.residues import PRIME, Integers, Words, from_bytes, recombine
from secure.aggregation.packing import check_signature, pack, unpack
from secure.errors import BadMessage, RoundRefused

_QUARTER = 0.25 + 1e-3
"""How far from the grid noise and flood can lie, in its steps, and doubles' part in it."""


def roster_of(terms: Terms, adverts: Mapping[str, bytes]) -> bytes:
    """Return the `Roster` of every silo's checked `Advert`."""
    for sender, packed in adverts.items():
        advert = unpack(terms, Advert, packed)
        check_signature(terms, advert)
        _own(sender, advert.sender)
    return pack(terms, Roster([adverts[name] for name in terms.members]))


class Adder:
    """One round at the coordinator: it adds ciphertexts as they come and keeps none.

    Errors: `BadMessage` and `BadSignature` for a silo's message, which then counts as not sent;
    `RoundRefused` before every silo's is there, or for a second one.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._halves: dict[str, bytes] = {}
        self._sum: Words = np.zeros((terms.budget.chunks, len(DATA), DEGREE), dtype=np.uint64)

    def receive(self, sender: str, packed: bytes) -> None:
        """Add one silo's `Encrypted`."""
        terms = self.terms
        message = unpack(terms, Encrypted, packed)
        half = unpack(terms, Half, message.half)
        check_signature(terms, half)
        _own(sender, half.sender)
        if sender in self._halves:
            raise RoundRefused(f"{sender} is in this sum already", field="sender", value=sender)
        # 64 residues of 45 bits stay below 2^51: they are reduced once, at the end.
        self._sum += from_bytes(message.values, *self._sum.shape)
        self._halves[sender] = message.half

    def opening(self) -> bytes:
        """Return the `Opening` of the sum of all silos."""
        missing = sorted(self.terms.members.keys() - self._halves.keys())
        if missing:
            raise RoundRefused("a sum without some silo", field="silos", value=missing)
        return pack(self.terms, Opening([self._halves[name] for name in self.terms.members]))

    def total(self, opened: Mapping[str, bytes]) -> Integers:
        """Return the exact sum of the silos' integers, [length], from what the two answered.

        Errors: `BadMessage` where they differ, or where the sum is off the grid or out of range:
        somebody encrypted, added or opened wrongly, and nobody can tell who.
        """
        terms = self.terms
        if sorted(opened) != sorted(terms.openers):
            raise RoundRefused("a sum is opened by two silos", field="opened")
        first, second = (unpack(terms, Opened, opened[name]).values for name in terms.openers)
        if first != second:
            raise BadMessage("the two silos that open do not open the same sum", field="opened")
        sums = np.concatenate([coefficients(part % PRIME) for part in self._sum], axis=1)
        product = from_bytes(first, len(DATA), terms.length)
        plain = (sums[:, : terms.length] + product) % PRIME
        total, rest = recombine(plain, terms.budget.shift)
        if float(np.abs(rest).max()) > _QUARTER:
            raise BadMessage("the opened sum is off the grid", field="opened")
        if int(np.abs(total).max()) > terms.budget.quantizer.bound + SLACK:
            raise BadMessage("the opened sum is out of range", field="opened")
        return total


def _own(sender: str, named: str) -> None:
    if named != sender:
        raise BadMessage(f"{sender} sent a message of {named}", field="sender", value=named)
