"""Prices of events, kept so that the same event is not priced twice."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from privacy import events
from privacy.events import Event
from privacy.ledger import canonical
from privacy.ledger.filters.amounts import Charge
from privacy.ledger.filters.base import Filter

_KEPT = 4096


class Prices:
    """A filter's price of an event, by the account's terms, the event and the capacity."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, float], Charge] = {}

    def of(self, filter_: Filter, event: Event | dict[str, Any], epsilon: float) -> Charge:
        """Price an event, an object or plain data."""
        data = event if isinstance(event, dict) else event.model_dump(mode="json")
        key = (filter_.key, canonical.encode(data), epsilon)
        if key not in self._known:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[key] = filter_.charge(events.parse(data), epsilon)
        return self._known[key]


@lru_cache(maxsize=1)
def accountant_version() -> str:
    """The version of the accountants, which is stored with every charge."""
    from privacy.accounting import registry

    return str(registry.VERSION)
