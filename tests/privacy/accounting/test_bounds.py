"""No accountant goes below the truth: RDP against a lower bound by PLD, on random plans.

`pld.epsilon_lower` rounds every privacy loss down to its grid, so it is a lower bound on any
grid; a coarse grid is quick and only makes the bound weaker. A plan is one or several mechanisms,
each repeated, under one relation.
"""

import math

import numpy as np
import pytest

from privacy.accounting import pld, rdp, registry
from privacy.events import (
    All,
    DiscreteGaussian,
    Exchanged,
    Gaussian,
    Laplace,
    Poisson,
    RandomizedResponse,
    Relation,
    Repeat,
    SampledRows,
)

ORDERS = (1.3, 1.7, 2.3, 2.7, 3.3, 4.4, 5.5, 6.6, 8.8, *rdp.WHOLE_ORDERS)
"""Enough orders for a quick run; the large one takes all that a price searches."""

ROUNDING = 1e-6
"""Relative: what dp_accounting's own floats may add to its lower bound."""


def between(rng, low, high):
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def mechanism(rng, relation):
    """One random mechanism; half of them are steps of DP-SGD."""
    kinds = ["dp_sgd"] * 4 + ["gaussian", "counts", "laplace", "local", "exchanged", "full"]
    kind = kinds[rng.integers(len(kinds))]
    step = Poisson(rate=between(rng, 1e-3, 1), of=Gaussian(sigma=between(rng, 0.6, 10)))
    if kind == "laplace":
        return Laplace(scale=between(rng, 0.5, 30))
    if kind == "counts":
        return DiscreteGaussian(sigma=between(rng, 1, 40))
    if kind == "gaussian":
        return Gaussian(sigma=between(rng, 0.6, 40))
    if kind == "full":
        return Poisson(rate=1.0, of=Gaussian(sigma=between(rng, 2, 40)))
    if kind == "local" and relation is Relation.REPLACE:
        return RandomizedResponse(epsilon=between(rng, 0.1, 3), categories=int(rng.integers(2, 9)))
    if kind == "exchanged" and relation is Relation.ADD_REMOVE:
        return Exchanged(of=step)
    return step


def plan(rng, relation):
    parts = tuple(
        Repeat(times=int(between(rng, 1, 2000)) if i == 0 else 1, of=mechanism(rng, relation))
        for i in range(rng.integers(1, 4))
    )
    return parts[0] if len(parts) == 1 else All(of=parts)


def compare(seed, count, orders=None):
    """Check `count` random plans; return how near RDP came to the lower bound in each."""
    rng = np.random.default_rng(seed)
    ratios = []
    while len(ratios) < count:
        relation = Relation.REPLACE if rng.random() < 0.25 else Relation.ADD_REMOVE
        event, delta = plan(rng, relation), between(rng, 1e-8, 1e-3)
        bound = rdp.epsilon(event, delta, relation, orders)
        if not 0.01 < bound < 60:
            continue  # a price that says nothing; drawn again
        lower = pld.epsilon_lower(event, delta, relation, grid=_grid(event, bound))
        assert lower * (1 - ROUNDING) <= bound, (seed, event, delta, relation, lower, bound)
        ratios.append(lower / bound)
    return ratios


def _grid(event, bound):
    """Coarse enough to be quick; rounding down costs about half a cell a mechanism."""
    parts = event.of if isinstance(event, All) else (event,)
    steps = sum(part.times for part in parts)
    return max(bound / 200 / math.sqrt(steps), 2e-5)


def test_rdp_is_never_below_the_optimistic_pld():
    ratios = compare(seed=20261123, count=300, orders=ORDERS)
    # The bound is no empty one: an RDP a quarter too small would be seen in most of the plans.
    assert np.mean(np.array(ratios) > 0.75) > 0.5


@pytest.mark.large
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10))
def test_rdp_is_never_below_the_optimistic_pld_on_ten_thousand_plans(seed):
    compare(seed, 1000)


@pytest.mark.large
@pytest.mark.timeout(1800)
def test_rdp_of_subjects_rows_is_never_below_the_optimistic_pld():
    rng = np.random.default_rng(7)
    for _ in range(60):
        step = SampledRows(
            sigma=between(rng, 1, 10),
            rate=between(rng, 0.01, 1),
            rows=int(rng.integers(2, 7)),
        )
        event = Repeat(times=int(between(rng, 1, 50)), of=step)
        delta = between(rng, 1e-8, 1e-3)
        bound = rdp.epsilon(event, delta)
        if bound < 60:
            lower = pld.epsilon_lower(event, delta, grid=bound / 300)
            assert lower * (1 - ROUNDING) <= bound, (event, delta, lower, bound)


def test_every_accountant_is_above_the_lower_bound():
    rng = np.random.default_rng(3)
    for _ in range(15):
        sigma, times = between(rng, 1, 20), int(rng.integers(1, 30))
        event = All(of=(Repeat(times=times, of=Gaussian(sigma=sigma)), Laplace(scale=5.0)))
        prices = registry.price(event, 1e-6, Relation.ADD_REMOVE)
        assert set(prices) == {"rdp", "pld", "zcdp"}
        lower = pld.epsilon_lower(event, 1e-6, grid=1e-3)
        assert all(value >= lower for value in prices.values())
        assert prices["pld"] <= prices["rdp"] <= prices["zcdp"]
