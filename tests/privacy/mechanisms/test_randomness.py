"""The key stream: what it depends on, and that its draws have the laws they are priced by.

Streams are keyed by fixed secrets, so a test here gives the same verdict every time; `ALARM` is
the chance with which it would have failed on the secret that happened to be chosen.
"""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from privacy.mechanisms.randomness import StepSource

ALARM = 1e-6
SECRET = bytes(range(32))
CONTEXT = ("train", "job-1", 3, 7, "a" * 64)


class Fixed(StepSource):
    """A source whose bits are given, to reach the ends of its range."""

    def __init__(self, *given: int) -> None:
        super().__init__(SECRET)
        self.given = np.array(given, dtype=np.uint64)

    def bits(self, n: int) -> Any:
        return np.resize(self.given, n)


def test_the_same_arguments_give_the_same_bits() -> None:
    assert (StepSource(SECRET, *CONTEXT).bits(99) == StepSource(SECRET, *CONTEXT).bits(99)).all()


@pytest.mark.parametrize(
    ("secret", "context"),
    [
        (SECRET[::-1], CONTEXT),
        (SECRET + b"x", CONTEXT),
        (SECRET, ("test", *CONTEXT[1:])),
        (SECRET, ("train", "job-2", *CONTEXT[2:])),
        (SECRET, ("train", "job-1", 4, *CONTEXT[3:])),
        (SECRET, ("train", "job-1", 3, 8, CONTEXT[4])),
        (SECRET, (*CONTEXT[:4], "b" * 64)),
        (SECRET, ("train", "job-1", 37, CONTEXT[4])),  # the same characters, cut elsewhere
        (SECRET, ("trainj", "ob-1", *CONTEXT[2:])),
        (SECRET, CONTEXT[:4]),
    ],
    ids=["secret", "long", "purpose", "job", "round", "step", "digest", "cut", "cut2", "short"],
)
def test_any_other_argument_gives_unrelated_bits(secret: bytes, context: tuple[Any, ...]) -> None:
    ours, theirs = StepSource(SECRET, *CONTEXT).bits(1000), StepSource(secret, *context).bits(1000)
    differing = int(np.bitwise_count(ours ^ theirs).sum())
    assert stats.binomtest(differing, 64_000, 0.5).pvalue > ALARM


def test_calls_go_on_along_one_stream() -> None:
    source = StepSource(SECRET, *CONTEXT)
    parts = np.concatenate([source.bits(3), source.bits(0), source.bits(5)])
    assert (parts == StepSource(SECRET, *CONTEXT).bits(8)).all()


def test_no_seed_and_no_variable_reaches_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for name in ("PYTHONHASHSEED", "TACIT_SEED", "SEED"):
            monkeypatch.setitem(os.environ, name, str(seed))
        drawn.append(StepSource(SECRET, *CONTEXT).normal(50))
    assert (drawn[0] == drawn[1]).all()
    after = torch.rand(1), np.random.random(), random.random()
    random.seed(2)
    np.random.seed(2)
    torch.manual_seed(2)
    assert (torch.rand(1), np.random.random(), random.random()) == after  # nothing was taken


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        StepSource(b"x" * 31, "train")


def test_every_bit_is_a_fair_coin() -> None:
    drawn = StepSource(SECRET, "bits").bits(20_000)
    for place in range(64):
        ones = int(((drawn >> np.uint64(place)) & np.uint64(1)).sum())
        assert stats.binomtest(ones, len(drawn), 0.5).pvalue > ALARM / 64


def test_uniform_numbers_are_uniform_and_strictly_inside() -> None:
    drawn = StepSource(SECRET, "uniform").uniform(100_000)
    assert stats.kstest(drawn, "uniform").pvalue > ALARM
    ends = Fixed(0, 2**64 - 1)
    low, high = ends.uniform(2)
    assert 0 < low < 2**-50 and low == 1 - high


def test_the_largest_and_smallest_bits_give_finite_opposite_normals() -> None:
    low, high = Fixed(0, 2**64 - 1).normal(2)
    assert -9 < low < -8 and high == -low


def test_normals_are_standard_gaussians() -> None:
    drawn = StepSource(SECRET, "normal").normal(200_000)
    assert stats.kstest(drawn, "norm").pvalue > ALARM
    n = len(drawn)
    assert 2 * stats.norm.sf(abs(drawn.sum()) / n**0.5) > ALARM
    tail = stats.chi2.cdf((drawn**2).sum(), n)
    assert min(tail, 1 - tail) > ALARM / 2
    beyond = int((abs(drawn) > 3).sum())
    assert stats.binomtest(beyond, n, 2 * stats.norm.sf(3)).pvalue > ALARM
    assert stats.pearsonr(drawn[:-1], drawn[1:]).pvalue > ALARM


@pytest.mark.parametrize("rate", [1e-4, 0.03, 0.5, 0.999])
def test_coins_fall_with_the_rate(rate: float) -> None:
    heads = int(StepSource(SECRET, "coins", str(rate)).bernoulli(200_000, rate).sum())
    assert stats.binomtest(heads, 200_000, rate).pvalue > ALARM


def test_a_coin_is_never_likelier_than_its_rate() -> None:
    rate = 0.3  # a float64, hence a whole number of 2^-54ths: its threshold is exact
    threshold = int(rate * 2**64)
    assert list(Fixed(threshold - 1, threshold).bernoulli(2, rate)) == [True, False]
    assert not Fixed(0).bernoulli(1, 2.0**-65).any()  # less than the grid can say: never
    assert Fixed(2**64 - 1).bernoulli(1, 1.0).all()


def test_coins_are_independent_between_rows_and_between_steps() -> None:
    rate, n = 0.2, 100_000
    one, two = (StepSource(SECRET, "train", "job", 0, step).bernoulli(n, rate) for step in (0, 1))
    for a, b in ((one[:-1], one[1:]), (one, two)):
        both = int((a & b).sum())
        assert stats.binomtest(both, len(a), rate**2).pvalue > ALARM


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 256, 1000])
def test_integers_below_a_limit_are_uniform(limit: int) -> None:
    source = StepSource(SECRET, "below", limit)
    counts = np.bincount([source.below(limit) for _ in range(20_000)], minlength=limit)
    assert len(counts) == limit
    if limit > 1:
        assert stats.chisquare(counts).pvalue > ALARM


def test_integers_below_a_limit_beyond_64_bits_are_uniform_too() -> None:
    source, limit = StepSource(SECRET, "wide"), 3 * 2**90
    drawn = np.array([source.below(limit) / limit for _ in range(20_000)])
    assert stats.kstest(drawn, "uniform").pvalue > ALARM
