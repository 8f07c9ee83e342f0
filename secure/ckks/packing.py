"""A matrix times a packed vector by rotations: hybrid diagonals, baby steps and giant steps.

    >>> import numpy as np
    >>> product = Matvec.of(np.ones((64, 256)))
    >>> product.rotations, sorted(product.steps)
    (16, [1, 2, 3, 4, 5, 6, 7, 8, 64, 128])

A vector of n numbers lies in the slots again and again with period p, n padded to a power of two.
For a matrix M of padded shape p_out x p_in the k-th diagonal is d_k[j] = M[j mod p_out][(j + k) mod
p_in]; y = sum_k d_k * rot(x, k) over k < min(p_in, p_out) holds the product once blocks of p_out
are added up (Halevi and Shoup, "Algorithms in HElib", CRYPTO 2014; hybrid form: Juvekar et al.,
"GAZELLE", USENIX Security 2018). With k = g b + i the rotations by i are shared (baby steps) and
those by g b are taken of sums (giant steps). Giant steps are nested as in Horner's rule, so that
they all need one key. Diagonals that are all zero cost nothing: a convolution whose windows were
laid out by the client is a matrix with one diagonal per channel.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
C = TypeVar("C")


class Slots(Protocol[C]):
    """What a product needs of a packed vector."""

    def rotate(self, vector: C, step: int) -> C:
        """Return the vector rotated to the left."""
        ...

    def times(self, vector: C, place: int) -> C:
        """Return the vector times the diagonal number `place`."""
        ...

    def add(self, a: C, b: C) -> C:
        """Return the sum."""
        ...


@dataclass(frozen=True)
class Diagonal:
    """One diagonal, already rotated back by its giant step; periodic."""

    giant: int
    baby: int
    values: Reals = field(repr=False)


@dataclass(frozen=True)
class Matvec:
    """The steps of one product; `diagonals` are sorted by giant step, the largest first."""

    inputs: int
    outputs: int
    matrix: Reals = field(repr=False)
    diagonals: tuple[Diagonal, ...] = field(repr=False)
    folds: tuple[int, ...]
    step: int

    @classmethod
    def of(cls, matrix: Reals) -> Matvec:
        """Choose the steps for a matrix [outputs, inputs]: fewest rotations, then fewest keys."""
        rows, columns = (padded(size) for size in matrix.shape)
        full = np.zeros((rows, columns))
        full[: matrix.shape[0], : matrix.shape[1]] = matrix
        length = max(rows, columns)
        slots = np.arange(length)
        found = {}
        for k in range(min(rows, columns)):
            values = full[slots % rows, (slots + k) % columns]
            if values.any():
                found[k] = values
        found = found or {0: np.zeros(length)}
        candidates = [1 << bits for bits in range(min(rows, columns).bit_length())]
        step = min(candidates, key=lambda b: _cost(list(found), b))
        diagonals = [
            Diagonal(k - k % step, k % step, np.roll(values, k - k % step))
            for k, values in found.items()
        ]
        folds, span = [], rows
        while span < columns:
            folds.append(span)
            span *= 2
        diagonals.sort(key=lambda d: (-d.giant, d.baby))
        return cls(columns, rows, full, tuple(diagonals), tuple(folds), step)

    def apply(self, x: C, slots: Slots[C]) -> C:
        """Return the product, packed with period `outputs`."""
        babies: dict[int, C] = {0: x}

        def term(place: int) -> C:
            baby = self.diagonals[place].baby
            if baby not in babies:
                babies[baby] = slots.rotate(x, baby)
            return slots.times(babies[baby], place)

        total, last = term(0), self.diagonals[0].giant
        for place, diagonal in enumerate(self.diagonals[1:], start=1):
            if diagonal.giant != last:
                total = slots.rotate(total, last - diagonal.giant)
                last = diagonal.giant
            total = slots.add(total, term(place))
        if last:
            total = slots.rotate(total, last)
        for fold in self.folds:
            total = slots.add(total, slots.rotate(total, fold))
        return total

    @property
    def babies(self) -> set[int]:
        """The baby steps other than 0."""
        return {diagonal.baby for diagonal in self.diagonals} - {0}

    @property
    def giants(self) -> list[int]:
        """The nested giant steps, in order."""
        return _nested([diagonal.giant for diagonal in self.diagonals])

    @property
    def rotations(self) -> int:
        """How many rotations one product takes."""
        return len(self.babies) + len(self.giants) + len(self.folds)

    @property
    def steps(self) -> set[int]:
        """The distinct rotations, each of which needs a key."""
        return self.babies | set(self.giants) | set(self.folds)


def padded(size: int) -> int:
    """Return the power of two that a vector of this length is padded to."""
    return 1 << (size - 1).bit_length()


def _nested(giants: list[int]) -> list[int]:
    """The rotations between giant steps from the largest down to 0."""
    ordered = [*sorted(set(giants), reverse=True), 0]
    return [a - b for a, b in itertools.pairwise(ordered) if a != b]


def _cost(found: list[int], step: int) -> float:
    babies = {k % step for k in found} - {0}
    giants = _nested([k - k % step for k in found])
    # A key is a fifth of a rotation: it costs memory and upload once, not time per row.
    return len(babies) + len(giants) + 0.2 * len(babies | set(giants))
