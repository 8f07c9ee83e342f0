"""A calibrated plan never costs more than was asked, and hardly less."""

import math

import numpy as np
import pytest

from privacy.accounting import calibrate, gdp, pld, rdp
from privacy.errors import CalibrationFailed
from privacy.events import (
    All,
    DiscreteGaussian,
    Exchanged,
    Gaussian,
    Poisson,
    Relation,
    Repeat,
    SampledRows,
    Unit,
)
from privacy.ledger import AccountTerms
from privacy.ledger.filters import open_filter


def between(rng, low, high):
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def job(rng, epsilon, delta):
    """A random job: steps of DP-SGD whose noise is asked for, perhaps with evaluations."""
    rate = min(1.0, between(rng, 0.002, 1.5))
    steps = int(between(rng, 1, 3000))
    share = rng.uniform(0.05, 0.7) if rng.random() < 0.6 else 0.0

    def build(sigma):
        step = Gaussian(sigma=sigma)
        if rate < 1:
            step = Poisson(rate=rate, of=step)
        parts = [Repeat(times=steps, of=step)]
        if share:
            noise = calibrate.gaussian_sigma(epsilon, delta) / math.sqrt(share)
            parts.append(DiscreteGaussian(sigma=noise))
        return All(of=tuple(parts))

    return build


def check(seed, count):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        epsilon, delta = between(rng, 0.1, 20), between(rng, 1e-8, 1e-3)
        relation = Relation.REPLACE if rng.random() < 0.2 else Relation.ADD_REMOVE
        build = job(rng, epsilon, delta)
        try:
            sigma = calibrate.noise_multiplier(
                build, epsilon=epsilon, delta=delta, relation=relation
            )
        except CalibrationFailed:
            # Under replace a histogram that was sized for add/remove may cost too much by itself.
            assert pld.job_epsilon(build(calibrate.LARGEST), delta, relation) > epsilon
            continue
        event = build(sigma)
        spent = pld.job_epsilon(event, delta, relation)
        assert spent <= epsilon, (seed, event, delta, spent)
        # On a grid of its own choice the price is no higher, and the truth is below.
        assert pld.epsilon(event, delta, relation, grid=epsilon / 3000) <= epsilon * (1 + 1e-9)
        assert pld.epsilon_lower(event, delta, relation, grid=epsilon / 300) <= epsilon
        if sigma > calibrate.SMALLEST * 1.001:
            # The gap, and the jump of a price where its grid changes.
            assert spent >= 0.99 * epsilon, (seed, event, delta, spent)


def test_no_calibrated_plan_overshoots():
    check(seed=11, count=16)


@pytest.mark.large
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
def test_no_calibrated_plan_overshoots_at_large(seed):
    check(seed, 100)


def test_noise_comes_down_from_the_top_where_rdp_sees_no_room():
    """By RDP the histogram alone costs too much; the tight price leaves room for steps."""

    def build(sigma):
        steps = Repeat(times=62, of=Poisson(rate=0.027, of=Gaussian(sigma=sigma)))
        return All(of=(steps, DiscreteGaussian(sigma=19.0)))

    delta, replace = 4.7e-5, Relation.REPLACE
    assert rdp.epsilon(build(calibrate.LARGEST), delta, replace) > 0.233
    sigma = calibrate.noise_multiplier(build, epsilon=0.233, delta=delta, relation=replace)
    assert 0.99 * 0.233 <= pld.job_epsilon(build(sigma), delta, replace) <= 0.233
    assert sigma < 20


def test_a_plan_at_subject_level_is_calibrated_for_its_records():
    def exchanged(sigma):
        step = Poisson(rate=0.1, of=Gaussian(sigma=sigma))
        return Exchanged(of=Repeat(times=20, of=step))

    sigma = calibrate.noise_multiplier(exchanged, epsilon=2.0, delta=1e-5)
    assert 0.99 * 2 <= pld.epsilon(exchanged(sigma), 1e-5) <= 2.0


@pytest.mark.large
def test_a_mixture_is_calibrated():
    def rows(sigma):
        return Repeat(times=5, of=SampledRows(sigma=sigma, rate=0.1, rows=2))

    sigma = calibrate.noise_multiplier(rows, epsilon=8.0, delta=1e-5)
    assert 0.99 * 8 <= pld.epsilon(rows(sigma), 1e-5, grid=4e-3) <= 8.0


def test_more_privacy_takes_more_noise():
    def build(sigma):
        return Repeat(times=100, of=Poisson(rate=0.02, of=Gaussian(sigma=sigma)))

    sigmas = [
        calibrate.noise_multiplier(build, epsilon=e, delta=d)
        for e, d in ((8, 1e-4), (4, 1e-4), (4, 1e-5), (1, 1e-5), (0.2, 1e-5))
    ]
    assert sigmas == sorted(sigmas)
    assert len(set(sigmas)) == len(sigmas)


def test_where_the_rest_costs_too_much_no_noise_helps():
    rest = DiscreteGaussian(sigma=1.0)

    def build(sigma):
        return All(of=(Gaussian(sigma=sigma), rest))

    with pytest.raises(CalibrationFailed) as caught:
        calibrate.noise_multiplier(build, epsilon=1.0, delta=1e-5)
    assert caught.value.field == "epsilon"
    assert caught.value.value == 1.0
    alone = pld.epsilon(rest, 1e-5)
    assert f"{alone:.2f}"[:3] in caught.value.message


@pytest.mark.parametrize(
    "name", ["renyi", "renyi1", pytest.param("basic", marks=pytest.mark.large)]
)
def test_noise_that_a_filter_admits(name):
    terms = AccountTerms(
        source="rows",
        unit=Unit.RECORD,
        relation=Relation.ADD_REMOVE,
        epsilon=2.0,
        delta=1e-5,
        filter=name,
    )
    rule = open_filter(terms)

    def admits(event):
        pairs = zip(rule.charge(event, 2.0).losses, rule.limits(2.0), strict=False)
        return any(loss is not None and loss <= limit for loss, limit in pairs)

    def build(sigma):
        return Repeat(times=50, of=Poisson(rate=0.1, of=Gaussian(sigma=sigma)))

    sigma = calibrate.noise_multiplier_for(build, admits)
    assert admits(build(sigma))
    assert not admits(build(sigma * 0.998))
    assert pld.epsilon(build(sigma), 1e-5) <= 2.0


def test_no_noise_suits_a_filter_that_admits_nothing():
    with pytest.raises(CalibrationFailed):
        calibrate.noise_multiplier_for(lambda s: Gaussian(sigma=s), lambda event: False)


def test_gaussian_sigma_is_the_least():
    rng = np.random.default_rng(5)
    for _ in range(200):
        epsilon, delta = between(rng, 0.01, 50), between(rng, 1e-12, 0.1)
        sigma = calibrate.gaussian_sigma(epsilon, delta)
        assert gdp.epsilon(Gaussian(sigma=sigma * (1 + 1e-9)), delta) <= epsilon * (1 + 1e-11)
        assert gdp.epsilon(Gaussian(sigma=sigma * (1 - 1e-6)), delta) > epsilon
        assert rdp.epsilon(Gaussian(sigma=sigma), delta) >= epsilon
