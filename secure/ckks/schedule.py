"""Levels and scales: which prime is dropped where, and how large a scale each number has.

A level is one prime of the modulus; a rescale drops the last and divides the scale by it. An affine
map takes its weights at the scale that makes its result land exactly on `work`, the scale between
layers, and the last one exactly on `answer`. Where scales are free the certificate decides: a
larger scale has less noise, a larger answer needs more of the first prime.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from secure.ckks.network import Network
from secure.ckks.noise import Noise


@dataclass(frozen=True)
class Stage:
    """One affine map: at `level` and `scale`, weights at `plain`; the result has scale `after`."""

    level: int
    scale: float
    plain: float
    after: float


@dataclass(frozen=True)
class Schedule:
    """Ring, primes (first to last level, without the key-switching prime), scales."""

    ring: int
    primes: tuple[int, ...]
    special: int
    fresh: float
    work: float
    answer: float

    @property
    def noise(self) -> Noise:
        """Bounds of single operations under these parameters."""
        return Noise(self.ring, self.primes, self.special)

    def stages(self, network: Network) -> Iterator[Stage]:
        """Walk the affine maps of a network; what is between follows from its depth."""
        level, scale = len(self.primes), self.fresh
        for place in range(len(network.affines)):
            last = place == len(network.activations)
            after = self.answer if last else self.work
            yield Stage(level, scale, after * self.primes[level - 1] / scale, after)
            level, scale = level - 1, after
            if last:
                return
            activation = network.activations[place]
            if activation is None:
                level, scale = level - 1, scale * scale / self.primes[level - 1]
            else:
                level, scale = level - activation.depth, self.work
