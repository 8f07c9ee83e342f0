"""Integer amounts, and the one rule of admission against its definition by brute force."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import InvalidEvent, InvalidRequest
from privacy.events import Approximate, Gaussian, Laplace
from privacy.ledger import AccountTerms
from privacy.ledger.balance import Balance, Tally, admit, repeats, used
from privacy.ledger.filters import NAMES, open_filter
from privacy.ledger.filters.amounts import MAX, UNIT, Charge, charged, held, whole
from privacy.ledger.filters.approximate import parts

FAST = settings(max_examples=300, derandomize=True, deadline=None)


# Amounts


@given(st.floats(0, 9000))
@FAST
def test_charges_round_up_and_capacities_down(amount):
    up, down = charged(amount), held(amount)
    assert Fraction(up, UNIT) >= Fraction(amount) > Fraction(up - 1, UNIT)
    assert down == 0 or Fraction(down, UNIT) < Fraction(amount)
    assert down >= Fraction(amount) * UNIT * (1 - Fraction(1, 10**14)) - 3


@pytest.mark.parametrize("amount", [math.nan, -1.0, -math.inf, -5e-324])
def test_a_loss_is_a_number_from_zero(amount):
    with pytest.raises(InvalidEvent):
        charged(amount)


def test_a_loss_too_large_to_write_uses_an_order_up():
    assert charged(math.inf) is None
    assert charged(1e300) is None
    assert charged(MAX / UNIT * 1.001) is None
    assert charged(5e-324) == 1  # the least of all losses is charged, not lost


def test_a_capacity_below_zero_holds_nothing():
    assert held(-3.0) == held(0.0) == 0
    assert held(1e300) == MAX


@pytest.mark.parametrize("value", [1.0, True, "1", None, -1, 2**53, math.nan, math.inf])
def test_only_whole_numbers_are_amounts(value):
    with pytest.raises(InvalidRequest):
        whole(value)
    with pytest.raises(InvalidRequest):
        Charge.read({"losses": [0], "delta": value})


def test_deltas_are_charged_in_parts_rounded_up_and_never_wrap():
    assert parts(Fraction(1, 3), 1.0) == math.ceil(UNIT / 3)
    assert parts(Fraction(2), 1e-6) == UNIT + 1  # more than all of it, whatever it is


@pytest.mark.parametrize("name", NAMES)
def test_no_filter_prices_below_zero_or_beyond_writing(name):
    terms = AccountTerms(
        source="s", unit="record", relation="add_remove", epsilon=1.0, delta=1e-5, filter=name
    )
    filter_ = open_filter(terms)
    tally = Tally.empty(filter_.positions())
    account = Balance("", 1.0, 1.0, filter_.limits(1.0), tally, tally)
    for sigma in (1e-9, 1e-3, 1.0, 1e3, 1e9):
        charge = filter_.charge(Gaussian(sigma=sigma), 1.0)
        assert all(loss is None or 0 <= loss <= MAX for loss in charge.losses)
        assert charge.delta >= 0
        if sigma < 1:
            assert admit(account, charge) is None
        if sigma > 1e6:
            assert admit(account, charge) is not None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 0.0])
def test_events_hold_no_bad_numbers(bad):
    for event in (Gaussian, Laplace):
        with pytest.raises(ValueError):
            event(**{"sigma" if event is Gaussian else "scale": bad})
    if bad:
        with pytest.raises(ValueError):
            Approximate(epsilon=bad)
        with pytest.raises(ValueError):
            Approximate(epsilon=1.0, delta=bad)


# Admission. The definition: a charge is admitted while at one order at least no active charge is
# saturated and the sum of all active charges with it is within the limit.


def account(limits, tally) -> Balance:
    return Balance("", 1.0, 1.0, limits, tally, Tally.empty(len(tally.losses)))


LOSSES = st.tuples(*[st.none() | st.integers(0, 40)] * 4)
STEPS = st.lists(st.tuples(LOSSES, st.integers(0, UNIT), st.integers(-6, 40)), max_size=40)


@given(st.tuples(*[st.integers(0, 100)] * 3), STEPS)
@FAST
def test_admission_is_its_definition(limits, steps):
    """Charges come and go; the true losses of what is active fit at an order, always."""
    active: list[tuple[Charge, Charge]] = []  # as asked for, and as recorded
    tally = Tally.empty(4)  # three orders decide, one is watched
    for losses, delta, back in steps:
        if active and back < 0:
            _, recorded = active.pop(back % len(active))
            tally = tally.plus(recorded, -1)
        asked = Charge(losses, delta // 20)
        open_orders = [
            i for i in range(3) if all(recorded.losses[i] is not None for _, recorded in active)
        ]
        fits = [
            i
            for i in open_orders
            if losses[i] is not None
            and sum(r.losses[i] for _, r in active) + losses[i] <= limits[i]
        ]
        within = sum(charge.delta for charge, _ in active) + asked.delta <= UNIT
        recorded = admit(account(limits, tally), asked)
        assert (recorded is not None) == (bool(fits) and within)
        if recorded is None:
            continue
        # where it fits it is recorded as asked for, elsewhere among the three the order is closed
        for i in range(3):
            assert recorded.losses[i] == (losses[i] if i in fits else None) or i not in open_orders
        active.append((asked, recorded))
        tally = tally.plus(recorded)
        # an order that counts holds the true sum
        assert any(
            all(recorded.losses[i] is not None for _, recorded in active)
            and sum(charge.losses[i] for charge, _ in active) <= limits[i]
            for i in range(3)
        )
        assert tally.sums()[:3] == tuple(
            None
            if any(r.losses[i] is None for _, r in active)
            else sum(r.losses[i] for _, r in active)
            for i in range(3)
        )


@given(
    st.tuples(*[st.integers(0, 100)] * 3),
    st.tuples(*[st.none() | st.integers(1, 40)] * 4),
    st.integers(0, UNIT // 5),
)
@FAST
def test_repeats_is_how_often_it_is_admitted(limits, losses, delta):
    tally, asked, count = Tally.empty(4), Charge(losses, delta), 0
    expected = repeats(account(limits, tally), asked)
    while (recorded := admit(account(limits, tally), asked)) is not None:
        tally, count = tally.plus(recorded), count + 1
    assert count == expected
    if count:
        assert used(limits, tally) <= 1


def test_a_charge_that_costs_nothing_is_always_admitted_while_an_order_is_left():
    free = Charge((0, 0))
    assert repeats(account((5, 5), Tally.empty(2)), free) is None
    full = Tally.empty(2).plus(Charge((5, None)))
    assert admit(account((5, 5), full), free) == Charge((0, 0))
    gone = full.plus(Charge((None, None)))
    assert admit(account((5, 5), gone), free) is None


def test_a_sum_never_leaves_what_can_be_written():
    """Watched orders have no limit but the largest integer."""
    tally = Tally.empty(2).plus(Charge((1, MAX)))
    recorded = admit(account((10,), tally), Charge((1, 1)))
    assert recorded == Charge((1, None))
    assert tally.plus(recorded).sums() == (2, None)


def test_a_breached_account_admits_not_even_nothing():
    tally = Tally.empty(1)
    closed = Balance("", 1.0, 1.0, (10,), tally, tally, breached="seen")
    assert admit(closed, Charge((0,))) is None
    assert repeats(closed, Charge((0,))) == 0
