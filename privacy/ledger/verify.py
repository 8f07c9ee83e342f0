"""Checking a whole ledger: chain, signatures, every column, the head file, heads kept elsewhere.

The entries are replayed from nothing; what they add up to must be what each entry said at the
time and what the caches hold now. Against a silo that rewrites its own chain with its own key
only heads that others hold count: `vouched_to` is the last entry that such a head covers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from privacy.errors import LedgerError, LedgerTampered, PrivacyError
from privacy.ledger import canonical, frame, nonces, replay, schema
from privacy.ledger.balance import Balance
from privacy.ledger.chain import SCHEMA, Head, Identity, check_seal, check_signature
from privacy.ledger.heads import Filed, HeadFile
from privacy.ledger.rows import account_row, charge_row, index, release_row
from privacy.ledger.signing import Verifier
from privacy.ledger.states import ChargeState
from privacy.ledger.store import Store

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check found.

    `entries`: how many there are. `first_bad`: number and reason of the first that is bad (0: the
    ledger as such), `None` where all is well. `vouched_to`: the last entry covered by a head that
    somebody else holds; `vouched_by`: who.
    """

    ok: bool
    entries: int
    first_bad: dict[str, Any] | None
    vouched_to: int
    vouched_by: str


class _BadError(Exception):
    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(reason)
        self.seq = seq
        self.reason = reason


class Replayed:
    """`replay.Books` in memory: what the entries so far add up to."""

    def __init__(self) -> None:
        self.openings: dict[str, replay.Body] = {}
        self.balances: dict[str, Balance] = {}
        self.charges: dict[str, ChargeState] = {}
        self.releases: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._released: Counter[str] = Counter()
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._logged: dict[str, Counter[str]] = {}
        self.account_seq: dict[str, int] = {}
        self.charge_seq: dict[str, int] = {}
        self._accounts: set[str] = set()
        self._keys: set[str] = set()

    def account(self, account: str) -> Balance:
        """The balance of an account."""
        return self.balances[account]

    def open_account(self, account: str, opening: replay.Body, balance: Balance) -> None:
        """A new account."""
        if account in self.openings:
            raise LedgerTampered(f"account {account} is opened twice")
        self.openings[account] = opening
        self.put_account(account, balance)

    def put_account(self, account: str, balance: Balance) -> None:
        """A changed balance."""
        self.balances[account] = balance
        self._accounts.add(account)

    def charge(self, key: str) -> ChargeState:
        """The charge of a key."""
        return self.charges[key]

    def put_charge(self, charge: ChargeState) -> None:
        """A new or changed charge."""
        self.charges[charge.key] = charge
        self._keys.add(charge.key)

    def released(self, job: str) -> int:
        """How many lines of the egress log a job has."""
        return self._released[job]

    def number(self, key: str, name: str) -> int:
        """How many releases of a name a charge has paid for."""
        return self._numbers[(key, name)]

    def logged(self, key: str) -> list[tuple[replay.Body, int]]:
        """The events of the releases that a charge has paid for, and how many of each."""
        found = self._logged.get(key, Counter())
        return [(canonical.decode(event), times) for event, times in found.items()]

    def put_release(self, seq: int, body: replay.Body) -> None:
        """A line of the egress log."""
        row = release_row(seq, body)
        self.releases[(row["job"], row["round"], row["name"])] = row
        self._released[row["job"]] += 1
        if row["charge"] is not None:
            self._numbers[(row["charge"], row["name"])] += 1
            if row["event"] is not None:
                self._logged.setdefault(row["charge"], Counter())[row["event"]] += 1

    def take(self, body: replay.Body) -> dict[str, Any]:
        """Apply an entry; return what it must say in `after`."""
        replay.apply(self, body)
        after = {
            "accounts": {name: self.balances[name].document() for name in self._accounts},
            "charges": {key: canonical.sha256(self.charges[key].document()) for key in self._keys},
        }
        seq: int = body["seq"]
        self.account_seq.update((name, seq) for name in self._accounts)
        self.charge_seq.update((key, seq) for key in self._keys)
        self._accounts, self._keys = set(), set()
        return after


