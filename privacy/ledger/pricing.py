"""Prices of events, found outside the transactions that need them.

A price can take seconds, and a transaction holds up every other writer. So an operation asks a
`Pricer`, which answers from memory only; where it does not know, it raises `Unpriced`, the
transaction is dropped, the price is found, and the operation begins again.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from privacy import events
from privacy.events import Event
from privacy.ledger.filters import for_terms
from privacy.ledger.filters.amounts import Charge
from privacy.ledger.filters.base import Filter
from privacy.ledger.rows import Rows
from privacy.ledger.terms import AccountTerms

_KEPT = 4096


Question = tuple[Filter, dict[str, Any], float]
"""A filter, an event as plain data, and the account's capacity."""

Priced = tuple[dict[str, Any], float]
"""An event as plain data, and the capacity of the account at which it is priced."""


class Prices:
    """What filters ask for events, and the filters of accounts, kept in memory."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, float], Charge] = {}
        self._filters: dict[str, Filter] = {}
        self._confronted: set[tuple[str, str, float]] = set()

    def of(self, filter_: Filter, event: Event | dict[str, Any], epsilon: float) -> Charge:
        """Price an event, an object or plain data, on an account of this capacity."""
        data = event if isinstance(event, dict) else event.model_dump(mode="json")
        key = _key((filter_, data, epsilon))
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            found = self._known[key] = filter_.charge(events.parse(data), epsilon)
        return found

    def believed(self, question: Question) -> Charge:
        """A price that may be written down: held against an independent bound first.

        Raises `AccountantsDisagree`.
        """
        filter_, data, epsilon = question
        filter_.confront(events.parse(data))
        if len(self._confronted) >= _KEPT:
            self._confronted.clear()
        self._confronted.add(_key(question))
        return self.of(filter_, data, epsilon)

    def find(self, question: Question) -> Charge | None:
        """The price if it is known and may be written down."""
        key = _key(question)
        return self._known.get(key) if key in self._confronted else None

    def filter(self, rows: Rows, account: str) -> Filter:
        """The filter of an account, by the digest of its opening, which its balance carries."""
        terms = rows.account(account).terms
        if terms not in self._filters:
            opening = rows.opening(account)
            made = for_terms(AccountTerms.read(opening["terms"]), opening["parameters"])
            self._filters[terms] = made
        return self._filters[terms]


class Unpriced(Exception):
    """Not an error: prices that must be found before the operation can be decided."""

    def __init__(self, lacking: list[Question]) -> None:
        super().__init__(f"{len(lacking)} prices")
        self.lacking = lacking


class Pricer:
    """The prices that one operation needs, through all its attempts."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._found: dict[tuple[str, str, float], Charge] = {}

    def find(self, lacking: list[Question]) -> None:
        """Find prices, between two attempts."""
        self._found |= {_key(question): self._prices.believed(question) for question in lacking}

    def filter(self, rows: Rows, account: str) -> Filter:
        """The account's filter."""
        return self._prices.filter(rows, account)

    def all(self, rows: Rows, account: str, wanted: list[Priced]) -> list[Charge]:
        """What the account asks for each event; `Unpriced` where one is not in memory."""
        filter_ = self.filter(rows, account)
        questions = [(filter_, event, epsilon) for event, epsilon in wanted]
        charges = [self._found.get(_key(q)) or self._prices.find(q) for q in questions]
        lacking = [q for q, charge in zip(questions, charges, strict=True) if charge is None]
        if lacking:
            raise Unpriced(lacking)
        return [charge for charge in charges if charge is not None]

    def one(self, rows: Rows, account: str, wanted: Priced) -> Charge:
        """What the account asks for an event."""
        return self.all(rows, account, [wanted])[0]


@lru_cache(maxsize=1)
def accountant_version() -> str:
    """The version of the accountants, which is stored with every charge."""
    from privacy.accounting import registry

    return str(registry.VERSION)


def _key(question: Question) -> tuple[str, str, float]:
    filter_, event, epsilon = question
    return filter_.key, json.dumps(event, sort_keys=True), epsilon
