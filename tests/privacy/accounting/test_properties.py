"""What every accountant obeys: order does not matter, more costs more, noise costs less."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants.analysis import rdp as opacus_rdp

from privacy.accounting import basic, gdp, pld, rdp, registry, zcdp
from privacy.accounting.units import to_unit
from privacy.errors import InvalidEvent, UnsupportedEvent
from privacy.events import (
    NOTHING,
    All,
    Approximate,
    DiscreteGaussian,
    Exchanged,
    Gaussian,
    Laplace,
    MovedCounts,
    Poisson,
    RandomizedResponse,
    Relation,
    Repeat,
    SampledRows,
    Unit,
)

ORDERS = (1.5, 2.0, 3.3, 8.0, 32.0)
sigmas = st.floats(0.4, 50)
rates = st.floats(1e-4, 1)
relations = st.sampled_from(Relation)
check = settings(max_examples=40, deadline=None, derandomize=True)


def steps(sigma, rate, times):
    return Repeat(times=times, of=Poisson(rate=rate, of=Gaussian(sigma=sigma)))


leaves = st.one_of(
    st.builds(Gaussian, sigma=sigmas),
    st.builds(DiscreteGaussian, sigma=sigmas),
    st.builds(Laplace, scale=st.floats(0.3, 50)),
    st.builds(Approximate, epsilon=st.floats(0, 3)),
    st.builds(steps, sigma=sigmas, rate=rates, times=st.integers(1, 50)),
    st.builds(SampledRows, sigma=sigmas, rate=rates, rows=st.integers(1, 4)),
)
events = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Repeat, times=st.integers(0, 5), of=inner),
        st.builds(lambda of: All(of=tuple(of)), st.lists(inner, max_size=3)),
    ),
    max_leaves=5,
)


@check
@given(st.lists(events, min_size=2, max_size=4), relations, st.randoms(use_true_random=False))
def test_the_order_of_composition_does_not_matter(parts, relation, random):
    mixed = list(parts)
    random.shuffle(mixed)
    one = rdp.rdp(All(of=tuple(parts)), ORDERS, relation)
    other = rdp.rdp(All(of=tuple(mixed)), ORDERS, relation)
    np.testing.assert_allclose(one, other, rtol=1e-12)
    alone = sum(rdp.rdp(part, ORDERS, relation) for part in parts)
    np.testing.assert_allclose(one, alone, rtol=1e-12)


def test_the_order_of_composition_does_not_matter_to_pld():
    parts = [steps(1.0, 0.01, 50), DiscreteGaussian(sigma=5.0), Laplace(scale=4.0)]
    prices = {
        round(pld.epsilon(All(of=tuple(order)), 1e-5, grid=1e-3), 9)
        for order in (parts, parts[::-1], [parts[1], parts[0], parts[2]])
    }
    assert max(prices) - min(prices) < 1e-6


@check
@given(events, st.integers(0, 7), relations)
def test_repeating_is_composing_with_itself(event, times, relation):
    repeated = rdp.rdp(Repeat(times=times, of=event), ORDERS, relation)
    listed = rdp.rdp(All(of=(event,) * times), ORDERS, relation)
    np.testing.assert_allclose(repeated, listed, rtol=1e-12)


@check
@given(events, events, relations)
def test_more_is_never_cheaper(event, more, relation):
    one = rdp.rdp(event, ORDERS, relation)
    both = rdp.rdp(All(of=(event, more)), ORDERS, relation)
    assert (both >= one).all()
    assert (one >= 0).all()
    assert (np.diff(one) >= -1e-9).all()  # Renyi divergence does not fall with its order


@settings(check, max_examples=20)
@given(sigmas, rates, st.integers(1, 500), st.floats(1.01, 3), relations)
def test_dp_sgd_costs_less_with_noise_more_with_rate_and_steps(sigma, rate, times, more, relation):
    here = rdp.rdp(steps(sigma, rate, times), ORDERS, relation)
    slack = 3 * rdp.SLACK * here + 1e-9
    assert (rdp.rdp(steps(sigma * more, rate, times), ORDERS, relation) <= here + slack).all()
    assert (rdp.rdp(steps(sigma, rate / more, times), ORDERS, relation) <= here + slack).all()
    assert (rdp.rdp(steps(sigma, rate, times + 1), ORDERS, relation) > here).all()
    assert (rdp.rdp(steps(sigma, 1.0, times), ORDERS, relation) + slack >= here).all()


def test_pld_of_dp_sgd_moves_the_same_way():
    def price(sigma=1.0, rate=0.02, times=50, delta=1e-5):
        return pld.epsilon(steps(sigma, rate, times), delta, grid=1e-3)

    here = price()
    assert price(sigma=1.1) < here < price(sigma=0.9)
    assert price(rate=0.01) < here < price(rate=0.03)
    assert price(times=49) < here < price(times=60)
    assert price(delta=1e-4) < here < price(delta=1e-6)


@check
@given(events, st.floats(1e-9, 0.1), st.floats(1.5, 100))
def test_a_smaller_delta_costs_more(event, delta, factor):
    orders = rdp.WHOLE_ORDERS
    assert rdp.epsilon(event, delta / factor, orders=orders) >= rdp.epsilon(
        event, delta, orders=orders
    )


@check
@given(
    st.floats(0.5, 20),
    st.floats(1e-3, 0.5),
    st.one_of(st.integers(2, 60).map(float), st.floats(1.2, 40)),
)
def test_the_sampled_gaussian_is_what_opacus_computes(sigma, rate, order):
    theirs = opacus_rdp.compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=order)
    ours = rdp.rdp(Poisson(rate=rate, of=Gaussian(sigma=sigma)), [order])[0]
    # Their series stops at terms of e^-30, ours is rounded up by 1e-9 and 1e-12 / (order - 1).
    assert ours == pytest.approx(theirs, rel=1e-8, abs=1e-10)


@check
@given(st.lists(st.tuples(sigmas, st.integers(1, 40)), min_size=1, max_size=4), relations)
def test_plain_gaussians_have_closed_forms(parts, relation):
    event = All(of=tuple(Repeat(times=n, of=Gaussian(sigma=s)) for s, n in parts))
    sensitivity = 2 if relation is Relation.REPLACE else 1
    mu_squared = sum(n * (sensitivity / s) ** 2 for s, n in parts)
    assert zcdp.rho(event, relation) == pytest.approx(mu_squared / 2, rel=1e-12)
    assert gdp.mu(event, relation) == pytest.approx(math.sqrt(mu_squared), rel=1e-12)
    np.testing.assert_allclose(
        rdp.rdp(event, ORDERS, relation), np.array(ORDERS) * mu_squared / 2, rtol=1e-12
    )
    # One Gaussian of the composed noise is the same event.
    one = Gaussian(sigma=sensitivity / math.sqrt(mu_squared))
    assert gdp.epsilon(one, 1e-6, relation) == pytest.approx(
        gdp.epsilon(event, 1e-6, relation), rel=1e-9
    )


def test_the_epsilon_of_gdp_solves_its_equation():
    from scipy.stats import norm

    for mu in (0.05, 0.5, 2.0, 10.0):
        e = gdp.epsilon(Gaussian(sigma=1 / mu), 1e-6)
        delta = norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu)
        assert delta == pytest.approx(1e-6, rel=1e-6)
    assert gdp.epsilon(Gaussian(sigma=1e9), 1e-6) == 0.0


def test_pure_mechanisms_have_closed_forms():
    assert basic.cost(Laplace(scale=4.0)) == (0.25, 0.0)
    assert basic.cost(Laplace(scale=4.0), Relation.REPLACE) == (0.5, 0.0)
    local = RandomizedResponse(epsilon=1.5, categories=4)
    assert basic.cost(local, Relation.REPLACE) == (1.5, 0.0)
    both = All(of=(Approximate(epsilon=0.5, delta=1e-7), Repeat(times=3, of=Laplace(scale=2.0))))
    assert basic.cost(both) == (2.0, 1e-7)
    assert zcdp.rho(Laplace(scale=4.0)) == 0.25**2 / 2
    # At infinite order the Renyi divergence of a pure mechanism is its epsilon.
    assert rdp.rdp(Laplace(scale=0.5), [1e6])[0] == pytest.approx(2.0, rel=1e-4)
    assert rdp.rdp(local, [1e6], Relation.REPLACE)[0] == pytest.approx(1.5, rel=1e-4)


def test_renyi_of_laplace_and_of_randomized_response_by_definition():
    from scipy import integrate

    def laplace(x, scale, at):
        return math.exp(-abs(x - at) / scale) / (2 * scale)

    for scale, order in ((1.0, 2.0), (3.0, 7.5)):
        moment, _ = integrate.quad(
            lambda x, b=scale, a=order: laplace(x, b, 1) ** a * laplace(x, b, 0) ** (1 - a),
            -60 * scale,
            60 * scale,
            points=[0, 1],
            limit=200,
        )
        ours = rdp.rdp(Laplace(scale=scale), [order])[0]
        assert ours == pytest.approx(math.log(moment) / (order - 1), rel=1e-7)
    e, k, order = 1.2, 5, 3.5
    p = np.array([math.exp(e), 1, 1, 1, 1]) / (math.exp(e) + k - 1)
    q = p[[1, 0, 2, 3, 4]]
    ours = rdp.rdp(RandomizedResponse(epsilon=e, categories=k), [order], Relation.REPLACE)[0]
    assert ours == pytest.approx(math.log((p**order * q ** (1 - order)).sum()) / (order - 1))


@pytest.mark.parametrize("small", [1e-3, 1e-6, 1e-10])
def test_a_loss_that_rounding_would_swallow_is_still_a_loss(small):
    """To the second order in a small epsilon both divergences are a variance: a b^2 / 2 or less."""
    laplace = rdp.rdp(Laplace(scale=1 / small), ORDERS)
    response = rdp.rdp(RandomizedResponse(epsilon=small, categories=2), ORDERS, Relation.REPLACE)
    at = np.array(ORDERS)
    assert (laplace >= 0.99 * at * small**2 / 2).all()
    assert (response >= 0.99 * at * small**2 / 2).all()
    assert (laplace <= at * small**2 / 2 * (1 + 1e-6)).all()


def test_renyi_of_the_discrete_gaussian_is_below_its_bound():
    x = np.arange(-400, 401)
    for sigma in (1.0, 4.0):
        log_p, log_q = (-((x - shift) ** 2) / (2 * sigma**2) for shift in (0, 1))
        log_p, log_q = (log - np.logaddexp.reduce(log) for log in (log_p, log_q))
        for order in (1.5, 6.0):
            exact = np.logaddexp.reduce(order * log_p + (1 - order) * log_q) / (order - 1)
            bound = rdp.rdp(DiscreteGaussian(sigma=sigma), [order])[0]
            assert exact <= bound * (1 + 1e-9)
            assert exact == pytest.approx(bound, rel=1e-3)
    # Under replace a unit leaves one count and enters another.
    assert rdp.rdp(DiscreteGaussian(sigma=4.0), [2.0], Relation.REPLACE)[0] == 2 * 2 / 32


def test_a_subject_of_k_rows_faces_a_gaussian_of_k_times_the_shift():
    def subject(event, rows=4):
        return to_unit(
            event, event_unit=Unit.RECORD, account_unit=Unit.SUBJECT, rows_per_subject=rows
        )

    assert subject(Gaussian(sigma=2.0)) == Gaussian(sigma=0.5)
    assert subject(Laplace(scale=2.0)) == Laplace(scale=0.5)
    assert subject(DiscreteGaussian(sigma=2.0)) == MovedCounts(sigma=2.0, rows=4)
    assert subject(Poisson(rate=1.0, of=Gaussian(sigma=2.0))) == Gaussian(sigma=0.5)
    job = All(of=(steps(2.0, 0.1, 9), DiscreteGaussian(sigma=8.0)))
    assert subject(job) == All(
        of=(
            Repeat(times=9, of=SampledRows(sigma=2.0, rate=0.1, rows=4)),
            MovedCounts(sigma=8.0, rows=4),
        )
    )


@pytest.mark.parametrize(("sigma", "rows"), [(2.0, 2), (1.0, 4), (5.0, 3)])
def test_moved_counts_cost_what_the_worst_pattern_costs_and_are_no_gaussian(sigma, rows):
    """Every way to spread the moves over counts, by summing over the integers."""
    x = np.arange(-300, 301)
    noise = -(x**2) / (2 * sigma**2)
    noise -= np.logaddexp.reduce(noise)

    def one(shift, order):
        moved = -((x - shift) ** 2) / (2 * sigma**2)
        moved -= np.logaddexp.reduce(moved)
        return np.logaddexp.reduce(order * moved + (1 - order) * noise) / (order - 1)

    def spread(left, most):
        if left == 0:
            yield ()
        for first in range(min(left, most), 0, -1):
            yield from ((first, *rest) for rest in spread(left - first, first))

    event = MovedCounts(sigma=sigma, rows=rows)
    for order in (1.5, 2.0, 8.0):
        exact = max(sum(one(shift, order) for shift in way) for way in spread(rows, rows))
        bound = rdp.rdp(event, [order])[0]
        assert exact <= bound * (1 + 1e-9) and exact == pytest.approx(bound, rel=0.02)
    # A Gaussian of sigma / rows can be cheaper than the counts really are, at one delta.
    delta = 1e-5
    log_p = noise[rows:]  # p(x) beside p(x - rows): all moves in one count
    log_q = noise[:-rows]

    def delta_at(epsilon):
        return np.maximum(np.exp(log_p) - np.exp(epsilon + log_q), 0).sum()

    low, high = 0.0, 200.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    assert pld.job_epsilon(event, delta) >= high
    for accountant in (pld.epsilon, gdp.epsilon):
        with pytest.raises(UnsupportedEvent):
            accountant(event, delta)
    assert zcdp.rho(event) == pytest.approx(rows**2 / (2 * sigma**2))
    assert zcdp.rho(event, Relation.REPLACE) == pytest.approx(rows**2 / sigma**2)


def test_a_record_that_may_push_another_of_its_subject_out_faces_an_exchange():
    job = All(of=(steps(2.0, 0.1, 9), DiscreteGaussian(sigma=8.0)))

    def record(event, rows):
        return to_unit(
            event, event_unit=Unit.RECORD, account_unit=Unit.RECORD, rows_per_subject=rows
        )

    assert record(job, None) is job
    assert record(job, 4) == Exchanged(of=job) and record(NOTHING, 4) == NOTHING
    assert pld.job_epsilon(record(job, 4), 1e-5) > 1.3 * pld.job_epsilon(job, 1e-5)


def test_what_an_exchange_costs_is_unknown_where_only_an_epsilon_is_known():
    job = All(of=(Gaussian(sigma=2.0), Approximate(epsilon=1.0)))
    for accountant in registry.ACCOUNTANTS.values():
        with pytest.raises(UnsupportedEvent):
            accountant(Exchanged(of=job), 1e-5, Relation.ADD_REMOVE)


def test_a_record_of_a_subject_job_faces_an_exchange():
    job = steps(2.0, 0.1, 9)
    seen = to_unit(job, event_unit=Unit.SUBJECT, account_unit=Unit.RECORD, rows_per_subject=4)
    assert seen == Exchanged(of=job)
    assert (
        to_unit(job, event_unit=Unit.SUBJECT, account_unit=Unit.SUBJECT, rows_per_subject=None)
        is job
    )
    np.testing.assert_array_equal(rdp.rdp(seen, ORDERS), rdp.rdp(job, ORDERS, Relation.REPLACE))


UNSUPPORTED = [  # event, relation, accountants that must refuse it
    (RandomizedResponse(epsilon=1, categories=2), Relation.ADD_REMOVE, list(registry.ACCOUNTANTS)),
    (Poisson(rate=0.1, of=All(of=(Gaussian(sigma=1),))), Relation.ADD_REMOVE, ["rdp", "pld"]),
    (Poisson(rate=0.1, of=Gaussian(sigma=1)), Relation.ADD_REMOVE, ["zcdp", "gdp", "basic"]),
    (SampledRows(sigma=1, rate=0.1, rows=2), Relation.REPLACE, ["pld", "zcdp", "gdp", "basic"]),
    (Exchanged(of=Gaussian(sigma=1)), Relation.REPLACE, list(registry.ACCOUNTANTS)),
    (Approximate(epsilon=1, delta=1e-3), Relation.ADD_REMOVE, ["rdp", "zcdp", "gdp", "basic"]),
    (Gaussian(sigma=1), Relation.ADD_REMOVE, ["basic"]),
    (Laplace(scale=1), Relation.ADD_REMOVE, ["gdp"]),
]


@pytest.mark.parametrize(("event", "relation", "names"), UNSUPPORTED)
def test_an_event_without_a_price_is_refused_and_named(event, relation, names):
    for name in names:
        with pytest.raises(UnsupportedEvent) as caught:
            registry.ACCOUNTANTS[name](event, 1e-5, relation)
        assert caught.value.field
        assert caught.value.code == "PRIVACY-002"
        assert len(caught.value.message) > 10
    if len(names) == len(registry.ACCOUNTANTS):
        with pytest.raises(UnsupportedEvent):
            registry.price(event, 1e-5, relation)
    else:
        try:
            assert not set(registry.price(event, 1e-5, relation)) & set(names)
        except UnsupportedEvent:
            assert set(names) >= {"rdp", "pld"}


UNITS = [
    (Gaussian(sigma=1), Unit.SILO, Unit.RECORD, 3),
    (Gaussian(sigma=1), Unit.RECORD, Unit.SILO, 3),
    (Gaussian(sigma=1), Unit.RECORD, Unit.SUBJECT, None),
    (Poisson(rate=0.1, of=Laplace(scale=1)), Unit.RECORD, Unit.SUBJECT, 3),
    (Approximate(epsilon=1, delta=1e-6), Unit.RECORD, Unit.SUBJECT, 3),
]


@pytest.mark.parametrize(("event", "job", "account", "rows"), UNITS)
def test_a_unit_without_a_proven_conversion_is_refused(event, job, account, rows):
    with pytest.raises(UnsupportedEvent) as caught:
        to_unit(event, event_unit=job, account_unit=account, rows_per_subject=rows)
    assert caught.value.field


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, math.nan])
def test_a_delta_that_makes_no_sense_is_refused(delta):
    with pytest.raises(InvalidEvent) as caught:
        registry.price(Gaussian(sigma=1), delta)
    assert caught.value.field == "delta"


@pytest.mark.parametrize("relation", Relation)
def test_nothing_costs_nothing(relation):
    for event in (
        NOTHING,
        Repeat(times=0, of=Gaussian(sigma=1)),
        Poisson(rate=0.0, of=Gaussian(sigma=1)),
    ):
        assert registry.price(event, 1e-5, relation) == dict.fromkeys(registry.ACCOUNTANTS, 0.0)


def test_replace_is_two_moves_of_a_gaussian():
    # dp_accounting's RDP says 4.7285 under both relations (its issue 378); the truth is sigma / 2.
    twice = registry.price(Gaussian(sigma=1), 1e-5, Relation.REPLACE)
    half = registry.price(Gaussian(sigma=0.5), 1e-5, Relation.ADD_REMOVE)
    assert twice == half
    assert twice["pld"] == pytest.approx(9.9973, abs=1e-4)
    assert twice["rdp"] > 9.99


def test_without_a_relation_a_local_mechanism_is_priced_under_replace():
    assert "rdp" in registry.price(RandomizedResponse(epsilon=1, categories=2), 1e-5)


@pytest.mark.parametrize("order", [1.0, 0.5, -1.0])
def test_orders_are_above_one(order):
    with pytest.raises(ValueError, match="above 1"):
        rdp.rdp(Gaussian(sigma=1), [2.0, order])
