"""The books as rows of the database: what one operation reads, checks and writes back.

A cache is not believed by itself: each balance and each charge is compared with what the entry
that last touched it says, before anything is decided on it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Select, Table, bindparam, func, insert, select, update

from privacy.errors import InvalidRequest, LedgerTampered, WrongState
from privacy.ledger import canonical, schema
from privacy.ledger.balance import Balance
from privacy.ledger.chain import Identity, Receipt
from privacy.ledger.replay import Body
from privacy.ledger.statements import Statement
from privacy.ledger.states import OPEN, ChargeState

_RESERVED = schema.charges.c.state == "reserved"
_FIRST_EXPIRY = select(func.min(schema.charges.c.expires)).where(_RESERVED).scalar_subquery()
_LAST = Statement(
    select(
        schema.entries.c.seq,
        schema.entries.c.prev_hash,
        schema.entries.c.hash,
        _FIRST_EXPIRY.label("expires"),
    )
    .order_by(schema.entries.c.seq.desc())
    .limit(1)
)
_ENTRY = Statement(select(schema.entries).where(schema.entries.c.seq == bindparam("at")))


def _with_entry(table: Table) -> Select[Any]:
    """Rows of a cache, each with the entry that it names."""
    entries = schema.entries.c
    return select(table, entries.body, entries.hash).outerjoin(
        schema.entries, entries.seq == table.c.seq
    )


_accounts, _charges, _releases = schema.accounts.c, schema.charges.c, schema.releases.c
_WITH_ACCOUNTS, _WITH_CHARGES = _with_entry(schema.accounts), _with_entry(schema.charges)
_OPEN_STATES = [state.value for state in OPEN]

_ACCOUNTS = Statement(_WITH_ACCOUNTS)
_ACCOUNT = Statement(_WITH_ACCOUNTS.where(_accounts.account == bindparam("id")))
_OF_SOURCE = Statement(_WITH_ACCOUNTS.where(_accounts.source == bindparam("of")))
_CHARGES = Statement(_WITH_CHARGES)
_CHARGE = Statement(_WITH_CHARGES.where(_charges.key == bindparam("id")))
_OF_JOB = Statement(_WITH_CHARGES.where(_charges.job == bindparam("of")))
_OPEN = Statement(_WITH_CHARGES.where(_charges.state.in_(_OPEN_STATES)))
_DUE = Statement(select(_charges.key).where(_RESERVED, _charges.expires <= bindparam("at")))
_RELEASE = Statement(
    select(schema.releases).where(
        _releases.job == bindparam("of"),
        _releases.round == bindparam("at"),
        _releases.name == bindparam("called"),
    )
)
_RELEASED = Statement(select(func.count().label("lines")).where(_releases.job == bindparam("of")))
_NUMBER = Statement(
    select(func.max(_releases.number).label("most")).where(
        _releases.charge == bindparam("on"), _releases.name == bindparam("called")
    )
)
_LOGGED = Statement(
    select(_releases.event, func.count().label("times"))
    .where(_releases.charge == bindparam("on"), _releases.event.is_not(None))
    .group_by(_releases.event)
)
_PUT_ACCOUNT = Statement(
    update(schema.accounts)
    .where(_accounts.account == bindparam("id"))
    .values(balance=bindparam("text"), seq=bindparam("at"))
)
_PUT_CHARGE = Statement(
    update(schema.charges)
    .where(_charges.key == bindparam("id"))
    .values(state=bindparam("now"), record=bindparam("text"), seq=bindparam("at"))
)
_ADD_ENTRY = Statement(insert(schema.entries))
_ADD_ACCOUNT = Statement(insert(schema.accounts))
_ADD_CHARGE = Statement(insert(schema.charges))
_ADD_RELEASE = Statement(insert(schema.releases))


def index(body: Body) -> dict[str, Any]:
    """The indexed columns that follow from a body."""
    return {
        "seq": body["seq"],
        "kind": body["kind"],
        "job": body.get("job"),
        "account": ",".join(sorted(body["after"]["accounts"])) or None,
        "recorded_at": body["at"],
        "prev_hash": body["prev"],
    }


def release_row(seq: int, body: Body) -> dict[str, Any]:
    """The row of an egress entry."""
    event = body["event"]
    return {
        "job": body["job"],
        "round": body["round"],
        "name": body["name"],
        "protection": body["protection"],
        "digest": body["digest"],
        "request": body["request"],
        "size": body["size"],
        "event": None if event is None else canonical.encode(event),
        "charge": body["charge"],
        "number": body["number"],
        "seq": seq,
    }


def charge_row(charge: ChargeState, record: str, seq: int) -> dict[str, Any]:
    """The row of a charge."""
    return {
        "key": charge.key,
        "job": charge.job,
        "state": charge.state.value,
        "expires": charge.expires,
        "record": record,
        "seq": seq,
    }


class Rows:
    """`replay.Books` over one transaction."""

    def __init__(self, connection: Connection, identity: Identity) -> None:
        self._connection = connection
        self._identity = identity
        self._bodies: dict[int, Body] = {}
        self._found: dict[str, Any] = {}
        self._first_expiry: str | None = ""  # not known before `last`: any time is later
        self._numbers: dict[tuple[str, str], int] = {}
        self._balances: dict[str, Balance] = {}
        self._charges: dict[str, ChargeState] = {}
        self._changed: dict[str, Balance] = {}
        self._moved: dict[str, ChargeState] = {}
        self._records: dict[str, str] = {}
        self._new_accounts: dict[str, Body] = {}
        self._new_releases: list[dict[str, Any]] = []

    def last(self) -> tuple[int, str, str]:
        """Number, previous hash and hash of the last entry; the genesis where there is none."""
        row = _LAST.first(self._connection)
        if row is None:
            return 0, "", self._identity.genesis
        self._first_expiry = row.expires
        return row.seq, row.prev_hash, row.hash

    def receipt(self, seq: int) -> Receipt:
        """The entry of this number as a receipt."""
        row = _ENTRY.first(self._connection, at=seq)
        if row is None:
            raise _lost(seq)
        self._believe(seq, row.body, row.hash)
        identity = self._identity
        return Receipt(identity.silo, identity.public, row.body, row.hash, row.signature)

    def accounts(self) -> list[str]:
        """The names of all accounts."""
        return self._look(_ACCOUNTS)

    def accounts_of(self, source: str) -> list[str]:
        """The names of a source's accounts."""
        return self._look(_OF_SOURCE, of=source)

    def opening(self, account: str) -> Body:
        """How an account was opened: terms, parameters of its filter, limits."""
        opening: Body = canonical.decode(self._account_row(account).opening)
        return opening

    def account_seq(self, account: str) -> int:
        """The number of the entry that last touched an account."""
        return int(self._account_row(account).seq)

    def account(self, account: str) -> Balance:
        """The balance, checked against the entry that made it."""
        if account in self._balances:
            return self._balances[account]
        row = self._account_row(account)
        said = self._believe(row.seq, row.body, row.hash)["after"]["accounts"].get(account)
        if said is None or canonical.encode(said) != row.balance:
            raise _stale("accounts", account, row.seq)
        balance = Balance.read(said)
        if balance.terms != _sha256(row.opening):
            raise _stale("accounts", account, row.seq)
        self._balances[account] = balance
        return balance

    def find_charge(self, key: str) -> ChargeState | None:
        """The charge of a key, checked against the entry that made it; `None` where unknown."""
        if key in self._charges:
            return self._charges[key]
        row = _CHARGE.first(self._connection, id=key)
        return None if row is None else self._charge(row)

    def charge(self, key: str) -> ChargeState:
        """The charge of a key; `WrongState` where there is none."""
        charge = self.find_charge(key)
        if charge is None:
            raise WrongState(f"key {key!r}: no such charge", field="key", value=key)
        return charge

    def charges(self) -> list[ChargeState]:
        """All charges, in the order of their reservations."""
        return self._all(_CHARGES)

    def charges_of(self, job: str) -> list[ChargeState]:
        """The charges of a job."""
        return self._all(_OF_JOB, of=job)

    def open_charges(self) -> list[ChargeState]:
        """The charges that are reserved or running."""
        return self._all(_OPEN)

    def due(self, at: str) -> list[str]:
        """The keys of the reservations whose time is over."""
        if self._first_expiry is None or self._first_expiry > at:
            return []
        return [row.key for row in _DUE.all(self._connection, at=at)]

    def find_release(self, job: str, round_: int, name: str) -> dict[str, Any] | None:
        """A line of the egress log."""
        row = _RELEASE.first(self._connection, of=job, at=round_, called=name)
        return None if row is None else dict(row._asdict())

    def released(self, job: str) -> int:
        """How many lines of the egress log a job has."""
        return int(_RELEASED.first(self._connection, of=job).lines)

    def number(self, key: str, name: str) -> int:
        """How many releases of a name a charge has paid for."""
        if (key, name) not in self._numbers:
            found = _NUMBER.first(self._connection, on=key, called=name)
            self._numbers[key, name] = found.most or 0
        return self._numbers[key, name]

    def logged(self, key: str) -> list[tuple[Body, int]]:
        """The events of the releases that a charge has paid for, and how many of each."""
        found = _LOGGED.all(self._connection, on=key)
        return [(canonical.decode(row.event), row.times) for row in found]

    def open_account(self, account: str, opening: Body, balance: Balance) -> None:
        """A new account."""
        self._new_accounts[account] = opening
        self.put_account(account, balance)

    def put_account(self, account: str, balance: Balance) -> None:
        """A changed balance."""
        self._balances[account] = self._changed[account] = balance

    def put_charge(self, charge: ChargeState) -> None:
        """A new or changed charge."""
        self._charges[charge.key] = self._moved[charge.key] = charge

    def put_release(self, seq: int, body: Body) -> None:
        """A line of the egress log."""
        self._new_releases.append(release_row(seq, body))

    def after(self) -> dict[str, Any]:
        """What the entry says of everything that it touched."""
        self._records = {
            key: canonical.encode(charge.document()) for key, charge in self._moved.items()
        }
        return {
            "accounts": {name: b.document() for name, b in self._changed.items()},
            "charges": {key: _sha256(record) for key, record in self._records.items()},
        }

    def write(self, receipt: Receipt, body: Body) -> None:
        """Append the entry and bring the caches up to it."""
        seq, connection = body["seq"], self._connection
        sealed = {"body": receipt.body, "hash": receipt.hash, "signature": receipt.signature}
        _ADD_ENTRY.write(connection, **index(body), **sealed)
        for account, balance in self._changed.items():
            text = canonical.encode(balance.document())
            opening = self._new_accounts.get(account)
            if opening is None:
                _PUT_ACCOUNT.write(connection, id=account, text=text, at=seq)
            else:
                _ADD_ACCOUNT.write(connection, **account_row(account, opening, text, seq))
        for key, charge in self._moved.items():
            record = self._records[key]
            if charge.reserved_at == seq:
                _ADD_CHARGE.write(connection, **charge_row(charge, record, seq))
            else:
                now = charge.state.value
                _PUT_CHARGE.write(connection, id=key, now=now, text=record, at=seq)
        for row in self._new_releases:
            _ADD_RELEASE.write(connection, **row)

    def _look(self, query: Statement, **which: str) -> list[str]:
        found = {row.account: row for row in query.all(self._connection, **which)}
        self._found |= found
        return sorted(found)

    def _account_row(self, account: str) -> Any:
        if account not in self._found and not self._look(_ACCOUNT, id=account):
            raise InvalidRequest(
                f"account: no account {account!r} in this ledger",
                field="account",
                value=account,
                allowed=self.accounts(),
            )
        return self._found[account]

    def _all(self, query: Statement, **which: str) -> list[ChargeState]:
        rows = query.all(self._connection, **which)
        charges = [self._charges.get(row.key) or self._charge(row) for row in rows]
        return sorted(charges, key=lambda charge: (charge.reserved_at, charge.key))

    def _charge(self, row: Any) -> ChargeState:
        said = self._believe(row.seq, row.body, row.hash)["after"]["charges"].get(row.key)
        if said != _sha256(row.record):
            raise _stale("charges", row.key, row.seq)
        charge = _charge_of(row.record)
        expected = charge_row(charge, row.record, row.seq)
        if any(getattr(row, column) != value for column, value in expected.items()):
            raise _stale("charges", row.key, row.seq)
        self._charges[row.key] = charge
        return charge

    def _believe(self, seq: int, body: str | None, hash_: str | None) -> Body:
        """The parsed body of an entry, once its hash is that of the text."""
        if seq not in self._bodies:
            found = None if body is None else _body_of(body, hash_)
            if found is None:
                raise _lost(seq)
            self._bodies[seq] = found
        return self._bodies[seq]


def account_row(account: str, opening: Body, balance: str, seq: int) -> dict[str, Any]:
    """The row of an account."""
    return {
        "account": account,
        "source": opening["terms"]["source"],
        "opening": canonical.encode(opening),
        "balance": balance,
        "seq": seq,
    }


@lru_cache(maxsize=16)  # every release of a job reads the same charge and the entry that made it
def _charge_of(record: str) -> ChargeState:
    return ChargeState.read(canonical.decode(record))


@lru_cache(maxsize=16)
def _body_of(text: str, hash_: str | None) -> Body | None:
    """The parsed text of an entry, `None` where the hash is another's; nobody changes it."""
    if canonical.digest(canonical.ENTRY, text) != hash_:
        return None
    body: Body = canonical.decode(text)
    return body


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _lost(seq: int) -> LedgerTampered:
    return LedgerTampered(f"entry {seq} is missing or changed", field="entries", value=seq)


def _stale(table: str, name: str, seq: int) -> LedgerTampered:
    return LedgerTampered(
        f"{table}: {name} is not as entry {seq} left it; run verify", field=table, value=name
    )
