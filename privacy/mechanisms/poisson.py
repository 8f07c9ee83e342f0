"""Poisson numbers, exactly: by inversion of a real, of which as many bits are drawn as decide.

    >>> import numpy as np
    >>> from privacy.mechanisms.randomness import StepSource
    >>> poisson(Fraction(9, 2), 3, StepSource(bytes(32), "example")).dtype
    dtype('int64')

A real U, uniform in [0, 1), is given by its binary digits. The number drawn is how many j >= 0 have
F(j) <= U, F being the distribution function. A table holds integers on both sides of 2^b F(j),
proven ones, and the first b digits of U decide unless they fall between the two of some j: then
more digits are drawn, and a finer table made. So the law is the Poisson law itself, with no error
of rounding, and nothing is cut off from its tails.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from privacy.mechanisms.randomness import StepSource

WORD = 64
"""Digits of U that are drawn at a time."""

_GUARD = 48
"""Digits by which weights are finer than a table, twice: for their rounding and for the tails."""


@dataclass(frozen=True)
class Table:
    """Brackets of 2^bits F(j) for j = first, first + 1, ...; each a floor, never decreasing.

    The last entry's upper one is 2^bits - 1: F is below one, and nothing more is known there. The
    first entry's lower one is zero where there are j below it.
    """

    first: int
    low: list[int]
    high: list[int]


def table(mean: Fraction, bits: int) -> Table:
    """Return the brackets around the mode, as far as the tails matter at so many bits.

    Weights are P(j) / P(mode), in units of 2^-precision and rounded down, by the recurrence
    P(j) = P(j - 1) mean / j away from the mode. Its factors are at most one there, so a weight is
    too small by less than a unit per step; what lies beyond the last one is at most a geometric
    series.
    """
    numerator, denominator = mean.numerator, mean.denominator
    mode = int(mean)
    unit, enough = 1 << (bits + 2 * _GUARD), 1 << _GUARD
    above, weight, last = [unit], unit, mode
    while weight > enough:
        last += 1
        weight = weight * numerator // (denominator * last)
        above.append(weight)
    below, weight, first = [], unit, mode
    while weight > enough and first > 0:
        weight = weight * first * denominator // numerator
        below.append(weight)
        first -= 1
    weights = [*reversed(below), *above]
    lost = len(weights)  # more units than any weight has lost
    after = (weights[-1] + lost) * numerator // (denominator * (last + 1) - numerator) + 1
    before = 0
    if first > 0:
        before = (weights[0] + lost) * first * denominator // (numerator - first * denominator) + 1
    least = list(accumulate(weights))
    most = [before + total + lost * n for n, total in enumerate(least, start=1)]
    whole = most[-1] + after
    low = [(total << bits) // whole for total in least]
    high = [(total << bits) // least[-1] for total in most]
    if first > 0:
        first -= 1
        low.insert(0, 0)
        high.insert(0, (before << bits) // least[-1])
    top = (1 << bits) - 1
    high = [min(value, top) for value in high]
    high[-1] = top
    return Table(first, low, high)


def poisson(mean: Fraction, n: int, source: StepSource) -> npt.NDArray[np.int64]:
    """Return n independent Poisson numbers of this mean, int64; the mean is above zero.

    The first call for a mean makes its table, of some 24 sqrt(mean) entries.
    """
    first, low, high = _words(mean)
    digits = source.bits(n)
    at = np.searchsorted(high, digits)
    values = first + at.astype(np.int64)
    for i in np.flatnonzero(digits >= low[at]):
        values[i] = _undecided(mean, int(digits[i]), source)
    return values


def _undecided(mean: Fraction, digits: int, source: StepSource) -> int:
    """Draw more digits until they decide."""
    bits = WORD
    while True:
        digits = digits << WORD | int(source.bits(1)[0])
        bits += WORD
        finer = _finer(mean, bits)
        at = bisect_left(finer.high, digits)
        if digits < finer.low[at]:
            return finer.first + at


_finer = lru_cache(maxsize=2)(table)


@lru_cache(maxsize=8)
def _words(mean: Fraction) -> tuple[int, npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The table of one word, as arrays."""
    made = table(mean, WORD)
    return made.first, np.array(made.low, dtype=np.uint64), np.array(made.high, dtype=np.uint64)
