"""What the default filter admits beside a plan fixed in advance, and that no analyst beats it."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest

from privacy.accounting import pld
from privacy.events import Gaussian, Poisson, RandomizedResponse, Repeat
from privacy.ledger import AccountTerms
from privacy.ledger.balance import Balance, Tally, admit, repeats
from privacy.ledger.filters import open_filter


def terms(**changes) -> AccountTerms:
    asked = {
        "source": "s",
        "unit": "record",
        "relation": "add_remove",
        "epsilon": 1.0,
        "delta": 1e-5,
    }
    return AccountTerms(**(asked | changes))


def empty(filter_, epsilon: float) -> Balance:
    tally = Tally.empty(filter_.positions())
    return Balance("", epsilon, epsilon, filter_.limits(epsilon), tally, tally)


def admitted(step, **changes) -> int:
    """How many steps an empty account admits, each asked for on its own."""
    asked = terms(**changes)
    filter_ = open_filter(asked)
    return repeats(empty(filter_, asked.epsilon), filter_.charge(step, asked.epsilon))


def beyond_pld(step, times: int, epsilon: float) -> bool:
    """Whether a fixed plan of so many steps surely costs more: by the optimistic PLD."""
    return pld.epsilon_lower(Repeat(times=times, of=step), 1e-5) > epsilon


@pytest.mark.parametrize(("epsilon", "part"), [(1.0, 0.65), (3.0, 0.75), (10.0, 0.75)])
def test_gate_the_default_filter_beside_one_fixed_plan_priced_by_pld(epsilon, part):
    step = Poisson(rate=0.05, of=Gaussian(sigma=2.0))
    ours = admitted(step, epsilon=epsilon)
    assert beyond_pld(step, math.floor(ours / part) + 1, epsilon)
    assert not beyond_pld(step, ours, epsilon)  # nor more than is true


@pytest.mark.large
@pytest.mark.parametrize(
    ("rate", "epsilon"),
    # At rate 0.2 epsilon 1 admits so few steps that a ratio of their numbers tells nothing.
    [(0.01, 1.0), (0.05, 1.0), *itertools.product([0.01, 0.05, 0.2], [3.0, 10.0])],
)
@pytest.mark.parametrize("sigma", [2.0, 4.0])
def test_gate_over_plans(sigma, rate, epsilon):
    step = Poisson(rate=rate, of=Gaussian(sigma=sigma))
    ours = admitted(step, epsilon=epsilon)
    assert ours >= 20
    beyond = Repeat(times=math.floor(ours / 0.65) + 1, of=step)
    assert pld.job_epsilon(beyond, 1e-5) > epsilon


# An analyst who chooses each event in view of all answers so far, and stops when it suits.

EVENTS = tuple(RandomizedResponse(epsilon=e, categories=2) for e in (0.12, 0.25, 0.55))


def worst_delta(epsilon: float, delta: float, filter_name: str, generosity: float = 1.0) -> float:
    """The delta at the account's epsilon that the best of all analysts reaches: exact.

    Every answer of randomized response shifts the privacy loss by its epsilon up or down. The
    recursion goes over all choices that the filter admits and over both answers.
    """
    filter_ = open_filter(
        terms(relation="replace", epsilon=epsilon, delta=delta, filter=filter_name)
    )
    limits = tuple(int(limit * generosity) for limit in filter_.limits(epsilon))
    prices = [filter_.charge(event, epsilon) for event in EVENTS]
    nothing = Tally.empty(filter_.positions())

    @cache
    def best(spent: Tally, loss: float) -> float:
        value = max(0.0, -math.expm1(epsilon - loss))
        for event, price in zip(EVENTS, prices, strict=True):
            charge = admit(Balance("", epsilon, epsilon, limits, spent, nothing), price)
            if charge is None:
                continue
            after = spent.plus(charge)
            likely = 1 / (1 + math.exp(-event.epsilon))
            value = max(
                value,
                likely * best(after, round(loss + event.epsilon, 9))
                + (1 - likely) * best(after, round(loss - event.epsilon, 9)),
            )
        return value

    return best(nothing, 0.0)


@pytest.mark.parametrize("name", ["renyi", "renyi1"])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.7, 0.02), (1.0, 0.05), (1.5, 0.01)])
def test_no_adaptive_analyst_gets_beyond_the_claim(epsilon, delta, name):
    reached = worst_delta(epsilon, delta, name)
    assert 0 < reached <= delta


def test_the_same_analyst_would_show_a_filter_that_admits_too_much():
    assert worst_delta(0.7, 0.02, "renyi", generosity=2.5) > 0.02
