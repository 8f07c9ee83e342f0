"""The plan of DP-SGD: one frozen object, whose event is what the mechanism does."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from opacus.accountants import RDPAccountant

from privacy.accounting import rdp
from privacy.errors import InvalidEvent
from privacy.events import Gaussian, Poisson, Repeat, Unit
from privacy.mechanisms.plan import LARGEST_BATCH, DpSgdPlan


def plan(**changes: Any) -> DpSgdPlan:
    base = {
        "unit": Unit.RECORD,
        "rate": 0.04,
        "noise_multiplier": 1.5,
        "clip": 2.0,
        "denominator": 40.0,
        "steps": 2250,
    }
    return DpSgdPlan(**base | changes)


def test_the_event_is_the_steps_on_samples_at_the_plans_rate_and_noise() -> None:
    event = Repeat(times=2250, of=Poisson(rate=0.04, of=Gaussian(sigma=1.5)))
    assert plan().event == event
    assert plan(rate=1.0).event == Repeat(times=2250, of=Gaussian(sigma=1.5))
    # Neither the clip nor the denominator is in the price: noise is counted in clips.
    assert plan(clip=7.0, denominator=3.0).event == event


def test_the_event_costs_what_opacus_says_of_the_same_steps() -> None:
    theirs = RDPAccountant()
    for _ in range(2250):
        theirs.step(noise_multiplier=1.5, sample_rate=0.04)
    ours = rdp.epsilon(plan().event, 1e-5)
    assert ours == pytest.approx(theirs.get_epsilon(1e-5), rel=2e-3)


@pytest.mark.parametrize("clip", [1e-6, 1.0, 3.0, 1e6])
def test_gradients_are_clipped_to_a_little_less_than_the_clip(clip: float) -> None:
    assert clip * (1 - 2e-5) < plan(clip=clip).bound < clip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rate", 0.0),
        ("rate", -0.1),
        ("rate", 1.0000001),
        ("noise_multiplier", -1.0),
        ("clip", 0.0),
        ("clip", 1e-9),
        ("denominator", 0.0),
        ("steps", 0),
        ("rows_per_subject", 0),
        *((f, v) for f in ("rate", "noise_multiplier", "clip", "denominator") for v in (math.nan,)),
        *((f, math.inf) for f in ("noise_multiplier", "clip", "denominator")),
    ],
)
def test_a_number_outside_its_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InvalidEvent) as caught:
        plan(**{field: value})
    assert caught.value.field == field


def test_a_batch_that_the_slack_does_not_cover_is_refused() -> None:
    plan(denominator=LARGEST_BATCH)
    with pytest.raises(InvalidEvent, match="rows in an expected batch"):
        plan(denominator=LARGEST_BATCH + 1)
    # A subject brings up to so many rows into a batch; a record is one row, whoever's it is.
    with pytest.raises(InvalidEvent, match="rows in an expected batch"):
        plan(unit=Unit.SUBJECT, denominator=LARGEST_BATCH / 9, rows_per_subject=10)
    plan(unit=Unit.RECORD, denominator=LARGEST_BATCH / 9, rows_per_subject=10)


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan().clip = 5.0  # type: ignore[misc]
