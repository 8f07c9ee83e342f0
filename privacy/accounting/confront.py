"""The Renyi bound of a job beside an independent one, before a ledger believes it.

    >>> from privacy.events import Gaussian, Repeat
    >>> confront(Repeat(times=100, of=Gaussian(sigma=20.0)), (2.0, 5.0, 20.0), Relation.ADD_REMOVE)

An optimistic privacy loss distribution (every loss rounded down to the grid) is a lower bound of
what a plan costs, computed by other formulas than the Renyi losses and by another library. A Renyi
price below it is wrong, whatever the reason. It is looked at where each order converts best. The
pessimistic distribution would not do: it lies above a right price by its grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from privacy.accounting import pld, rdp
from privacy.errors import AccountantsDisagree, UnsupportedEvent
from privacy.events import Event, Relation, terms

DELTAS = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)

CELLS = 200
"""How many cells of the grid an epsilon spans; rounding down costs half a cell a mechanism."""

FINEST = 2e-5

SAYS_NOTHING = 60.0
"""Above such an epsilon a price bounds nothing, and a distribution takes long to write."""

ROUNDING = 1e-6
"""Relative: what the floats of a composition may add to a lower bound."""


def confront(event: Event, orders: Sequence[float], relation: Relation) -> None:
    """Raise `AccountantsDisagree` where the Renyi losses at these orders are below the truth.

    Says nothing of events that have no distribution, and of prices above `SAYS_NOTHING`.
    """
    at = np.asarray(orders, dtype=np.float64)
    curve = rdp.rdp(event, orders, relation)
    bounds = {
        delta: float(np.min(curve - (math.log(delta) + np.log(at)) / (at - 1) + np.log1p(-1 / at)))
        for delta in DELTAS
    }
    least = min(bounds.values())
    if not curve.any() or least > SAYS_NOTHING:
        return
    steps = sum(terms(event).values())
    grid = max(max(least, 0.0) / CELLS / math.sqrt(steps), FINEST)
    for delta, lower in zip(DELTAS, _lower(event, relation, grid), strict=True):
        bound = bounds[delta]
        if bound < SAYS_NOTHING and lower * (1 - ROUNDING) > max(bound, 0.0):
            raise AccountantsDisagree(
                f"the Renyi accountant says epsilon {bound:.6g} at delta {delta:g}, and the job "
                f"costs at least {lower:.6g} by its privacy loss distribution; no price of this "
                "accountant can be believed",
                field="event",
                value=bound,
                allowed=f">= {lower:g}",
            )


@lru_cache(maxsize=4096)
def _lower(event: Event, relation: Relation, grid: float) -> tuple[float, ...]:
    """Lower bounds of epsilon at `DELTAS`; zeros where the event has no distribution."""
    try:
        epsilon = pld.lower(event, relation, grid)
    except UnsupportedEvent:
        return (0.0,) * len(DELTAS)
    return tuple(map(epsilon, DELTAS))
