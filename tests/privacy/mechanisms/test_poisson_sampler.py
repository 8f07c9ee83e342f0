"""The Poisson sampler against the law, digit by digit and by many draws."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
from scipy import stats

from privacy.mechanisms import poisson as sampler
from privacy.mechanisms.poisson import poisson, table
from privacy.mechanisms.randomness import StepSource

ALARM = 1e-6
SECRET = bytes(range(2, 34))
MEANS = [Fraction(1, 2), Fraction(1), Fraction(7, 2), Fraction(40), Fraction(2001, 2)]


class Digits:
    """A source of the digits that a test has chosen."""

    def __init__(self, *words: int) -> None:
        self.words = list(words)

    def bits(self, n: int) -> np.ndarray:
        drawn, self.words = self.words[:n], self.words[n:]
        assert len(drawn) == n
        return np.array(drawn, dtype=np.uint64)


def cdf(mean: Fraction, last: int) -> list[Fraction]:
    """F(0), ..., F(last) as fractions; what lies 200 further on is left out of the whole."""
    terms = [Fraction(1)]
    for j in range(1, last + 200):
        terms.append(terms[-1] * mean / j)
    whole = sum(terms)
    return [total / whole for total in accumulate(terms[: last + 1])]


@pytest.mark.parametrize("bits", [8, 13, 64, 128])
@pytest.mark.parametrize("mean", MEANS[:4])
def test_the_table_brackets_the_distribution_function(mean: Fraction, bits: int) -> None:
    made = table(mean, bits)
    assert len(made.low) == len(made.high)
    exact = cdf(mean, made.first + len(made.low))
    slack = Fraction(1, 2**30)
    for i, (low, high) in enumerate(zip(made.low, made.high, strict=True)):
        scaled = exact[made.first + i] * 2**bits
        assert low <= scaled + slack and high + 1 >= scaled - slack
        assert low <= high
    assert made.low == sorted(made.low) and made.high == sorted(made.high)
    assert made.high[-1] == 2**bits - 1
    apart = [high - low for low, high in zip(made.low, made.high, strict=True)]
    assert sum(gap > 0 for gap in apart) <= 2  # but for the ends, to the last digit


@pytest.mark.parametrize("mean", MEANS)
def test_every_number_of_eleven_digits_decides_as_the_law_does(mean: Fraction) -> None:
    """What all 2^11 numbers decide is within what the law gives each j, to the digits left open."""
    bits = 11
    made = table(mean, bits)
    decided: dict[int, int] = {}
    open_to_more = 0
    for digits in range(2**bits):
        at = int(np.searchsorted(np.array(made.high), digits))
        if digits < made.low[at]:
            decided[made.first + at] = decided.get(made.first + at, 0) + 1
        else:
            open_to_more += 1
    law = stats.poisson(float(mean))
    for j, count in decided.items():
        assert count <= law.pmf(j) * 2**bits + 1e-6
        assert count >= law.pmf(j) * 2**bits - 2
    assert open_to_more <= len(made.low) + 1
    assert sum(decided.values()) + open_to_more == 2**bits


@pytest.mark.parametrize("mean", MEANS)
def test_digits_that_do_not_decide_are_followed_by_more(mean: Fraction) -> None:
    """At the edge of j and j + 1 the next word decides, by the distribution function itself."""
    first, low, high = sampler._words(mean)
    middle = len(low) // 2
    edge, j = int(low[middle]), first + middle
    assert low[middle] == high[middle]
    finer = table(mean, 128)
    boundary = finer.low[j - finer.first]
    assert boundary >> 64 == edge
    rest = boundary & (2**64 - 1)
    assert poisson(mean, 1, Digits(edge, rest - 1))[0] == j
    assert poisson(mean, 1, Digits(edge, rest + 1))[0] == j + 1
    # On the edge again: a third word is drawn.
    third = table(mean, 192)
    last = third.low[j - third.first] & (2**64 - 1)
    assert poisson(mean, 1, Digits(edge, rest, last - 1))[0] == j
    assert poisson(mean, 1, Digits(edge, rest, last + 1))[0] == j + 1


@pytest.mark.parametrize("mean", [Fraction(40), Fraction(2001, 2)])
def test_the_tails_are_not_cut_off(mean: Fraction) -> None:
    """A word of zeros or ones is no number but a tail, of which the next words tell how far."""
    top = 2**64 - 1
    law = stats.poisson(float(mean))
    far = int(poisson(mean, 1, Digits(top, 2**63))[0])
    assert law.sf(far) < 2.0**-65 <= law.sf(far - 1) * (1 + 1e-9)
    assert poisson(mean, 1, Digits(top, top, 2**63))[0] > far
    if mean > 100:
        near = int(poisson(mean, 1, Digits(0, 2**63))[0])
        assert law.cdf(near - 1) <= 2.0**-65 * (1 + 1e-9) and law.cdf(near) > 2.0**-65 * (1 - 1e-9)
        assert poisson(mean, 1, Digits(0, 0, 2**63))[0] < near


def matches(drawn: np.ndarray, law: stats.rv_discrete) -> bool:
    """Chi-square of integers against a law, thin cells taken together."""
    low, high = int(law.ppf(1e-9)), int(law.ppf(1 - 1e-9))
    width = max(1, (high - low) // 60)
    edges = np.arange(low, high + width + 1, width)
    expected = len(drawn) * np.diff(law.cdf(edges - 1))
    keep = expected >= 5
    left, right = edges[:-1][keep][0], edges[1:][keep][-1]
    cells = np.histogram(np.clip(drawn, left, right - 1), bins=[*edges[:-1][keep], right])
    expected = expected[keep]
    expected[0] += len(drawn) * law.cdf(left - 1)
    expected[-1] += len(drawn) * law.sf(right - 1)
    return stats.chisquare(cells[0], expected * len(drawn) / expected.sum()).pvalue > ALARM


@pytest.mark.parametrize("mean", [*MEANS, Fraction(10**6), Fraction(10**7 + 1, 2)])
def test_draws_follow_the_law(mean: Fraction) -> None:
    drawn = poisson(mean, 20_000, StepSource(SECRET, "poisson", str(mean)))
    assert drawn.dtype == np.int64 and drawn.min() >= 0
    assert matches(drawn, stats.poisson(float(mean)))
    z = (drawn.mean() - float(mean)) / math.sqrt(mean / len(drawn))
    assert 2 * stats.norm.sf(abs(z)) > ALARM


def test_the_check_of_the_law_tells_near_laws_apart() -> None:
    draws = np.random.default_rng(3)
    assert not matches(np.rint(draws.normal(40, math.sqrt(40), 20_000)), stats.poisson(40))
    assert not matches(draws.poisson(40.6, 20_000), stats.poisson(40))


def test_draws_follow_from_the_source_alone() -> None:
    mean = Fraction(2001, 2)
    one, two = (poisson(mean, 50, StepSource(SECRET, "s", 1)) for _ in range(2))
    assert (one == two).all()
    assert (one != poisson(mean, 50, StepSource(SECRET, "s", 2))).any()


@pytest.mark.large
@pytest.mark.parametrize("mean", [*MEANS, Fraction(10**6), Fraction(2**31)])
def test_many_draws_follow_the_law(mean: Fraction) -> None:
    drawn = poisson(mean, 2_000_000, StepSource(SECRET, "many", str(mean)))
    assert matches(drawn, stats.poisson(float(mean)))
