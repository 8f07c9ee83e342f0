"""Looking at a ledger: accounts, prices, charges, entries. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select

from privacy.events import Event
from privacy.ledger import recovery, schema
from privacy.ledger.balance import Balance, repeats
from privacy.ledger.chain import Entry, Head, Identity, Receipt
from privacy.ledger.filters.amounts import Charge
from privacy.ledger.filters.base import Filter
from privacy.ledger.history import history
from privacy.ledger.pricing import Prices
from privacy.ledger.rows import Rows
from privacy.ledger.states import ChargeState
from privacy.ledger.store import Store
from privacy.ledger.views import Account, Admission, Spend, account_view, admission_view


class Looking:
    """The part of a `Ledger` that only reads."""

    def __init__(self, store: Store, identity: Identity) -> None:
        self._store = store
        self._identity = identity
        self._prices = Prices()

    @property
    def path(self) -> str:
        """Where the database is: a path, or an address without its password."""
        return str(self._store.path or self._store.shown)

    def accounts(self) -> list[Account]:
        """All accounts, by name."""
        with self._store.reading() as connection:
            rows = self._rows(connection)
            return [self._view(rows, account) for account in rows.accounts()]

    def account(self, source: str, unit: str) -> Account:
        """One account; one that is not there raises `InvalidRequest`."""
        with self._store.reading() as connection:
            return self._view(self._rows(connection), f"{source}/{unit}")

    def charge_for(self, account_id: str, event: Event) -> Charge:
        """Price an event on an account, in its filter's units; changes nothing."""
        filter_, balance = self._filter(account_id)
        return self._prices.of(filter_, event, balance.epsilon)

    def would_admit(self, account_id: str, event: Event) -> Admission:
        """What the account would say to the event now; changes nothing."""
        filter_, balance = self._filter(account_id)
        return admission_view(filter_, balance, self._prices.of(filter_, event, balance.epsilon))

    def repeats(self, account_id: str, event: Event) -> int | None:
        """How many such events the account still admits; `None` where they cost nothing."""
        filter_, balance = self._filter(account_id)
        return repeats(balance, self._prices.of(filter_, event, balance.epsilon))

    def released(self, job: str) -> int:
        """How many releases a job has logged."""
        with self._store.reading() as connection:
            return self._rows(connection).released(job)

    def charge(self, key: str) -> ChargeState | None:
        """The charge of a key, `None` where there is none."""
        with self._store.reading() as connection:
            return self._rows(connection).find_charge(key)

    def history(self, account_id: str) -> list[Spend]:
        """The charges that count on an account, in the order of their reservations."""
        with self._store.reading() as connection:
            return history(connection, self._rows(connection), account_id)

    def head(self) -> Head:
        """Number and hash of the last entry."""
        with self._store.reading() as connection:
            seq, _, hash_ = self._rows(connection).last()
        return Head(seq, hash_, self._identity.silo)

    def knows(self, head: Head) -> bool:
        """Whether the chain holds the entry of a head, or owns up to its loss.

        It does not after a backup was restored and nothing recovered.
        """
        query = select(schema.entries.c.hash).where(schema.entries.c.seq == head.seq)
        with self._store.reading() as connection:
            found = connection.execute(query).scalar()
        return found == head.hash or not recovery.unknown(self._store, self._identity, [head])

    def entries(self, after: int = 0) -> Iterator[Entry]:
        """The entries with a number above `after`, in order."""
        table, identity = schema.entries.c, self._identity
        query = select(table.body, table.hash, table.signature)
        with self._store.reading() as connection:
            found = connection.execute(query.where(table.seq > after).order_by(table.seq))
            for row in found.yield_per(1000):
                yield Receipt(identity.silo, identity.public, row.body, row.hash, row.signature)

    def _rows(self, connection: Any) -> Rows:
        return Rows(connection, self._identity)

    def _view(self, rows: Rows, account: str) -> Account:
        return account_view(rows.opening(account), rows.account(account), rows.account_seq(account))

    def _filter(self, account: str) -> tuple[Filter, Balance]:
        with self._store.reading() as connection:
            rows = self._rows(connection)
            return self._prices.filter(rows, account), rows.account(account)
