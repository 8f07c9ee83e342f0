"""Prices that add up over mechanisms, exactly, however an event is written.

Each mechanism is priced once, by an accountant, in floating point; how often it is run is
multiplied in and summed in exact fractions, and the sum rounded up at the end. So one job has one
price whatever the tree it is written as, and to run less never costs more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction

from privacy.events import Event, terms
from privacy.ledger.filters.amounts import Loss, amount, charged


def added(
    event: Event, price: Callable[[Event], Iterable[float]], positions: int
) -> tuple[Loss, ...]:
    """The sum at each position of what the event's mechanisms cost there, rounded up."""
    sums: list[Fraction | float] = [Fraction(0)] * positions
    for term, times in terms(event).items():
        for i, cost in enumerate(price(term)):
            one = amount(float(cost))
            sums[i] = sums[i] + times * one if sums[i] != math.inf else math.inf
    return tuple(charged(total) for total in sums)
