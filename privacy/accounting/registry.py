"""Every accountant by name, and the price of an event by each that supports it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from privacy.accounting import basic, gdp, pld, rdp, zcdp
from privacy.errors import InvalidEvent, UnsupportedEvent
from privacy.events import Event, RandomizedResponse, Relation, leaves

VERSION = f"tacit-1+dp-accounting-{version('dp-accounting')}"
"""Stored with every charge: which accountant computed it. The first part changes with ours."""

ACCOUNTANTS: dict[str, Callable[[Event, float, Relation], float]] = {
    "rdp": rdp.epsilon,
    "pld": pld.epsilon,
    "zcdp": zcdp.epsilon,
    "gdp": gdp.epsilon,
    "basic": basic.epsilon,
}


def price(event: Event, delta: float, relation: Relation | None = None) -> dict[str, float]:
    """Return epsilon at delta by every accountant that supports the event.

    Without a relation it is add/remove, or replace where a randomized response is among the
    events. Raises `InvalidEvent` for a delta outside (0, 1), `UnsupportedEvent` where no
    accountant has a price.
    """
    if not 0 < delta < 1:
        raise InvalidEvent(
            f"delta: {delta:g} is not between 0 and 1", field="delta", value=delta, allowed="(0, 1)"
        )
    if relation is None:
        local = any(isinstance(leaf, RandomizedResponse) for leaf in leaves(event))
        relation = Relation.REPLACE if local else Relation.ADD_REMOVE
    prices = {}
    reasons = []
    for name, accountant in ACCOUNTANTS.items():
        try:
            prices[name] = accountant(event, delta, relation)
        except UnsupportedEvent as error:
            reasons.append(f"{name}: {error.message}")
    if not prices:
        raise UnsupportedEvent("; ".join(reasons), field="event", value=event.event)
    return prices
