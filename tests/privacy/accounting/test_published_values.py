"""Our accountants against values that others published, to the digits that they gave.

Sources: the test suite of Opacus (meta-pytorch/opacus, opacus/tests/accountants_test.py), the
test suite of dp_accounting (google/differential-privacy), and values computed once with
dp_accounting 0.6.0 by its own accountants and written down. Digits were rounded or cut, so a value
agrees when it is within one unit of the last digit given.
"""

import math

import dp_accounting
import pytest
from opacus.accountants import RDPAccountant

from privacy.accounting import calibrate, gdp, pld, rdp, zcdp
from privacy.accounting.units import to_unit
from privacy.events import (
    Approximate,
    Gaussian,
    Poisson,
    Repeat,
    SampledRows,
    Unit,
)


def plan(sigma, rate, steps):
    return Repeat(times=steps, of=Poisson(rate=rate, of=Gaussian(sigma=sigma)))


def last_digit(text):
    """One unit of the last digit of a number as it is written."""
    return 10.0 ** -len(text.partition(".")[2])


DP_SGD = [  # sigma, q, T, delta, Opacus' RDP, dp_accounting's RDP, PLD, grid of the PLD
    (1.5, 0.04, 2250, 1e-5, "7.32911117143", "7.329335", "6.768787", 1e-4),
    (1.0, 0.01, 1000, 1e-5, None, "2.101367", "1.828244", 1e-4),
    (1.0, 0.01, 1000, 1e-6, None, None, "2.12525", 1e-3),
    (1.1, 256 / 60000, 14063, 1e-5, None, "2.596656", "2.381779", 1e-4),
]

GAUSSIANS = [  # sigma, times, delta, RDP, PLD
    (1.0, 1, 1e-5, "4.728507", "4.377178"),
    (10.0, 100, 1e-6, "5.221540", "4.886554"),
]


@pytest.mark.parametrize(("sigma", "rate", "steps", "delta", "_o", "_g", "value", "grid"), DP_SGD)
def test_pld_of_dp_sgd(sigma, rate, steps, delta, _o, _g, value, grid):
    ours = pld.epsilon(plan(sigma, rate, steps), delta, grid=grid)
    assert ours == pytest.approx(float(value), rel=0, abs=last_digit(value))


@pytest.mark.parametrize(("sigma", "rate", "steps", "delta", "opacus", "google", "_p", "_"), DP_SGD)
def test_rdp_of_dp_sgd_is_what_opacus_says_and_no_more_than_dp_accounting(
    sigma, rate, steps, delta, opacus, google, _p, _
):
    ours = rdp.epsilon(plan(sigma, rate, steps), delta)
    accountant = RDPAccountant()
    accountant.history = [(sigma, rate, steps)]
    theirs = accountant.get_epsilon(delta, alphas=list(rdp.default_orders()))
    # Ours is theirs, rounded up by SLACK.
    assert theirs * (1 - 1e-10) <= ours <= theirs * (1 + 2 * rdp.SLACK)
    if opacus is not None:
        published = float(opacus)
        assert published <= ours <= published * (1 + rdp.SLACK) + last_digit(opacus)
    if google is not None:
        interpolated = _dp_accounting_rdp(sigma, rate, steps, delta)
        assert interpolated == pytest.approx(float(google), rel=0, abs=last_digit(google))
        # dp_accounting interpolates fractional orders upward; ours are exact.
        assert ours <= interpolated * (1 + 2 * rdp.SLACK)
        assert ours == pytest.approx(interpolated, rel=1e-4)


def _dp_accounting_rdp(sigma, rate, steps, delta):
    accountant = dp_accounting.rdp.RdpAccountant()
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
    accountant.compose(step, steps)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(("sigma", "times", "delta", "by_rdp", "by_pld"), GAUSSIANS)
def test_plain_gaussians(sigma, times, delta, by_rdp, by_pld):
    event = Repeat(times=times, of=Gaussian(sigma=sigma))
    assert rdp.epsilon(event, delta) == pytest.approx(float(by_rdp), abs=last_digit(by_rdp), rel=0)
    assert pld.epsilon(event, delta) == pytest.approx(float(by_pld), abs=last_digit(by_pld), rel=0)
    # The exact value is the analytic Gaussian's; the PLD is above it by its grid at most.
    exact = gdp.epsilon(event, delta)
    assert exact <= pld.epsilon(event, delta) <= exact + pld.GRID * times


def test_the_central_limit_estimate_of_dp_sgd_is_not_offered_and_would_be_too_small():
    event = plan(1.5, 0.04, 2250)
    published = 6.60  # Opacus: 6.59 < epsilon < 6.60 by its GDP accountant
    assert pld.epsilon_lower(event, 1e-5, grid=1e-4) > published
    with pytest.raises(Exception, match="not exactly Gaussian"):
        gdp.epsilon(event, 1e-5)


def test_conversion_of_a_constant_curve():
    # dp_accounting's test: RDP of 1.1 at orders 2 to 32 is 1.32783806176 at delta 1e-5, by order
    # 32. Pure DP of 1.1 has that curve from order 2 on.
    ours = rdp.epsilon(Approximate(epsilon=1.1), 1e-5, orders=range(2, 33))
    assert ours == pytest.approx(1.32783806176, rel=0, abs=1e-11)


def test_rdp_of_a_gaussian_at_a_fractional_order():
    # Opacus' test: alpha / (2 sigma^2), exactly.
    curve = rdp.rdp(Gaussian(sigma=2.71828), [3.14159])
    assert curve[0] == pytest.approx(3.14159 / (2 * 2.71828**2), rel=1e-15)


