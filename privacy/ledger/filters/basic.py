"""Basic composition over whole jobs, each priced by PLD at its own share of delta.

A job takes the share s of the account's delta and the same share of its epsilon: the least s at
which PLD(event, s delta) <= s epsilon. One job that fills the account is so priced at the whole
delta, which no other filter reaches; many small jobs cost more than under the default. Sums of
epsilons and of deltas, each within its own limit, are a valid filter for jobs chosen in view of
the results before (Rogers, Roth, Ullman, Vadhan, 2016, theorem 3.6). The price is of the whole
job, so nothing comes back.
"""

from __future__ import annotations

import math
from typing import Any

from privacy.events import (
    All,
    Approximate,
    Event,
    Exchanged,
    Poisson,
    Relation,
    Repeat,
    canonical,
)
from privacy.ledger.filters.amounts import UNIT, Charge, Loss, charged, held

_STEPS = 14
"""Bisections of the share: it is found to one part in 2^14 of the account."""


class Basic:
    """Admits while epsilons and deltas both fit."""

    name = "basic"
    returns = False

    def __init__(self, *, relation: Relation, delta: float) -> None:
        self._relation = relation
        self._delta = delta
        self.key = f"basic {relation.value} {delta!r}"

    def parameters(self) -> dict[str, Any]:
        """Nothing beyond epsilon and delta."""
        return {}

    def positions(self) -> int:
        """One: epsilon."""
        return 1

    def limits(self, epsilon: float) -> tuple[int, ...]:
        """Epsilon itself."""
        return (held(epsilon),)

    def charge(self, event: Event, epsilon: float) -> Charge:
        """The PLD epsilon at the least share of delta that carries it, and that share."""
        from privacy.accounting import pld

        plan = canonical(event)

        def priced(share: float) -> float:
            return float(pld.job_epsilon(plan, self._delta * share, self._relation))

        if _free(plan):
            return Charge((0,))
        whole = priced(1.0)
        if whole > epsilon:
            return Charge((charged(whole),), delta=UNIT)
        low, high, best = 0.0, 1.0, whole
        for _ in range(_STEPS):
            middle = (low + high) / 2
            cost = priced(middle)
            if cost <= epsilon * middle:
                high, best = middle, cost
            else:
                low = middle
        return Charge((charged(best),), delta=math.ceil(high * UNIT))

    def confront(self, event: Event) -> None:
        """The price is that of a distribution itself."""

    def epsilon(self, sums: tuple[Loss, ...]) -> float:
        """The sum."""
        return math.inf if sums[0] is None else sums[0] / UNIT


def _free(event: Event) -> bool:
    """Whether nothing is run at all: what is run has its share of delta, however small."""
    match event:
        case Repeat(times=0) | Poisson(rate=0.0) | Approximate(epsilon=0.0, delta=0.0):
            return True
        case Repeat(of=of) | Poisson(of=of) | Exchanged(of=of):
            return _free(of)
        case All(of=parts):
            return all(_free(part) for part in parts)
    return False
