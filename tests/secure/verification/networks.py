"""A small network, honest and dishonest ways to run it, and a seal of its own for each node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Network:
    """Two linear layers with ReLU between, in 32-bit floats; hidden units in some order."""

    first: Floats
    second: Floats

    def __call__(self, rows: Floats) -> Floats:
        return np.maximum(rows @ self.first.T, 0) @ self.second.T


def network(seed: int = 0, inputs: int = 20, hidden: int = 64, outputs: int = 10) -> Network:
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(hidden, inputs)) / np.sqrt(inputs)
    second = rng.normal(size=(outputs, hidden)) / np.sqrt(hidden)
    return Network(first.astype(np.float32), second.astype(np.float32))


def int8(plain: Network) -> Network:
    """The same network with weights rounded to 8 bits, one scale per matrix."""

    def rounded(weight: Floats) -> Floats:
        step = np.abs(weight).max() / 127
        return (np.rint(weight / step) * step).astype(np.float32)

    return Network(rounded(plain.first), rounded(plain.second))


@dataclass(frozen=True)
class SealedLane:
    """Rows times a secret orthogonal matrix; classes in a secret order."""

    public: str
    model: bytes
    turn: Floats
    order: NDArray[np.int64]

    def seal(self, rows: Floats) -> Floats:
        return rows @ self.turn

    def open(self, answer: Floats) -> Floats:
        if answer.ndim != 2 or answer.shape[1] != len(self.order):
            raise ValueError("not of this seal")
        return answer[:, np.argsort(self.order)]


def sealed(plain: Network, lane: SealedLane, seed: int) -> Network:
    """The network that the lane's node gets: it maps sealed rows to sealed answers."""
    shuffled = np.random.default_rng(seed).permutation(len(plain.first))
    return Network(
        np.ascontiguousarray((plain.first @ lane.turn)[shuffled]),
        np.ascontiguousarray(plain.second[lane.order][:, shuffled]),
    )


def lane(public: str, seed: int, inputs: int = 20, outputs: int = 10) -> SealedLane:
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(inputs, inputs)))[0].astype(np.float32)
    return SealedLane(public, bytes([seed]) * 32, turn, rng.permutation(outputs))
