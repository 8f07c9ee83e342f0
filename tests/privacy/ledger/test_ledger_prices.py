"""One job has one price, however its event is written, and to run less never costs more."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import pld
from privacy.events import (
    NOTHING,
    All,
    DiscreteGaussian,
    Exchanged,
    Gaussian,
    Poisson,
    Repeat,
    canonical,
    terms,
)
from privacy.ledger import AccountTerms, Stop
from privacy.ledger.filters import open_filter

ACCOUNT = "heart/record"
FAST = settings(max_examples=100, derandomize=True, deadline=None)
LEAVES = tuple(Gaussian(sigma=sigma) for sigma in (7.3, 11.9, 23.7))


def filter_of(name):
    asked = {"source": "s", "unit": "record", "relation": "add_remove", "epsilon": 10.0}
    return open_filter(AccountTerms(**asked, delta=1e-5, filter=name))


FILTERS = {name: filter_of(name) for name in ("renyi", "renyi1", "zcdp", "gdp")}
TREES = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: (
        st.builds(lambda n, of: Repeat(times=n, of=of), st.integers(0, 9), inner)
        | st.builds(lambda parts: All(of=tuple(parts)), st.lists(inner, max_size=4))
        | st.builds(lambda of: Poisson(rate=1.0, of=of), inner)
    ),
    max_leaves=8,
)


@given(TREES)
@FAST
def test_one_price_however_it_is_written(tree):
    counted = terms(tree)
    one_by_one = [term for term, n in counted.items() for _ in range(n)]
    random.Random(0).shuffle(one_by_one)
    listed = All(of=tuple(one_by_one))
    assert canonical(tree) == canonical(listed) == canonical(canonical(tree))
    for filter_ in FILTERS.values():
        price = filter_.charge(tree, 10.0)
        assert price == filter_.charge(listed, 10.0) == filter_.charge(canonical(tree), 10.0)


@given(TREES, TREES)
@FAST
def test_less_never_costs_more_and_a_sum_never_more_than_its_parts(tree, other):
    both = All(of=(tree, other))
    for filter_ in FILTERS.values():
        one, two, sum_ = (filter_.charge(event, 10.0) for event in (tree, other, both))
        assert not sum_.less_than(one) and not sum_.less_than(two)
        for a, b, total in zip(one.losses, two.losses, sum_.losses, strict=True):
            assert a + b - 1 <= total <= a + b


def test_the_price_is_the_sum_in_exact_fractions():
    event = Repeat(times=3, of=All(of=(LEAVES[0], Repeat(times=7, of=LEAVES[1]))))
    (rho,) = FILTERS["zcdp"].charge(event, 10.0).losses
    leaves = ((LEAVES[0], 3), (LEAVES[1], 21))
    exact = sum(n * Fraction(1 / (2 * leaf.sigma**2)) for leaf, n in leaves)
    assert rho - 1 < exact * 10**12 <= rho


def test_an_exchange_is_one_of_each_part():
    event = Exchanged(of=Repeat(times=2, of=All(of=LEAVES[:2])))
    assert terms(event) == {Exchanged(of=leaf): 2 for leaf in LEAVES[:2]}
    assert terms(Exchanged(of=NOTHING)) == terms(Repeat(times=0, of=LEAVES[0])) == {}
    assert canonical(Repeat(times=0, of=LEAVES[0])) == NOTHING


def test_no_random_plan_that_ran_as_reserved_is_an_overspend():
    numbers, filter_ = random.Random(1), FILTERS["renyi"]
    for _ in range(400):
        rounds, steps = numbers.randint(2, 60), numbers.randint(1, 20)
        step = Gaussian(sigma=round(numbers.uniform(0.6, 4), 3))
        bins = DiscreteGaussian(sigma=round(numbers.uniform(3, 40), 3))
        planned = All(of=(Repeat(times=rounds * steps, of=step), Repeat(times=1, of=bins)))
        each = All(of=(Repeat(times=steps, of=step),))
        ran = All(of=(bins, Repeat(times=rounds, of=each)))
        assert filter_.charge(planned, 10.0) == filter_.charge(ran, 10.0)


@pytest.mark.parametrize("name", ["renyi", "basic"])
def test_what_ran_as_reserved_or_less_breaches_nothing(place, monkeypatch, name):
    """Not even where an accountant, by its grid, prices less above more."""
    ledger = place.create()
    ledger.open_account(place.terms(filter=name, epsilon=8.0))
    step = Poisson(rate=0.1, of=Gaussian(sigma=4.0))
    planned, each = Repeat(times=21 * 7, of=step), All(of=(Repeat(times=7, of=step),))
    for rounds in (21, 20, 13):
        place.run(ledger, f"job-{rounds}", events={ACCOUNT: planned})

    def wavering(event, delta, relation):
        return 1.0 if event == canonical(planned) else 1.5

    monkeypatch.setattr(pld, "job_epsilon", wavering)
    for rounds in (21, 20, 13):
        ran, stop = {ACCOUNT: Repeat(times=rounds, of=each)}, Stop.RELEASED_RESULT
        ledger.settle(f"job-{rounds}", executed=ran, stop=stop, released=0)
    assert ledger.account("heart", "record").status == "healthy"
    assert ledger.verify().ok
    ledger.close()