CALIBRATIONS = [  # Opacus' tests, epsilon 8, delta 1e-5, q 0.04; 90 epochs are 2250 steps
    (2250, 1.416, 1.34765625),
    (2000, 1.3562, 1.2915),
]


@pytest.mark.parametrize(("steps", "by_rdp", "by_prv"), CALIBRATIONS)
def test_calibration_agrees_with_opacus_within_its_tolerance(steps, by_rdp, by_prv):
    # Opacus stops once epsilon is between 7.99 and 8. Its PRV estimate lies up to 0.01 above ours.
    assert 7.99 <= rdp.epsilon(plan(by_rdp, 0.04, steps), 1e-5) <= 8
    assert 7.98 <= pld.epsilon(plan(by_prv, 0.04, steps), 1e-5) <= 8
    ours = calibrate.noise_multiplier(lambda s: plan(s, 0.04, steps), epsilon=8, delta=1e-5)
    assert ours == pytest.approx(by_prv, rel=5e-3)
    assert pld.epsilon(plan(ours, 0.04, steps), 1e-5) <= 8


def test_opacus_calibration_by_the_central_limit_overshoots():
    assert pld.epsilon_lower(plan(1.3232421875, 0.04, 2250), 1e-5, grid=1e-4) > 8


ANALYTIC = [  # epsilon, delta, the least sigma (Balle and Wang 2018)
    (0.1, 1e-5, "30.749566"),
    (0.5, 5e-6, "7.351149"),
    (1.0, 1e-5, "3.730632"),
    (1.0, 1e-6, "4.224679"),
    (5.0, 1e-5, "0.891868"),
]


@pytest.mark.parametrize(("epsilon", "delta", "sigma"), ANALYTIC)
def test_analytic_gaussian(epsilon, delta, sigma):
    ours = calibrate.gaussian_sigma(epsilon, delta)
    assert ours == pytest.approx(float(sigma), rel=0, abs=last_digit(sigma))
    assert gdp.epsilon(Gaussian(sigma=ours), delta) == pytest.approx(epsilon, rel=1e-9)
    assert _delta_of_gaussian(ours, epsilon) <= delta * (1 + 1e-11)


def test_the_classical_gaussian_needs_more():
    classical = math.sqrt(2 * math.log(1.25 / 1e-5))
    assert classical == pytest.approx(4.844805, abs=1e-6)
    assert calibrate.gaussian_sigma(1.0, 1e-5) < classical


def _delta_of_gaussian(sigma, epsilon):
    """Phi(1/2s - eps s) - e^eps Phi(-1/2s - eps s), in fifty digits."""
    import mpmath

    with mpmath.workdps(50):
        s, e = mpmath.mpf(sigma), mpmath.mpf(epsilon)
        a = mpmath.ncdf(1 / (2 * s) - e * s)
        b = mpmath.exp(e) * mpmath.ncdf(-1 / (2 * s) - e * s)
        return float(a - b)


SUBJECTS = [  # rows of one subject; q .01, sigma 1, T 1000, delta 1e-6, PLD on a grid of 1e-3
    (1, "2.1253"),
    (2, "4.5545"),
    (4, "10.0156"),
    (8, "23.0827"),
]


def _subject(rows):
    return Repeat(times=1000, of=SampledRows(sigma=1.0, rate=0.01, rows=rows))


@pytest.mark.parametrize(("rows", "value"), SUBJECTS)
def test_a_subject_with_several_rows(rows, value):
    job = plan(1.0, 0.01, 1000)
    faced = to_unit(job, event_unit=Unit.RECORD, account_unit=Unit.SUBJECT, rows_per_subject=rows)
    assert faced == _subject(rows)
    ours = pld.epsilon(faced, 1e-6, grid=1e-3)
    assert ours == pytest.approx(float(value), rel=0, abs=last_digit(value))
    assert ours <= rdp.epsilon(faced, 1e-6) <= 1.2 * ours


def _delta_for_one(epsilon, rows):
    """The delta of one row that gives `rows` of them a delta of 1e-6.

    (e, d)-DP for one row is (k e, d (e^(ke) - 1) / (e^e - 1))-DP for k rows.
    """
    return 1e-6 * math.expm1(epsilon) / math.expm1(rows * epsilon)


@pytest.mark.parametrize(("rows", "value"), [(2, 4.89), (4, 13.8)])
def test_group_privacy_of_a_black_box_costs_more_than_the_mixture(rows, value):
    job = plan(1.0, 0.01, 1000)
    low, high = 0.0, 1.1 * value / rows
    for _ in range(12):
        e = (low + high) / 2
        enough = pld.epsilon(job, _delta_for_one(e, rows), grid=1e-3) <= e
        low, high = (low, e) if enough else (e, high)
    assert rows * high == pytest.approx(value, rel=0.01)
    assert pld.epsilon(_subject(rows), 1e-6, grid=1e-3) < rows * high


def test_group_privacy_of_a_black_box_says_nothing_useful_for_eight_rows():
    job = plan(1.0, 0.01, 1000)
    for e in (1.0, 2.5, 5.0, 7.5, 10.9):  # eight times 10.9 is 87.2; published: nothing below 88
        assert pld.epsilon(job, _delta_for_one(e, 8), grid=1e-3) > e


def test_zcdp_conversion():
    # rho + 2 sqrt(rho ln(1/delta)) (Bun and Steinke 2016, Proposition 1.3).
    event = Repeat(times=87, of=Gaussian(sigma=50.0))
    rho = 87 / (2 * 2500)
    assert zcdp.rho(event) == pytest.approx(rho, rel=1e-15)
    assert zcdp.epsilon(event, 1e-6) == pytest.approx(
        rho + 2 * math.sqrt(rho * math.log(1e6)), rel=1e-15
    )
