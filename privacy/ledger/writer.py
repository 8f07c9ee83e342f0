"""Appending: one operation, at most one entry, its caches, and then the head outside."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection

from privacy.errors import LedgerTampered
from privacy.ledger import replay
from privacy.ledger.chain import SCHEMA, Head, Identity, Receipt, seal
from privacy.ledger.clock import stamp
from privacy.ledger.heads import Filed, HeadFile
from privacy.ledger.rows import Rows
from privacy.ledger.signing import Signer
from privacy.ledger.store import Store

Decision = Callable[[Rows, datetime], "dict[str, Any] | int"]
"""Looks at the books; returns the next entry's content, or the number of one that did it before."""


class Writer:
    """Runs decisions one after the other, over all threads and processes of this host."""

    def __init__(
        self,
        store: Store,
        identity: Identity,
        heads: HeadFile,
        signer: Signer,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._identity = identity
        self._heads = heads
        self._signer = signer
        self._now = now

    def append(self, decide: Decision) -> Receipt | int:
        """Return the new entry, durable in the database and in the head file, or `decide`'s answer.

        The lock spans transaction and head, so the database is never two entries ahead.
        """
        with self._heads.locked():
            done, filed = self._store.write(lambda connection: self._transact(connection, decide))
            if isinstance(done, Receipt):
                self._heads.write(self._identity.ledger, done.head, filed)
            return done

    def receipt(self, seq: int) -> Receipt:
        """The receipt of an entry that is there."""
        with self._store.reading() as connection:
            return Rows(connection, self._identity).receipt(seq)

    def replant(self, receipt: Receipt) -> None:
        """Append an entry that this ledger lost, byte by byte as it was signed."""

        def put(connection: Connection) -> None:
            rows = Rows(connection, self._identity)
            seq, _, hash_ = rows.last()
            body = receipt.data
            if (body["seq"], body["prev"]) != (seq + 1, hash_):
                raise LedgerTampered(f"entry {body['seq']} does not follow entry {seq}")
            replay.apply(rows, body)
            if rows.after() != body["after"]:
                raise LedgerTampered(f"entry {body['seq']} does not add up")
            rows.write(receipt, body)

        self._store.write(put)

    def append_lost(self, decide: Decision) -> Receipt | None:
        """Append whatever the head file says: only recovery may, which then writes the head."""
        transact = partial(self._transact, decide=decide, lost=True)
        done, _ = self._store.write(transact)
        return done if isinstance(done, Receipt) else None

    def _transact(
        self, connection: Connection, decide: Decision, *, lost: bool = False
    ) -> tuple[Receipt | int, Filed | None]:
        """The new entry, or `decide`'s answer, and the head that was on file (`lost`: not read)."""
        rows = Rows(connection, self._identity)
        seq, prev, hash_ = rows.last()
        filed = None if lost else self._agreed(seq, prev, hash_)
        now = self._now()
        decided = decide(rows, now)
        if isinstance(decided, int):
            return decided, filed
        body: dict[str, Any] = {
            **decided,
            "schema": SCHEMA,
            "ledger": self._identity.ledger,
            "seq": seq + 1,
            "prev": hash_,
            "at": stamp(now),
        }
        replay.apply(rows, body)
        body["after"] = rows.after()
        sealed = seal(body, self._identity, self._signer)
        rows.write(sealed, body)
        return sealed, filed

    def _agreed(self, seq: int, prev: str, hash_: str) -> Filed:
        """The head on file, once it agrees with the chain's last entry.

        A crash between commit and head leaves the database one entry ahead: that entry is taken,
        and the file brought up to it before another follows.
        """
        filed = self._heads.read(self._identity.ledger)
        if filed is None:
            raise LedgerTampered(
                f"{self._heads.path}: the head file is missing; run verify, then recover",
                field="head",
                value=seq,
            )
        if filed.is_at(seq, hash_):
            return filed
        if filed.is_before(seq, prev):
            return self._heads.write(self._identity.ledger, Head(seq, hash_), filed)
        raise LedgerTampered(
            f"the database ends at entry {seq}, the head file at {filed.head.seq}: entries were "
            "lost, changed or put in, or the file is damaged; run verify, then recover",
            field="head",
            value=seq,
            allowed=filed.head.seq,
        )
