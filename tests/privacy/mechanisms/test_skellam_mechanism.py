"""A sum under shares of Skellam noise: sensitivity after rounding, the law, the worst case."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.accounting import rdp
from privacy.errors import InvalidEvent
from privacy.events import Gaussian, Skellam
from privacy.mechanisms.randomness import StepSource
from privacy.mechanisms.skellam import (
    LARGEST_SHARE,
    SkellamPlan,
    noisy_integers,
    skellam,
    to_reals,
)

ALARM = 1e-6
SECRET = bytes(range(3, 35))
check = settings(max_examples=60, deadline=None, derandomize=True)
GOOD = {"clip": 1.0, "dimension": 31, "exponent": 10, "share": 500, "honest": 2}


def source(*context: str | int) -> StepSource:
    return StepSource(SECRET, *context)


@pytest.mark.parametrize("variance", [1, 2, 9, 1000, 123_457])
def test_noise_follows_the_law(variance: int) -> None:
    drawn = skellam(variance, 20_000, source("law", variance))
    law = stats.skellam(variance / 2, variance / 2)
    reach = math.ceil(5 * math.sqrt(variance))
    width = max(1, reach // 15)
    edges = np.arange(-reach - 0.5, reach + width, width)
    inner = np.floor(edges[1:-1])
    expected = 20_000 * np.diff([0.0, *law.cdf(inner), 1.0])
    cells = np.bincount(np.searchsorted(inner, drawn), minlength=len(expected))
    thick = expected >= 5
    seen = [*cells[thick], cells[~thick].sum()]
    due = [*expected[thick], expected[~thick].sum()]
    if due[-1] == 0:
        seen, due = seen[:-1], due[:-1]
    assert stats.chisquare(seen, due).pvalue > ALARM
    z = (np.square(drawn.astype(float)).mean() - variance) / math.sqrt(
        (variance + 2 * variance**2) / 20_000
    )
    assert 2 * stats.norm.sf(abs(z)) > ALARM


def test_the_noise_of_silos_adds_up_to_the_law_of_the_sum() -> None:
    """Three silos of variance 3: the sum is Skellam of variance 9, not only in its variance."""
    total = sum(skellam(3, 30_000, source("silo", i)) for i in range(3))
    law = stats.skellam(4.5, 4.5)
    inner = np.arange(-9, 9)
    expected = 30_000 * np.diff([0.0, *law.cdf(inner), 1.0])
    seen = np.bincount(np.searchsorted(inner, total), minlength=len(expected))
    assert stats.chisquare(seen, expected).pvalue > ALARM


@check
@given(
    st.integers(1, 40),
    st.floats(1e-3, 1e3),
    st.floats(0.01, 20),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["random", "halves", "one"]),
)
def test_after_rounding_a_unit_moves_the_integers_by_no_more_than_the_plan_says(
    dimension: int, clip: float, noise: float, seed: int, shape: str
) -> None:
    plan = SkellamPlan.of(
        noise_multiplier=noise, clip=clip, dimension=dimension, silos=3, colluding=1
    )
    draws = np.random.default_rng(seed)
    for exponent in (plan.exponent, plan.exponent - 8):  # little noise: its table is quick to make
        each = SkellamPlan(clip=clip, dimension=dimension, exponent=exponent, share=9, honest=2)
        step = 2.0**-each.exponent
        others = draws.normal(0, 50 * clip, dimension)
        if shape == "halves":  # where every coordinate turns at the least touch
            others = (np.rint(others / step) + 0.5) * step * (1 - 1e-12)
        vector = draws.normal(0, 1, dimension)
        if shape == "one":
            vector = np.eye(dimension)[0]
        vector *= clip / np.linalg.norm(vector) * (1 - 1e-9)
        moved, still = (
            noisy_integers(total, each, source("same", seed)) for total in (others + vector, others)
        )
        shift = (moved - still).astype(object)
        assert (shift**2).sum() <= each.l2_squared
        assert abs(shift).sum() <= each.l1


def test_the_sensitivity_is_that_of_the_scaled_clip_and_a_step_in_every_coordinate() -> None:
    plan = SkellamPlan(**GOOD)
    exact = (1024 + math.sqrt(31)) ** 2
    assert exact - 1 < plan.l2_squared <= exact
    assert plan.l1 == math.isqrt(31 * plan.l2_squared)
    # The worst case: every coordinate but one turns, and one moves by the whole clip.
    total = np.full(31, 0.5 / 1024)
    vector = np.full(31, 1e-12)
    vector[0] = 1 - 1e-9
    shift = np.rint((total + vector) * 1024) - np.rint(total * 1024)
    assert 1024**2 + 30 <= (shift**2).sum() <= plan.l2_squared


@check
@given(
    st.floats(0.05, 50),
    st.floats(1e-6, 1e6),
    st.integers(1, 10**6),
    st.integers(2, 64),
    st.data(),
)
def test_the_worst_case_has_the_noise_asked_for(
    noise: float, clip: float, dimension: int, silos: int, data: st.DataObject
) -> None:
    colluding = data.draw(st.integers(1, silos - 1))
    plan = SkellamPlan.of(
        noise_multiplier=noise, clip=clip, dimension=dimension, silos=silos, colluding=colluding
    )
    assert plan.share <= LARGEST_SHARE and plan.honest == silos - colluding
    deviation = math.sqrt(plan.honest * plan.share) * 2.0**-plan.exponent
    assert deviation >= noise * clip * (1 - 1e-12)
    assert math.sqrt((plan.share - 1) * plan.honest) * 2.0**-plan.exponent <= noise * clip
    # One step finer would be too much noise for the sampler, or finer than is of use.
    finer = math.ldexp(clip, plan.exponent)
    wanted = 256 * math.sqrt(dimension)
    assert wanted <= finer * (1 + 1e-9) or 4 * plan.share > LARGEST_SHARE - 8
    assert plan.event == Skellam(
        variance=plan.honest * plan.share, l2_squared=plan.l2_squared, l1=plan.l1
    )
    assert plan.own_event.variance == plan.share


def test_the_price_is_little_more_than_the_gaussians() -> None:
    orders = [2, 5, 16]
    for dimension in (31, 5_000, 100_000):
        plan = SkellamPlan.of(
            noise_multiplier=2.0, clip=1.0, dimension=dimension, silos=4, colluding=1
        )
        ratio = rdp.rdp(plan.event, orders) / rdp.rdp(Gaussian(sigma=2.0), orders)
        assert (ratio > 1).all() and (ratio < 1.05).all(), (dimension, ratio)


def test_drop_outs_and_colluders_leave_what_the_event_says() -> None:
    """Five silos, at least four in a sum, two of them colluding: noise of two shares is left."""
    plan = SkellamPlan.of(noise_multiplier=1.5, clip=2.0, dimension=3000, silos=4, colluding=2)
    parts = [noisy_integers(np.zeros(3000), plan, source("part", i)) for i in range(5)]
    survivors = parts[:4]  # one is gone
    known = survivors[0] + survivors[1]  # two tell what they added
    unknown = sum(survivors) - known
    variance = np.square(unknown.astype(float)).mean()
    z = (variance / plan.event.variance - 1) / math.sqrt(2 / 3000)
    assert 2 * stats.norm.sf(abs(z)) > ALARM


def test_the_sum_of_parts_is_the_sum_and_noise() -> None:
    plan = SkellamPlan.of(noise_multiplier=1e-3, clip=1.0, dimension=200, silos=3, colluding=1)
    draws = np.random.default_rng(1)
    totals = draws.normal(0, 3, (3, 200))
    parts = [noisy_integers(total, plan, source("sum", i)) for i, total in enumerate(totals)]
    assert all(part.dtype == np.int64 for part in parts)
    error = to_reals(sum(parts), plan) - totals.sum(axis=0)
    assert np.abs(error).max() < 0.01


def test_the_same_step_gives_the_same_bits_and_another_step_others() -> None:
    plan = SkellamPlan(**GOOD)
    total = np.linspace(-1, 1, 31)
    one, two = (noisy_integers(total, plan, source("job", 0)) for _ in range(2))
    assert (one == two).all()
    assert (one != noisy_integers(total, plan, source("job", 1))).any()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clip", 0.0),
        ("clip", math.nan),
        ("clip", math.inf),
        ("dimension", 0),
        ("dimension", 2**27),
        ("exponent", 600),
        ("share", 0),
        ("share", LARGEST_SHARE + 1),
        ("honest", 0),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidEvent) as caught:
        SkellamPlan(**GOOD | {field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("colluding", 0),
        ("colluding", 3),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", math.nan),
        ("clip", -1.0),
    ],
)
def test_shares_that_leave_nothing_unknown_are_refused(field: str, value: float) -> None:
    asked = {"noise_multiplier": 1.0, "clip": 1.0, "dimension": 5, "silos": 3, "colluding": 1}
    with pytest.raises(InvalidEvent) as caught:
        SkellamPlan.of(**asked | {field: value})
    assert caught.value.field == field


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="plan"):
        noisy_integers(np.zeros(30), SkellamPlan(**GOOD), source("x"))
