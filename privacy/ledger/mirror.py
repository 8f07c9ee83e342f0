"""The coordinator's mirror: signed receipts and heads of every silo, append-only.

A silo that rewrites its own chain can sign anything again; it cannot make the mirror forget.
Two entries of one number, or an entry that does not follow the one before it, are refused as
`LedgerTampered`: the silo has two histories.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    func,
    select,
    tuple_,
)

from privacy.errors import InvalidRequest, LedgerMissing, LedgerTampered
from privacy.ledger.chain import Head, Receipt
from privacy.ledger.signing import Verifier, ed25519
from privacy.ledger.store import Store

_metadata = MetaData()

_receipts = Table(
    "receipts",
    _metadata,
    Column("ledger", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("silo", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("job", Text),
    Column("public", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("signature", Text, nullable=False),
    UniqueConstraint("silo", "seq"),
)


class Mirror:
    """Receipts as the coordinator keeps them.

    `verify` checks signatures; `keys` are the silos' public keys by name, from the membership:
    where they are given, a receipt by any other key is refused; else a silo's first receipt
    fixes its key.
    """

    def __init__(self, store: Store, verify: Verifier, keys: Mapping[str, str] | None) -> None:
        self._store = store
        self._verify = verify
        self._keys = keys

    @classmethod
    def create(
        cls, url: str, *, verify: Verifier = ed25519, keys: Mapping[str, str] | None = None
    ) -> Mirror:
        """Make a new mirror; a place that holds one already raises `InvalidRequest`."""
        store = Store(url)
        store.create_file()
        if _there(store):
            raise InvalidRequest(
                f"{store.shown}: there is a mirror already", field="mirror", value=store.shown
            )
        store.write(_metadata.create_all)
        return cls(store, verify, keys)

    @classmethod
    def open(
        cls, url: str, *, verify: Verifier = ed25519, keys: Mapping[str, str] | None = None
    ) -> Mirror:
        """Open a mirror; none there raises `LedgerMissing`."""
        store = Store(url)
        if (store.path is not None and not store.path.exists()) or not _there(store):
            raise LedgerMissing(f"{store.shown}: no mirror here", field="mirror", value=store.shown)
        return cls(store, verify, keys)

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database's connections."""
        self._store.close()

    def accept(self, receipt: Receipt) -> Head:
        """Check a receipt and keep it, durably; the same one again changes nothing."""
        expected = self._keys.get(receipt.silo) if self._keys is not None else receipt.public
        if expected is None:
            raise LedgerTampered(
                f"a receipt of {receipt.silo}, which is no member", field="silo", value=receipt.silo
            )
        receipt.check(expected, self._verify)
        return self._store.write(lambda connection: self._keep(connection, receipt))

    def heads(self) -> dict[str, Head]:
        """The newest head of every silo."""
        table = _receipts.c
        last = select(table.silo, func.max(table.seq)).group_by(table.silo)
        query = select(table.silo, table.seq, table.hash).where(
            tuple_(table.silo, table.seq).in_(last)
        )
        with self._store.reading() as connection:
            return {
                row.silo: Head(row.seq, row.hash, "coordinator")
                for row in connection.execute(query)
            }

    def receipts(self, job: str | None = None, *, silo: str | None = None) -> list[Receipt]:
        """The receipts of a job, of a silo, or all, by silo and number."""
        query = select(_receipts).order_by(_receipts.c.silo, _receipts.c.seq)
        if job is not None:
            query = query.where(_receipts.c.job == job)
        if silo is not None:
            query = query.where(_receipts.c.silo == silo)
        with self._store.reading() as connection:
            return [
                Receipt(row.silo, row.public, row.body, row.hash, row.signature)
                for row in connection.execute(query)
            ]

    def verify(self) -> None:
        """Check every receipt and every column; `LedgerTampered` names the first that is bad."""
        with self._store.reading() as connection:
            found = connection.execute(select(_receipts).order_by(_receipts.c.ledger))
            for row in found:
                receipt = Receipt(row.silo, row.public, row.body, row.hash, row.signature)
                key = self._keys.get(row.silo, "") if self._keys is not None else row.public
                receipt.check(key, self._verify)
                if _row(receipt) != dict(row._mapping):
                    raise LedgerTampered(
                        f"mirror: the row of entry {row.seq} of {row.silo} was changed",
                        field="receipts",
                        value=row.seq,
                    )

    def _keep(self, connection: Any, receipt: Receipt) -> Head:
        row, table = _row(receipt), _receipts.c
        first_of = select(table.public).where(table.silo == receipt.silo).limit(1)
        if connection.execute(first_of).scalar() not in (None, receipt.public):
            raise LedgerTampered(
                f"a receipt of {receipt.silo} by another key than its first",
                field="public",
                value=receipt.public,
            )
        same = connection.execute(
            select(_receipts).where(table.silo == receipt.silo, table.seq == receipt.seq)
        ).first()
        if same is not None:
            if same.hash != receipt.hash:
                raise _fork(receipt)
            return receipt.head
        for neighbour in connection.execute(
            select(_receipts).where(
                table.silo == receipt.silo, table.seq.in_([receipt.seq - 1, receipt.seq + 1])
            )
        ):
            other = Receipt(receipt.silo, receipt.public, neighbour.body, neighbour.hash, "")
            first, second = sorted((receipt, other), key=lambda r: r.seq)
            if second.data["prev"] != first.hash or second.ledger != first.ledger:
                raise _fork(receipt)
        connection.execute(_receipts.insert(), row)
        return receipt.head


def _row(receipt: Receipt) -> dict[str, Any]:
    return {
        **receipt.document(),
        "ledger": receipt.ledger,
        "seq": receipt.seq,
        "kind": receipt.kind,
        "job": receipt.job,
    }


def _there(store: Store) -> bool:
    with store.engine.connect() as connection:
        return bool(store.engine.dialect.has_table(connection, "receipts"))


def _fork(receipt: Receipt) -> LedgerTampered:
    return LedgerTampered(
        f"{receipt.silo} has shown two histories at entry {receipt.seq}",
        field="receipt",
        value=receipt.seq,
    )
