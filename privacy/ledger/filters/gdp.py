"""A filter for accounts of plain Gaussian events only: Gaussian DP.

Sum of mu^2 within mu_G^2, where mu_G-GDP is (epsilon, delta)-DP (Smith and Thakurta, 2022; the
conversion is corollary 2.13 of Dong, Roth and Su, 2022). Only events that are exactly mu-GDP are
taken; a central-limit estimate of a subsampled Gaussian is not a bound.
"""

from __future__ import annotations

import math
from typing import Any

from privacy.events import Event, Relation
from privacy.ledger.filters.additive import added
from privacy.ledger.filters.amounts import UNIT, Charge, Loss, held


def delta_of(mu: float, epsilon: float) -> float:
    """Return the delta of mu-GDP at epsilon."""
    from scipy.special import log_ndtr, ndtr

    if mu == 0:
        return 0.0
    second = math.exp(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)))
    return float(ndtr(-epsilon / mu + mu / 2)) - second


class GaussianDp:
    """Admits while the sum of mu^2 fits."""

    name = "gdp"
    returns = True

    def __init__(self, *, relation: Relation, delta: float) -> None:
        self._relation = relation
        self._delta = delta
        self.key = f"gdp {relation.value} {delta!r}"

    def parameters(self) -> dict[str, Any]:
        """Nothing beyond epsilon and delta."""
        return {}

    def positions(self) -> int:
        """One: mu squared."""
        return 1

    def limits(self, epsilon: float) -> tuple[int, ...]:
        """The square of the largest mu that is (epsilon, delta)-DP, by bisection, from below."""
        low, high = 0.0, 1.0
        while delta_of(high, epsilon) <= self._delta:
            low, high = high, high * 2
        while high - low > 1e-14 * high:
            middle = (low + high) / 2
            low, high = (
                (middle, high) if delta_of(middle, epsilon) <= self._delta else (low, middle)
            )
        return (held(low**2 * (1 - 1e-9)),)

    def charge(self, event: Event, epsilon: float) -> Charge:
        """The event's mu squared."""
        from privacy.accounting import gdp

        return Charge(added(event, lambda term: [gdp.mu_squared(term, self._relation)], 1))

    def confront(self, event: Event) -> None:
        """Nothing to hold it against: what is priced here is exact."""

    def epsilon(self, sums: tuple[Loss, ...]) -> float:
        """The epsilon of the composed mu at the account's delta, by bisection, from above."""
        if sums[0] is None:
            return math.inf
        mu = math.sqrt(sums[0] / UNIT)
        low, high = 0.0, 1.0
        if delta_of(mu, 0.0) <= self._delta:
            return 0.0
        while delta_of(mu, high) > self._delta:
            low, high = high, high * 2
        while high - low > 1e-12 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if delta_of(mu, middle) > self._delta else (low, middle)
        return high
