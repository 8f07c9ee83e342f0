"""A filter for accounts of plain Gaussian events only: zero-concentrated DP.

Sum of rho within (sqrt(epsilon + L) - sqrt(L))^2, L = ln(1/delta): then every Renyi order is
within its own limit at once, so the filter at a fixed order applies to each (Bun and Steinke,
2016, proposition 1.3, inverted). A Poisson-subsampled Gaussian has no useful rho and is refused.
"""

from __future__ import annotations

import math
from typing import Any

from privacy.events import Event, Relation
from privacy.ledger.filters.additive import added
from privacy.ledger.filters.amounts import UNIT, Charge, Loss, held


class ZeroConcentrated:
    """Admits while the sum of rho fits."""

    name = "zcdp"
    returns = True

    def __init__(self, *, relation: Relation, delta: float) -> None:
        self._relation = relation
        self._log = math.log(1 / delta)
        self.key = f"zcdp {relation.value} {delta!r}"

    def parameters(self) -> dict[str, Any]:
        """Nothing beyond epsilon and delta."""
        return {}

    def positions(self) -> int:
        """One: rho."""
        return 1

    def limits(self, epsilon: float) -> tuple[int, ...]:
        """The largest rho whose conversion is epsilon."""
        return (held((math.sqrt(epsilon + self._log) - math.sqrt(self._log)) ** 2),)

    def charge(self, event: Event, epsilon: float) -> Charge:
        """The event's rho."""
        from privacy.accounting import zcdp

        return Charge(added(event, lambda term: [zcdp.rho(term, self._relation)], 1))

    def confront(self, event: Event) -> None:
        """Nothing to hold it against: what is priced here is exact."""

    def epsilon(self, sums: tuple[Loss, ...]) -> float:
        """Rho + 2 sqrt(rho L)."""
        if sums[0] is None:
            return math.inf
        rho = sums[0] / UNIT
        return rho + 2 * math.sqrt(rho * self._log)
