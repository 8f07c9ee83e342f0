"""Taking the delta out of an event, for accounts that set some delta aside.

An (epsilon, delta)-DP mechanism is, but for an event of probability delta, an epsilon-DP one
(Kairouz, Oh, Viswanath, 2015, theorem 3.3 and its proof). So its delta is charged to what the
account has set aside, and its epsilon enters as the Renyi loss of pure DP.
"""

from __future__ import annotations

import math
from fractions import Fraction

from privacy.errors import UnsupportedEvent
from privacy.events import All, Approximate, Event, Poisson, Repeat
from privacy.ledger.filters.amounts import UNIT


def split(event: Event) -> tuple[Event, Fraction]:
    """Return the event with every delta set to zero, and the sum of those deltas.

    Under sampling the inner delta is charged whole: an upper bound.
    """
    match event:
        case Approximate(epsilon=epsilon, delta=delta) if delta > 0:
            return Approximate(epsilon=epsilon), Fraction(delta)
        case Repeat(times=times, of=of):
            inner, delta_sum = split(of)
            return (Repeat(times=times, of=inner) if delta_sum else event), delta_sum * times
        case Poisson(rate=rate, of=of):
            inner, delta_sum = split(of)
            return (Poisson(rate=rate, of=inner) if delta_sum else event), delta_sum
        case All(of=parts):
            pairs = [split(part) for part in parts]
            total = sum((pair[1] for pair in pairs), Fraction(0))
            return (All(of=tuple(pair[0] for pair in pairs)) if total else event), total
    return event, Fraction(0)


def parts(delta: Fraction, of: float) -> int:
    """Return delta in 1e-12 parts of what the account set aside, rounded up."""
    if not delta:
        return 0
    if of <= 0:
        raise UnsupportedEvent(
            f"the event carries a delta of {float(delta):g} and the account sets none aside; "
            "it needs an account opened with delta0",
            field="delta0",
            value=float(delta),
            allowed="an account with delta0 > 0",
        )
    return min(math.ceil(delta / Fraction(of) * UNIT), UNIT + 1)
