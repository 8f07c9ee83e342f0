"""The price of Skellam noise against its own law, summed over the integers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from privacy.accounting import pld, rdp, registry
from privacy.accounting.units import to_unit
from privacy.errors import InvalidEvent, UnsupportedEvent
from privacy.events import (
    All,
    DiscreteGaussian,
    Exchanged,
    Poisson,
    Relation,
    Repeat,
    Skellam,
    Unit,
    parse,
)

check = settings(max_examples=60, deadline=None, derandomize=True)


def log_pmf(mu, reach):
    """ln P(X = n) of Skellam noise of variance mu at n = 0..reach.

    Ratios of Bessel functions by their continued fraction from far above, so that tails whose
    probability no double holds keep all their digits.
    """
    ratio, ratios = 0.0, np.empty(reach + 1)
    for n in range(reach + 60 + int(10 * math.sqrt(mu)), 0, -1):
        ratio = 1 / (2 * n / mu + ratio)
        if n <= reach:
            ratios[n] = ratio
    start = math.log(special.ive(0, mu))
    return np.concatenate([[start], start + np.cumsum(np.log(ratios[1:]))])


def divergence(mu, shift, order, log_p=None, rate=1.0, removing=False):
    """The Renyi divergence between the noise and the noise shifted by an integer.

    With a rate below one: between a mixture of the two and the noise, or (`removing`) the reverse.
    """
    if log_p is None:
        log_p = log_pmf(mu, int(80 * math.sqrt(mu) + 40 * order * shift) + 200)
    x = np.arange(shift - len(log_p) + 1, len(log_p))
    moved, still = log_p[np.abs(x - shift)], log_p[np.abs(x)]
    if rate < 1:
        moved = np.logaddexp(moved + math.log(rate), still + math.log1p(-rate))
    if removing:
        moved, still = still, moved
    terms = order * moved + (1 - order) * still
    top = terms.max()
    assert max(terms[0], terms[-1]) < top - 40  # nothing is left out
    # The sum is near one where the divergence is small: what exceeds one is added up on its own.
    with np.errstate(all="ignore"):
        excess = np.exp(moved) * np.expm1((order - 1) * (moved - still))
    small = np.isfinite(excess).all() and abs(excess.sum()) < 1e-3
    return (np.log1p(excess.sum()) if small else special.logsumexp(terms)) / (order - 1)


def one(mu, shift, order, relation=Relation.ADD_REMOVE):
    event = Skellam(variance=mu, l2_squared=shift**2, l1=shift)
    return rdp.rdp(event, [order], relation)[0]


def test_the_law_summed_here_is_scipys():
    for mu in (1, 7, 300):
        n = np.arange(int(6 * math.sqrt(mu)))
        np.testing.assert_allclose(
            log_pmf(mu, len(n) - 1), stats.skellam.logpmf(n, mu / 2, mu / 2), rtol=1e-9
        )


@pytest.mark.parametrize("mu", [1, 2, 4, 10, 30, 100, 1000, 20_000])
def test_the_bound_is_never_below_the_divergence_and_near_it_where_noise_is_large(mu):
    for shift, order in itertools.product((1, 2, 3, 7, 20), (2, 3, 4, 5, 8, 16, 33)):
        if order * shift > 40 * math.sqrt(mu) + 40:
            continue
        exact, bound = divergence(mu, shift, order), one(mu, shift, order)
        assert exact <= bound * (1 + 1e-9), (mu, shift, order)
        if mu >= 1000 and order * shift < mu / 50:
            assert bound <= exact * 1.03, (mu, shift, order)


@pytest.mark.large
def test_the_bound_is_never_below_the_divergence_on_two_thousand_random_cases():
    rng = np.random.default_rng(20261127)
    near = []
    while len(near) < 2000:
        mu = int(math.exp(rng.uniform(0, math.log(3e5))))
        order = math.exp(rng.uniform(math.log(1.1), math.log(200)))
        order = order if rng.random() < 0.3 else max(2, int(order))
        shift = max(1, int(math.exp(rng.uniform(0, math.log(3 * math.sqrt(mu) + 2)))))
        if order * shift < 60 * math.sqrt(mu) + 200:
            exact, bound = divergence(mu, shift, order), one(mu, shift, order)
            assert exact <= bound * (1 + 1e-9), (mu, shift, order)
            near.append(exact / bound)
    # The bound is no empty one: constants five per cent smaller would be seen in a third of these.
    assert np.mean(np.array(near) > 0.95) > 1 / 3


@pytest.mark.parametrize("order", [1.05, 1.5, 1.9, 2.5, 3.18, 7.3, 24.5])
def test_between_whole_orders_the_bound_is_a_chord_above_the_divergence(order):
    for mu, shift in ((4, 1), (50, 3), (400, 5), (5000, 40)):
        assert divergence(mu, shift, order) <= one(mu, shift, order) * (1 + 1e-9)
        below = max(math.floor(order), 2)
        low, high = one(mu, shift, below), one(mu, shift, math.floor(order) + 1)
        assert low * (1 - 1e-12) <= one(mu, shift, order) <= high * (1 + 1e-12)


def test_the_bound_of_a_vector_is_above_every_vector_within_its_norms():
    """All integer vectors of three coordinates with these norms, the divergences added up."""
    for mu, order in itertools.product((3, 12, 80), (2, 5, 9)):
        alone = {shift: divergence(mu, shift, order) if shift else 0.0 for shift in range(4)}
        for vector in itertools.combinations_with_replacement(range(4), 3):
            squares, total = sum(v**2 for v in vector), sum(vector)
            if not total:
                continue
            event = Skellam(variance=mu, l2_squared=squares, l1=total)
            exact = sum(alone[v] for v in vector)
            assert exact <= rdp.rdp(event, [order])[0] * (1 + 1e-9), (mu, order, vector)


def test_values_of_the_papers_own_formula():
    """Corollary 3.6, as its authors' code has it: real sensitivities, a variance, a scale s.

    a D2^2 / (2 v) + min(((2 a - 1) s D2^2 + 6 D1) / (4 s^3 v^2), 3 D1 / (2 s v)); worked by hand.
    """
    # s = 10, v = 4, D2 = 1, D1 = 3: in integers variance 400, squares 100, absolute values 30.
    event = Skellam(variance=400, l2_squared=100, l1=30)
    curve = rdp.rdp(event, [2, 8, 64])
    expected = [
        2 / 8 + (3 * 10 + 18) / (4 * 1000 * 16),
        8 / 8 + (15 * 10 + 18) / (4 * 1000 * 16),
        64 / 8 + (127 * 10 + 18) / (4 * 1000 * 16),
    ]
    np.testing.assert_allclose(curve, expected, rtol=1e-12)
    # Little noise: the other term is the smaller one. variance 2, one coordinate moved by one.
    small = rdp.rdp(Skellam(variance=2, l2_squared=1, l1=1), [16])[0]
    assert small == pytest.approx(16 / 4 + min((31 + 6) / 16, 3 / 4), rel=1e-12)


def test_integers_are_no_larger_than_their_squares():
    loose = Skellam(variance=50, l2_squared=9, l1=9_000)
    assert rdp.rdp(loose, [3])[0] == rdp.rdp(Skellam(variance=50, l2_squared=9, l1=9), [3])[0]


@check
@given(
    st.integers(1, 10**9),
    st.integers(1, 10**6),
    st.integers(1, 10**6),
    st.floats(1.01, 200),
    st.sampled_from([1.0, 0.3, 0.01]),
)
def test_noise_costs_less_and_sensitivity_more(mu, squares, l1, order, rate):
    def price(**changed):
        event = Skellam(**({"variance": mu, "l2_squared": squares, "l1": l1} | changed))
        return rdp.rdp(Poisson(rate=rate, of=event), [order])[0]

    here = price()
    slack = here * 1e-8 + 1e-300
    assert price(variance=2 * mu) <= here + slack
    assert price(l2_squared=2 * squares) >= here - slack
    assert price(l1=2 * l1) >= here - slack


def test_with_much_noise_it_is_a_gaussian():
    event = Skellam(variance=10**12, l2_squared=10**10, l1=10**8)
    np.testing.assert_allclose(rdp.rdp(event, [2, 9, 50]), np.array([2, 9, 50]) / 200, rtol=1e-3)
    assert (rdp.rdp(event, [2, 9, 50]) > np.array([2, 9, 50]) / 200).all()


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01])
def test_a_sample_costs_no_less_than_both_directions_of_the_mixture(rate):
    for mu, shift in ((2, 1), (20, 2), (400, 10), (3000, 30)):
        event = Poisson(rate=rate, of=Skellam(variance=mu, l2_squared=shift**2, l1=shift))
        for order in (1.4, 2, 3, 3.6, 6, 12):
            log_p = log_pmf(mu, int(80 * math.sqrt(mu)) + int(40 * order * shift) + 200)
            adding, removing = (
                divergence(mu, shift, order, log_p, rate, reverse) for reverse in (False, True)
            )
            assert removing <= adding * (1 + 1e-7)
            bound = rdp.rdp(event, [order])[0]
            assert adding <= bound * (1 + 1e-9), (mu, shift, order)
            if mu >= 400 and float(order).is_integer() and order < 12:
                assert bound <= adding * 1.1
            assert bound <= one(mu, shift, order) * (1 + 1e-8)


def test_a_sampled_sum_costs_what_a_sampled_gaussian_does():
    from privacy.events import Gaussian

    fine = Poisson(rate=0.02, of=Skellam(variance=10**10, l2_squared=10**10, l1=10**7))
    smooth = Poisson(rate=0.02, of=Gaussian(sigma=1.0))
    orders = rdp.WHOLE_ORDERS[:12]
    np.testing.assert_allclose(rdp.rdp(fine, orders), rdp.rdp(smooth, orders), rtol=0.01)


def test_under_replace_one_vector_is_taken_out_and_another_put_in():
    event = Skellam(variance=300, l2_squared=16, l1=10)
    twice = Skellam(variance=300, l2_squared=64, l1=20)
    orders = [1.5, 2.0, 7.0, 31.0]
    replaced = rdp.rdp(event, orders, Relation.REPLACE)
    np.testing.assert_array_equal(replaced, rdp.rdp(twice, orders))
    np.testing.assert_array_equal(rdp.rdp(Exchanged(of=event), orders), replaced)
    sampled = rdp.rdp(Poisson(rate=0.1, of=event), orders, Relation.REPLACE)
    assert (sampled <= replaced).all() and (sampled > 0).all()
    # Taking a 4 out and putting a -4 in, with the divergence summed up.
    alone = Skellam(variance=300, l2_squared=16, l1=4)
    assert divergence(300, 8, 7) <= rdp.rdp(alone, [7], Relation.REPLACE)[0]


def test_a_subjects_rows_move_the_sum_together():
    def subject(event, rows=5):
        return to_unit(
            event, event_unit=Unit.RECORD, account_unit=Unit.SUBJECT, rows_per_subject=rows
        )

    event = Skellam(variance=300, l2_squared=16, l1=10)
    grouped = Skellam(variance=300, l2_squared=400, l1=50)
    assert subject(event) == subject(Poisson(rate=1.0, of=event)) == grouped
    assert subject(Repeat(times=3, of=event)) == Repeat(times=3, of=grouped)
    with pytest.raises(UnsupportedEvent):
        subject(Poisson(rate=0.5, of=event))
    with pytest.raises(InvalidEvent):
        subject(Skellam(variance=1, l2_squared=2**50, l1=1), rows=9)


@pytest.mark.parametrize("relation", Relation)
def test_only_renyi_has_a_price(relation):
    event = Skellam(variance=300, l2_squared=16, l1=10)
    for priced in (event, Poisson(rate=0.1, of=event), All(of=(event, DiscreteGaussian(sigma=5)))):
        assert set(registry.price(priced, 1e-5, relation)) == {"rdp"}
    job = All(of=(Repeat(times=10, of=event), DiscreteGaussian(sigma=5)))
    assert pld.job_epsilon(job, 1e-5, relation) == rdp.epsilon(job, 1e-5, relation)


def test_the_price_of_one_coordinate_is_above_its_own_delta():
    """epsilon at delta by the hockey-stick divergence of the law itself."""
    for mu, shift in ((4, 1), (100, 5), (1000, 20), (20_000, 60)):
        log_p = log_pmf(mu, int(40 * math.sqrt(mu)) + 400)
        x = np.arange(shift - len(log_p) + 1, len(log_p))
        moved, still = log_p[np.abs(x - shift)], log_p[np.abs(x)]
        bound = rdp.epsilon(Skellam(variance=mu, l2_squared=shift**2, l1=shift), 1e-5)
        delta = np.maximum(np.exp(moved) - np.exp(bound + still), 0).sum()
        assert delta <= 1e-5
        assert delta > 1e-7 or mu < 20_000  # no empty bound; small noise has thinner tails


@pytest.mark.parametrize("field", ["variance", "l2_squared", "l1"])
@pytest.mark.parametrize("value", [0, -1, 1.5, math.inf, math.nan, 2**53, "x"])
def test_every_number_is_a_positive_integer(field, value):
    whole = {"event": "skellam", "variance": 3, "l2_squared": 1, "l1": 1}
    with pytest.raises(InvalidEvent):
        parse(whole | {field: value})


def test_the_ledger_can_write_it():
    from privacy.ledger.canonical import decode, encode

    event = Skellam(variance=2**53 - 1, l2_squared=2**53 - 1, l1=2**53 - 1)
    assert parse(decode(encode(event.model_dump(mode="json")))) == event
