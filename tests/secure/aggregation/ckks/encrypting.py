"""Silos and a coordinator of one job of encrypted sums, in memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from secure.aggregation.ckks.coordinator import Adder, roster_of
from secure.aggregation.ckks.facts import Terms
from secure.aggregation.ckks.silo import Silo
from secure.keys import SigningKey

KEYS = {f"silo-{i:02}": SigningKey(bytes([i + 1]) * 32) for i in range(64)}


def terms(n: int = 3, **changes: Any) -> Terms:
    """The terms of the first n silos."""
    standard: dict[str, Any] = {
        "federation": "fed",
        "job": "job",
        "members": {name: KEYS[name].public for name in list(KEYS)[:n]},
        "length": 5,
        "rounds": 4,
        "range": 8.0,
    }
    return Terms(**(standard | changes))


def silo(of: Terms, name: str) -> Silo:
    """A silo with the secret that it has in every job here."""
    return Silo(of, name, KEYS[name], name.encode().ljust(32, b"."))


def vectors(of: Terms, seed: int = 0) -> dict[str, np.ndarray]:
    """One vector per silo, each at most its equal share of the bound."""
    rng = np.random.default_rng(seed)
    most = of.budget.quantizer.bound // len(of.members)
    return {name: rng.integers(-most, most, of.length, endpoint=True) for name in of.members}


class Play:
    """A job with its key made; `add` plays a round up to the opening."""

    def __init__(self, of: Terms) -> None:
        self.terms = of
        self.silos = {name: silo(of, name) for name in of.members}
        self.adverts = {name: s.advertise() for name, s in self.silos.items()}
        self.deal = self.silos[of.maker].deal(roster_of(of, self.adverts))

    def encrypted(self, round: int, inputs: dict[str, np.ndarray]) -> dict[str, bytes]:
        return {name: s.encrypt(self.deal, round, inputs[name]) for name, s in self.silos.items()}

    def added(self, round: int, packed: dict[str, bytes]) -> Adder:
        adder = Adder(self.terms.at(round))
        for name, one in packed.items():
            adder.receive(name, one)
        return adder

    def opened(self, round: int, opening: bytes) -> dict[str, bytes]:
        return {
            name: self.silos[name].open(self.deal, round, opening) for name in self.terms.openers
        }

    def total(self, round: int, inputs: dict[str, np.ndarray]) -> np.ndarray:
        adder = self.added(round, self.encrypted(round, inputs))
        return adder.total(self.opened(round, adder.opening()))