def verify(
    store: Store, identity: Identity, heads: HeadFile, check: Verifier, known: list[Head]
) -> Verification:
    """Check a ledger; see `Ledger.verify`."""
    walk = _Walk(identity, check)
    bad: _BadError | None = None
    vouched: list[Head] = []
    frame.expected(store.sqlite)  # made before anybody waits for it
    try:
        with store.reading() as connection:
            with heads.locked():  # a snapshot of the database, and the head that belongs to it
                _check_frame(connection, identity, check)
                filed = heads.content()
            wanted = {head.seq for head in known}
            walk.run(connection, wanted)
            vouched = walk.vouched(known)
            walk.check_head(heads.parse(filed, identity.ledger))
            _check_caches(connection, walk.books)
    except _BadError as found:
        bad = found
    except DBAPIError:
        bad = _BadError(walk.seq + 1, "the database cannot be read here")
    except PrivacyError as error:
        bad = _BadError(walk.seq + 1, error.message)
    best = max(vouched, key=lambda head: head.seq, default=None)
    return Verification(
        ok=bad is None,
        entries=walk.seq,
        first_bad=None if bad is None else {"seq": bad.seq, "reason": bad.reason},
        vouched_to=best.seq if best else 0,
        vouched_by=best.holder if best else "",
    )


def check_database(store: Store, identity: Identity, check: Verifier) -> None:
    """Raise `LedgerTampered` unless the database is whole in itself, whatever heads say."""
    walk = _Walk(identity, check)
    try:
        with store.reading() as connection:
            _check_frame(connection, identity, check)
            walk.run(connection, set())
            _check_caches(connection, walk.books)
    except _BadError as bad:
        raise LedgerTampered(
            f"entry {bad.seq}: {bad.reason}; restore a whole backup first",
            field="entries",
            value=bad.seq,
        ) from None


class _Walk:
    def __init__(self, identity: Identity, check: Verifier) -> None:
        self.books = Replayed()
        self.seq = 0
        self.hash = identity.genesis
        self._identity = identity
        self._check = check
        self._hashes: dict[int, str] = {0: identity.genesis}
        self._prev = ""
        self._lost: set[tuple[int, str]] = set()

    def run(self, connection: Connection, wanted: set[int]) -> None:
        """Walk the chain; remember the hashes of the wanted numbers."""
        for row in _in_order(connection):
            expected = self.seq + 1
            if row.seq != expected:
                raise _BadError(
                    expected, f"the entry is missing; entry {row.seq} follows {self.seq}"
                )
            try:
                self._take(row._mapping)
            except LedgerError as error:
                raise _BadError(expected, error.message) from None
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _BadError(
                    expected, f"the body is no entry ({type(error).__name__})"
                ) from None
            self._prev, self.hash, self.seq = self.hash, row.hash, expected
            if expected in wanted:
                self._hashes[expected] = row.hash

    def check_head(self, filed: Filed | None) -> None:
        """The head file may be one entry behind, never ahead, never beside."""
        if filed is None:
            raise _BadError(self.seq, "the head file is missing")
        head = filed.head
        if head.seq > self.seq:
            raise _BadError(
                self.seq + 1, f"entries {self.seq + 1} to {head.seq} of the head file are missing"
            )
        if head.seq == self.seq and head.hash != self.hash:
            raise _BadError(self.seq, "the head file holds another hash")
        if head.seq == self.seq - 1 and head.hash != self._prev:
            raise _BadError(head.seq, "the head file holds another hash")
        if head.seq < self.seq - 1:
            raise _BadError(head.seq + 2, f"the head file ends at entry {head.seq}")
        if head.seq == self.seq and filed.spoiled:
            raise _BadError(self.seq, "half of the head file is damaged")

    def vouched(self, known: Iterable[Head]) -> list[Head]:
        """The heads held elsewhere that are in the chain; one that is not is the first bad."""
        agreed = []
        for head in sorted(known, key=lambda head: head.seq):
            if (head.seq, head.hash) in self._lost:
                continue
            if head.seq > self.seq:
                raise _BadError(
                    self.seq + 1, f"{head.holder or 'another party'} knows entry {head.seq}"
                )
            if self._hashes[head.seq] != head.hash:
                raise _BadError(
                    head.seq, f"{head.holder or 'another party'} knows another entry here"
                )
            agreed.append(head)
        return agreed

    def _take(self, row: Any) -> None:
        check_seal(row["body"], row["hash"], row["signature"], self._identity.public, self._check)
        body = canonical.decode(row["body"])
        if canonical.encode(body) != row["body"]:
            raise LedgerTampered("the body is not canonical")
        if body["ledger"] != self._identity.ledger or body["schema"] != SCHEMA:
            raise LedgerTampered("the entry is of another ledger or schema")
        if body["prev"] != self.hash:
            raise LedgerTampered("the entry does not follow the one before it")
        for column, value in index(body).items():
            if row[column] != value:
                raise LedgerTampered(f"column {column} is not what the body says")
        if body["kind"] == "breach":
            self._lost |= {(head["seq"], head["hash"]) for head in body["lost"]}
        if self.books.take(body) != body["after"]:
            raise LedgerTampered("the balances it states are not what the entries add up to")


