"""Which ledger a database holds: making that known once, and checking it ever after."""

from __future__ import annotations

import os
from datetime import datetime

from sqlalchemy import Connection, insert, select

from privacy.errors import InvalidRequest, LedgerTampered
from privacy.ledger import canonical, schema
from privacy.ledger.chain import Head, Identity, check_signature
from privacy.ledger.clock import stamp
from privacy.ledger.heads import HeadFile
from privacy.ledger.signing import Signer, Verifier
from privacy.ledger.store import Store


def found(store: Store, heads: HeadFile, *, silo: str, signer: Signer, now: datetime) -> Identity:
    """Make the tables and the identity; a ledger or a head already there is `InvalidRequest`.

    The head comes first, so that a ledger without one has lost it. After a crash in between there
    is a head of no entries and no ledger: `found` then begins again.
    """
    with heads.locked():
        if store.revision() is not None or not heads.blank():
            raise InvalidRequest(
                f"{store.shown}: there is a ledger, or the head of one, already",
                field="ledger",
                value=store.shown,
            )
        made = Identity(os.urandom(16).hex(), silo, signer.public, stamp(now))
        row = {
            "ledger": made.ledger,
            "silo": made.silo,
            "public": made.public,
            "created_at": made.created_at,
            "hash": made.genesis,
            "signature": signer.sign(canonical.statement(canonical.GENESIS, made.genesis)).hex(),
        }
        heads.write(made.ledger, Head(0, made.genesis))
        store.create_file()
        store.upgrade(lambda connection: _identify(connection, row))
    return made


def _identify(connection: Connection, row: dict[str, str]) -> None:
    connection.execute(insert(schema.identity), row)


def identify(store: Store, *, silo: str, public: str, verify: Verifier) -> Identity:
    """Read the identity, which must be signed by this key and name this silo."""
    store.require()
    with store.reading() as connection:
        rows = connection.execute(select(schema.identity)).all()
    row = rows[0] if len(rows) == 1 else None  # tables and identity are made as one
    known = row and Identity(row.ledger, row.silo, row.public, row.created_at)
    if not row or not known or row.hash != known.genesis or row.public != public:
        raise LedgerTampered(
            f"{store.shown}: the ledger's identity does not agree with this silo's key",
            field="identity",
        )
    check_signature(canonical.GENESIS, row.hash, row.signature, row.public, verify)
    if row.silo != silo:
        raise LedgerTampered(
            f"{store.shown}: this is the ledger of {row.silo}, not of {silo}",
            field="silo",
            value=row.silo,
            allowed=silo,
        )
    return known
