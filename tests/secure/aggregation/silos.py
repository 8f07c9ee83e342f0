"""Silos, a coordinator, and rounds played between them in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secure.aggregation.participant import Participant
from secure.aggregation.rounds import Round
from secure.aggregation.server import Server
from secure.keys import SigningKey

KEYS = {f"silo-{i:02}": SigningKey(bytes([i + 1]) * 32) for i in range(65)}


def facts(n: int, **changes: Any) -> Round:
    """A round of the first n silos."""
    standard: dict[str, Any] = {
        "federation": "fed",
        "job": "job",
        "number": 0,
        "members": {name: KEYS[name].public for name in list(KEYS)[:n]},
        "length": 5,
        "bits": 32,
        "bound": 1000,
    }
    return Round(**(standard | changes))


def vectors(of: Round, seed: int = 0) -> dict[str, np.ndarray]:
    """One vector of integers per silo, anywhere within the bound."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(-of.bound, of.bound, of.length, endpoint=True) for name in of.members
    }


def direct(participant: Participant, step: Callable[[Participant], bytes]) -> bytes:
    """Take a step."""
    return step(participant)


@dataclass
class Play:
    """A round played in memory; silos leave before the message of a phase (0 to 4)."""

    facts: Round
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    take: Callable[[Participant, Callable[[Participant], bytes]], bytes] = direct

    def __post_init__(self) -> None:
        self.inputs = self.inputs or vectors(self.facts)
        self.server = Server(self.facts)
        self.silos = {
            name: Participant(self.facts, name, KEYS[name]) for name in self.facts.members
        }
        self.mail: dict[str, bytes] = dict.fromkeys(self.facts.members, b"")
        self.history: list[dict[str, bytes]] = []
        self.sent: list[dict[str, bytes]] = []

    def answer(self, name: str) -> bytes:
        """The silo's message of the present phase."""
        mail, phase = self.mail[name], self.server.phase
        steps: list[Callable[[Participant], bytes]] = [
            lambda silo: silo.advertise(),
            lambda silo: silo.share_keys(mail),
            lambda silo: silo.mask(mail, self.inputs[name]),
            lambda silo: silo.consent(mail),
            lambda silo: silo.unmask(mail),
        ]
        return self.take(self.silos[name], steps[phase])

    def phase(self, leave: Collection[str] = ()) -> None:
        """Play one phase."""
        self.sent.append({})
        for name in sorted(self.mail.keys() - set(leave)):
            packed = self.answer(name)
            self.sent[-1][name] = packed
            self.server.receive(name, packed)
        self.mail = self.server.advance()
        self.history.append(self.mail)

    def until(self, phase: int, leave: dict[int, Collection[str]] | None = None) -> Play:
        """Play up to a phase, which is not played."""
        while self.server.phase < phase:
            self.phase((leave or {}).get(self.server.phase, ()))
        return self

    def plain(self) -> np.ndarray:
        """The sum of the survivors' integers, in Python's."""
        rows = [self.inputs[name].tolist() for name in self.server.survivors]
        return np.array([sum(column) for column in zip(*rows, strict=True)], dtype=np.int64)