def _in_order(connection: Connection) -> Iterator[Any]:
    """The entries in order; where a batch cannot be read, row by row up to the one at fault."""
    last, size = -1, _BATCH
    query = select(schema.entries).order_by(schema.entries.c.seq)
    while True:
        try:
            batch = connection.execute(query.where(schema.entries.c.seq > last).limit(size)).all()
        except DBAPIError:
            if size == 1:
                raise
            size = 1
            continue
        if not batch:
            return
        yield from batch
        last = batch[-1].seq


def _check_frame(connection: Connection, identity: Identity, check: Verifier) -> None:
    found = connection.execute(select(schema.identity)).all()
    said = [(row.ledger, row.silo, row.public, row.created_at, row.hash) for row in found]
    expected = (
        identity.ledger,
        identity.silo,
        identity.public,
        identity.created_at,
        identity.genesis,
    )
    if said != [expected]:
        raise _BadError(0, "the ledger's identity was changed")
    signature = found[0].signature
    try:
        check_signature(canonical.GENESIS, identity.genesis, signature, identity.public, check)
    except LedgerTampered as error:
        raise _BadError(0, error.message) from None
    versions = list(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())
    if versions != [schema.REVISION]:
        raise _BadError(0, "the version of the database's tables was changed")
    changed = frame.differences(connection)
    if changed:
        raise _BadError(
            0, f"the database's tables, indexes or triggers were changed: {', '.join(changed)}"
        )


def _check_caches(connection: Connection, books: Replayed) -> None:
    """Compare every row of every cache; the first bad is the one of the lowest entry."""
    found: list[_BadError] = []
    expected = {
        (name,): account_row(
            name,
            opening,
            canonical.encode(books.balances[name].document()),
            books.account_seq[name],
        )
        for name, opening in books.openings.items()
    }
    found += _differences(connection, schema.accounts, ("account",), expected)
    expected = {
        (key,): charge_row(charge, canonical.encode(charge.document()), books.charge_seq[key])
        for key, charge in books.charges.items()
    }
    found += _differences(connection, schema.charges, ("key",), expected)
    found += _differences(
        connection, schema.releases, ("job", "round", "name"), dict(books.releases)
    )
    found += [
        _BadError(0, f"table nonces: row {nonce} is malformed")
        for nonce in nonces.malformed(connection)
    ]
    if found:
        raise min(found, key=lambda bad: bad.seq)


def _differences(
    connection: Connection,
    table: Any,
    keys: tuple[str, ...],
    expected: dict[tuple[Any, ...], dict[str, Any]],
) -> Iterator[_BadError]:
    last = max((row["seq"] for row in expected.values()), default=0)
    for row in connection.execute(select(table)).yield_per(500):
        data = dict(row._mapping)
        key = tuple(data[column] for column in keys)
        should = expected.pop(key, None)
        shown = "/".join(str(part) for part in key)
        if should is None:
            yield _BadError(last, f"table {table.name}: row {shown} is in no entry")
            continue
        for column, value in should.items():
            if data[column] != value or type(data[column]) is not type(value):
                yield _BadError(
                    should["seq"], f"table {table.name}, row {shown}: column {column} was changed"
                )
                break
    for key, lacking in expected.items():
        shown = "/".join(str(part) for part in key)
        yield _BadError(lacking["seq"], f"table {table.name}: row {shown} is missing")
