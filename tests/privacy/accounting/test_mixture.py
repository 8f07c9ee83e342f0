"""The quadrature of a subject's sampled rows, against direct integration and against PLD."""

import math
import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from privacy.accounting import pld, rdp
from privacy.accounting.mixture import TOLERANCE, renyi_of_mixture
from privacy.events import Gaussian as PlainGaussian
from privacy.events import Poisson, Repeat, SampledRows

MPMATH = [  # sigma, q, rows, order, D(P||Q), D(Q||P): mpmath.quad at 40 digits, by the definition
    (1.0, 0.01, 1, 1.5, 0.00012725374332744983, 0.00012147599306401379),
    (1.0, 0.01, 4, 2.25, 0.00336416752122986, 0.002503787555389407),
    (2.0, 0.3, 3, 7.5, 4.334297585496717, 0.38433953763260243),
    (10.0, 0.5, 8, 64.3, 14.995262775234758, 2.321256388798867),
    (0.7, 0.05, 2, 3.1, 3.8199562878652547, 0.03108831147926456),
]


@pytest.mark.parametrize(("sigma", "rate", "rows", "order", "removing", "adding"), MPMATH)
def test_against_forty_digits(sigma, rate, rows, order, removing, adding):
    exact = max(removing, adding)
    ours = renyi_of_mixture(sigma, rate, rows, (order,))[0]
    assert exact <= ours <= exact * (1 + 1e-12) + 1.01 * TOLERANCE / (order - 1)


def integrated(sigma, rate, rows, order):
    """Both divergences by scipy's adaptive quadrature of the densities themselves."""
    shifts = np.arange(rows + 1)
    weights = stats.binom.logpmf(shifts, rows, rate)

    def p(x):
        return special.logsumexp(weights + stats.norm.logpdf(x, shifts, sigma))

    def q(x):
        return stats.norm.logpdf(x, 0, sigma)

    def divergence(upper, lower):
        def f(x):
            return order * upper(x) + (1 - order) * lower(x)

        edges = np.arange(
            -order * rows - 15 * sigma, order * rows + 15 * sigma + sigma / 2, sigma / 2
        )
        values = np.array([f(x) for x in edges])
        top = values.max()
        near = [i for i in range(len(edges) - 1) if max(values[i : i + 2]) > top - 45]
        total = sum(
            integrate.quad(lambda x: math.exp(f(x) - top), edges[i], edges[i + 1], epsabs=0)[0]
            for i in near
        )
        return (math.log(total) + top) / (order - 1)

    return max(divergence(p, q), divergence(q, p))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    sigma=st.floats(0.5, 20),
    rate=st.floats(0.001, 0.999),
    rows=st.integers(1, 6),
    order=st.floats(1.1, 12),
)
def test_against_integration_of_the_densities(sigma, rate, rows, order):
    exact = integrated(sigma, rate, rows, order)
    ours = renyi_of_mixture(sigma, rate, rows, (order,))[0]
    assert ours == pytest.approx(exact, rel=1e-8, abs=1e-9)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    sigma=st.floats(0.3, 30),
    rate=st.floats(0, 1, exclude_min=True, exclude_max=True),
    order=st.integers(2, 200),
)
def test_one_row_is_the_sampled_gaussian(sigma, rate, order):
    closed = rdp.rdp(Poisson(rate=rate, of=PlainGaussian(sigma=sigma)), [order])[0]
    ours = rdp.rdp(SampledRows(sigma=sigma, rate=rate, rows=1), [order])[0]
    assert ours == pytest.approx(closed, rel=3e-9, abs=1e-9)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    sigma=st.floats(0.3, 100),
    rate=st.floats(0, 1),
    rows=st.integers(1, 30),
    order=st.floats(1.05, 500),
)
def test_finite_and_never_more_than_all_rows_together(sigma, rate, rows, order):
    ours, more_rows = (
        rdp.rdp(SampledRows(sigma=sigma, rate=rate, rows=k), [order])[0] for k in (rows, rows + 1)
    )
    assert 0 <= ours <= order * rows**2 / (2 * sigma**2) * (1 + 2 * rdp.SLACK) + 1e-9
    assert ours <= more_rows * (1 + 2 * rdp.SLACK) + 1e-9


def test_sampling_every_row_is_the_gaussian_of_all_rows():
    ours = rdp.rdp(SampledRows(sigma=3.0, rate=1.0, rows=4), [2.5, 30.0])
    assert ours == pytest.approx([2.5 * 16 / 18, 30.0 * 16 / 18], rel=1e-8)


def test_many_rows_take_little_memory():
    # At high orders the divergence has its mass far out; the grid must still be found there.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours = rdp.rdp(SampledRows(sigma=100.0, rate=0.02, rows=400), [64.0, 512.0])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert ours == pytest.approx([0.21564498, 2528.128575], rel=1e-7)
    assert grown < 300_000  # kilobytes


AGAINST_PLD = [  # sigma, q, rows, steps, delta, grid, how far above the lower bound at most
    (1.5, 0.2, 2, 10, 1e-5, 5e-3, 1.15),
    (6.0, 0.3, 4, 40, 1e-6, 2e-3, 1.15),
    (20.0, 0.9, 5, 20, 1e-5, 2e-3, 1.12),
]


@pytest.mark.parametrize(("sigma", "rate", "rows", "steps", "delta", "grid", "factor"), AGAINST_PLD)
def test_rdp_agrees_with_pld(sigma, rate, rows, steps, delta, grid, factor):
    event = Repeat(times=steps, of=SampledRows(sigma=sigma, rate=rate, rows=rows))
    ours = rdp.epsilon(event, delta)
    lower = pld.epsilon_lower(event, delta, grid=grid)
    assert lower <= ours <= factor * lower
    assert lower <= pld.epsilon(event, delta, grid=grid) <= ours
