"""The default filter: a few Renyi orders, each with its own share of delta.

The account admits while, at one of its orders at least, the sum of the Renyi losses of all
charges stays within

    B_i = epsilon + (ln(delta w_i) + ln alpha_i) / (alpha_i - 1) - ln(1 - 1/alpha_i),

which is the conversion of Canonne, Kamath and Steinke (2020, proposition 12) at the share w_i of
delta. The shares sum to one. Why it holds for jobs chosen in view of the results of those before
is proven in docs/ledger.md; it rests on the filter at one fixed order (Feldman and Zrnic, 2021,
theorem 4.3). The orders follow from epsilon and delta when the account is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from privacy.events import Event, Relation
from privacy.ledger.filters.additive import added
from privacy.ledger.filters.amounts import UNIT, Charge, Loss, held
from privacy.ledger.filters.approximate import parts, split

FACTORS = (0.25, 0.5, 0.8)
SHARES = (0.1, 0.3, 0.6)
WATCHED = tuple(0.6**k for k in range(1, 9))
"""Smaller claims, as fractions of the account's, at whose orders the sums are watched."""

WATCHED_LIMIT = 512.0
"""The largest order that is watched: the price of an order grows with it."""


def best_order(epsilon: float, delta: float) -> float:
    """Return 1 + sqrt(L / rho): the order at which a zCDP account of this claim would convert."""
    log = math.log(1 / delta)
    rho = (math.sqrt(epsilon + log) - math.sqrt(log)) ** 2
    return 1 + math.sqrt(log / rho)


def conversion(order: float, delta: float) -> float:
    """Return B - epsilon: what an order leaves of a claim at this delta (mostly negative)."""
    return (math.log(delta) + math.log(order)) / (order - 1) - math.log1p(-1 / order)


class Renyi:
    """Admits while one of its orders fits; `watched` orders only serve `epsilon`."""

    returns = True

    def __init__(
        self,
        name: str,
        *,
        relation: Relation,
        delta: float,
        delta0: float,
        orders: Sequence[float],
        shares: Sequence[float],
        watched: Sequence[float],
    ) -> None:
        self.name = name
        self._relation = relation
        self._delta = delta - delta0
        self._delta0 = delta0
        self._orders = tuple(orders)
        self._shares = tuple(shares)
        self._watched = tuple(watched)
        self.key = f"{relation.value} {delta0!r} {self._orders} {self._watched}"

    @classmethod
    def opened(
        cls,
        name: str,
        *,
        relation: Relation,
        epsilon: float,
        delta: float,
        delta0: float,
        factors: Sequence[float] = FACTORS,
        shares: Sequence[float] = SHARES,
    ) -> Renyi:
        """Choose the orders for a new account."""
        usable = delta - delta0
        best = best_order(epsilon, usable)
        orders = [1 + (best - 1) * factor for factor in factors]
        limit = WATCHED_LIMIT
        watched = [
            min(
                float(math.ceil(1 + (best_order(epsilon * part, usable) - 1) * max(factors))), limit
            )
            for part in WATCHED
        ]
        return cls(
            name,
            relation=relation,
            delta=delta,
            delta0=delta0,
            orders=orders,
            shares=shares,
            watched=sorted(set(watched)),
        )

    def parameters(self) -> dict[str, Any]:
        """Orders, shares and watched orders."""
        return {
            "orders": list(self._orders),
            "shares": list(self._shares),
            "watched": list(self._watched),
        }

    def positions(self) -> int:
        """The orders that decide and those that are watched."""
        return len(self._orders) + len(self._watched)

    def limits(self, epsilon: float) -> tuple[int, ...]:
        """B_i of every order that decides."""
        return tuple(held(epsilon + self._offset(i)) for i in range(len(self._orders)))

    def charge(self, event: Event, epsilon: float) -> Charge:
        """The Renyi loss at every order, rounded up, valid in both directions."""
        from privacy.accounting import rdp

        pure, delta = split(event)
        orders = self._orders + self._watched
        losses = added(pure, lambda term: rdp.rdp(term, orders, self._relation), len(orders))
        return Charge(losses, parts(delta, self._delta0))

    def confront(self, event: Event) -> None:
        """Hold the Renyi losses against a privacy loss distribution."""
        from privacy.accounting.confront import confront

        confront(split(event)[0], self._orders + self._watched, self._relation)

    def epsilon(self, sums: tuple[Loss, ...]) -> float:
        """The least claim that some order could carry, at its share of delta."""
        if not any(total is None or total > 0 for total in sums):
            return 0.0
        return min(
            (
                max(total / UNIT - self._offset(i), 0.0)
                for i, total in enumerate(sums)
                if total is not None
            ),
            default=math.inf,
        )

    def _offset(self, i: int) -> float:
        if i < len(self._orders):
            return conversion(self._orders[i], self._delta * self._shares[i])
        return conversion(self._watched[i - len(self._orders)], self._delta * max(self._shares))
