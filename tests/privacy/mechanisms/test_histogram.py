"""The discrete Gaussian against its closed form, and the histogram that it protects."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from privacy.accounting import pld
from privacy.events import DiscreteGaussian
from privacy.mechanisms import histogram
from privacy.mechanisms.histogram import discrete_gaussian, noisy_histogram
from privacy.mechanisms.randomness import StepSource

ALARM = 1e-6
SECRET = bytes(range(1, 33))
DRAWS = 6000


def pmf(x: np.ndarray, sigma: float) -> np.ndarray:
    """Probabilities of N_Z(0, sigma^2), from the definition."""
    every = np.arange(-np.ceil(40 * sigma) - 5, np.ceil(40 * sigma) + 6)
    return np.exp(-(x**2) / (2 * sigma**2)) / np.exp(-(every**2) / (2 * sigma**2)).sum()


def matches(drawn: np.ndarray, sigma: float) -> bool:
    """Chi-square test of integers against the closed form, thin tails taken together."""
    reach = np.arange(-int(12 * sigma) - 3, int(12 * sigma) + 4)
    expected = len(drawn) * pmf(reach, sigma)
    inner = reach[expected >= 5]
    cells = np.clip(drawn, inner[0], inner[-1]) - inner[0]
    seen = np.bincount(cells, minlength=len(inner))
    expected = expected[expected >= 5]
    rest = len(drawn) - expected.sum()
    expected[[0, -1]] += rest / 2
    return stats.chisquare(seen, expected).pvalue > ALARM


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.3, 20.0])
def test_draws_follow_the_closed_form(sigma: float) -> None:
    source = StepSource(SECRET, "pmf", str(sigma))
    drawn = [discrete_gaussian(sigma, source) for _ in range(DRAWS)]
    assert all(type(value) is int for value in drawn)
    assert matches(np.array(drawn), sigma)
    variance = (np.arange(-999, 1000) ** 2 * pmf(np.arange(-999, 1000), sigma)).sum()
    fourth = (np.arange(-999, 1000) ** 4 * pmf(np.arange(-999, 1000), sigma)).sum()
    z = (np.mean(np.square(drawn)) - variance) / ((fourth - variance**2) / DRAWS) ** 0.5
    assert 2 * stats.norm.sf(abs(z)) > ALARM


def test_the_check_of_the_law_tells_near_laws_apart() -> None:
    """A rounded Gaussian, a sigma 7 % off and a shift by a fifth are no discrete Gaussian."""
    draws = np.random.default_rng(5)
    assert not matches(np.rint(draws.normal(0, 0.5, DRAWS)).astype(int), 0.5)
    assert not matches(np.rint(draws.normal(0, 3.3 * 1.07, DRAWS)).astype(int), 3.3)
    assert not matches(np.rint(draws.normal(0.2 * 3.3, 3.3, DRAWS)).astype(int), 3.3)


@pytest.mark.parametrize("gamma", [Fraction(0), Fraction(1, 7), Fraction(1), Fraction(17, 5)])
def test_the_exponential_coin_is_exact(gamma: Fraction) -> None:
    source = StepSource(SECRET, "coin", str(gamma))
    heads = sum(histogram._bernoulli_exp(gamma, source) for _ in range(DRAWS))
    assert stats.binomtest(heads, DRAWS, float(np.exp(-float(gamma)))).pvalue > ALARM


@pytest.mark.large
@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 1.9, 3.3, 20.0, 250.0])
def test_many_draws_follow_the_closed_form(sigma: float) -> None:
    source = StepSource(SECRET, "many", str(sigma))
    assert matches(np.array([discrete_gaussian(sigma, source) for _ in range(100_000)]), sigma)


def test_every_cell_gets_its_own_noise_empty_ones_too() -> None:
    counts = np.array([[0, 5, 0], [0, 0, 1000]])
    draws = [noisy_histogram(counts, 4.0, StepSource(SECRET, "test", i)) for i in range(800)]
    assert all(d.dtype == np.int64 and d.shape == counts.shape for d in draws)
    noise = np.array([(d - counts).reshape(-1) for d in draws])
    assert (noise[:, 0] < 0).any()  # an empty cell is not held at zero
    for cell in range(6):
        assert matches(noise[:, cell], 4.0)
        for other in range(cell):
            assert stats.pearsonr(noise[:, cell], noise[:, other]).pvalue > ALARM


def test_the_noise_follows_from_the_source_alone() -> None:
    one, two = np.zeros((2, 4), dtype=np.int64), np.full((2, 4), 17)
    a, b = (noisy_histogram(counts, 3.0, StepSource(SECRET, "test", 1)) for counts in (one, two))
    assert (a == b - 17).all()
    assert (a != noisy_histogram(one, 3.0, StepSource(SECRET, "test", 2))).any()


@pytest.mark.parametrize(("sigma", "epsilon"), [(0.7, 2.0), (3.3, 1.0), (20.0, 0.1)])
def test_a_count_moved_by_one_costs_what_the_event_says(sigma: float, epsilon: float) -> None:
    """The hockey-stick divergence of the mechanism's own law and its shift, summed up."""
    x = np.arange(-2000, 2001)
    ours, moved = pmf(x, sigma), pmf(x - 1, sigma)
    delta = float(np.maximum(ours - np.exp(epsilon) * moved, 0).sum())
    priced = pld.epsilon(DiscreteGaussian(sigma=sigma), delta)
    assert priced == pytest.approx(epsilon, abs=2e-4) and priced >= epsilon - 1e-9
