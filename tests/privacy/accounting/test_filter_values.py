"""How much a filter admits: a table for a claim of epsilon 1 at delta 1e-6, and plans by PLD.

The numbers were computed from the papers' formulas (Rogers et al. 2016; Whitehouse et al. 2023;
Dwork, Rothblum, Vadhan 2010; Bun and Steinke 2016; Feldman and Zrnic 2021) and written down.
Formulas of rules that the product does not offer are repeated here, so that the table is whole
and the rules that it does offer can be compared with them.
"""

import math

import pytest

from privacy.accounting import basic, pld, rdp, zcdp
from privacy.events import Approximate, Gaussian, Poisson, Relation, Repeat, Unit
from privacy.ledger import AccountTerms
from privacy.ledger.filters import open_filter
from privacy.ledger.filters.renyi import conversion

EPSILON, DELTA = 1.0, 1e-6

PURE = [  # each epsilon, then how many: basic, Whitehouse, Rogers, advanced composition
    (0.1, 10, 3, 1, 3),
    (0.05, 20, 13, 5, 13),
    (0.01, 100, 349, 147, 337),
    (0.001, 1000, 34937, 14799, 33785),
]


def most(fits, limit=1_000_000):
    """The largest n with fits(n), where fits is monotone."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def admitted(name, event, *, epsilon=EPSILON, delta=DELTA):
    """How many of an event an empty account of this filter admits."""
    rule = open_filter(
        AccountTerms(
            source="rows",
            unit=Unit.RECORD,
            relation=Relation.ADD_REMOVE,
            epsilon=epsilon,
            delta=delta,
            filter=name,
        )
    )
    losses = rule.charge(event, epsilon).losses
    pairs = zip(losses, rule.limits(epsilon), strict=False)
    return max(limit // loss for loss, limit in pairs if loss is not None)


def rogers(each, n):
    """Rogers, Roth, Ullman, Vadhan (2016), theorem 5.1."""
    s, h = n * each**2, 28.04 * math.log(1 / DELTA)
    drift = n * each * math.expm1(each) / 2
    inside = 2 * (s + EPSILON**2 / h) * (1 + math.log(h * s / EPSILON**2 + 1) / 2)
    return drift + math.sqrt(inside * math.log(2 / DELTA))


def advanced(each, n):
    """Dwork, Rothblum, Vadhan (2010): plans that are fixed before they start."""
    return each * math.sqrt(2 * n * math.log(1 / DELTA)) + n * each * math.expm1(each)


@pytest.mark.parametrize(("each", "by_basic", "whitehouse", "by_rogers", "by_advanced"), PURE)
def test_pure_events_under_one_claim(each, by_basic, whitehouse, by_rogers, by_advanced):
    def jobs(n):
        return Repeat(times=n, of=Approximate(epsilon=each))

    # A sum of a thousand floats may miss its limit by its last bit: a relative 1e-12.
    limit = EPSILON * (1 + 1e-12)
    assert most(lambda n: basic.epsilon(jobs(n), DELTA) <= limit) == by_basic
    # Their filter is zCDP's conversion of the sum of epsilon^2 / 2.
    assert most(lambda n: zcdp.epsilon(jobs(n), DELTA) <= limit) == whitehouse
    assert admitted("zcdp", jobs(1)) == whitehouse
    assert most(lambda n: rogers(each, n) <= limit) == by_rogers
    assert most(lambda n: advanced(each, n) <= limit) == by_advanced
    assert whitehouse >= by_advanced >= by_rogers


@pytest.mark.parametrize(("sigma", "by_zcdp", "by_gdp"), [(50.0, 87, 140), (10.0, 3, 5)])
def test_gaussians_under_one_claim(sigma, by_zcdp, by_gdp):
    event = Gaussian(sigma=sigma)
    assert admitted("zcdp", event) == by_zcdp
    assert admitted("gdp", event) == by_gdp


@pytest.mark.parametrize(("order", "count"), [(16, 24), (28, 87), (29, 87), (32, 86), (64, 60)])
def test_gaussians_at_one_order_with_the_simple_conversion(order, count):
    capacity = EPSILON - math.log(1 / DELTA) / (order - 1)
    loss = rdp.rdp(Gaussian(sigma=50.0), [order])[0]
    assert most(lambda n: n * loss <= capacity) == count


def test_our_conversion_admits_more_gaussians_than_the_simple_one():
    # At the best order for this claim; 87 by the simple conversion, 140 by the exact accountant.
    best = max(
        most(lambda n, a=a: n * a / 5000 <= EPSILON + conversion(a, DELTA)) for a in range(2, 100)
    )
    assert 87 < best < 140
    assert 87 < admitted("renyi1", Gaussian(sigma=50.0)) <= best


CAPACITIES = [
    (3, 1.94095),
    (4, 4.62730),
    (5, 5.97048),
    (6, 6.77638),
    (8, 7.69741),
    (16, 8.92546),
    (32, 9.48006),
    (64, 9.74416),
]


@pytest.mark.parametrize(("order", "simple"), CAPACITIES)
def test_capacity_of_an_order(order, simple):
    # A claim of epsilon 10 at delta 1e-7: what PrivateKube and DPack hold at each order.
    assert 10 - math.log(1e7) / (order - 1) == pytest.approx(simple, rel=0, abs=1e-5)
    assert 10 + conversion(order, 1e-7) > simple


def test_capacity_of_order_eight_with_our_conversion():
    assert 10 + conversion(8, 1e-7) == pytest.approx(8.128, rel=0, abs=1e-3)


@pytest.mark.parametrize(("epsilon", "share"), [(1.0, 0.65), (3.0, 0.75), (10.0, 0.75)])
def test_the_default_filter_admits_most_of_what_one_fixed_plan_could_run(epsilon, share):
    step = Poisson(rate=0.05, of=Gaussian(sigma=2.0))
    by_filter = admitted("renyi", step, epsilon=epsilon, delta=1e-5)

    def fits(n):
        return pld.epsilon(Repeat(times=n, of=step), 1e-5, grid=1e-3) <= epsilon

    # So many steps are too many for the plan by PLD: the filter admits at least the share.
    too_many = math.floor(by_filter / share) + 1
    assert by_filter > 0
    assert not fits(too_many)
    assert fits(by_filter)
