"""Which ledger a database holds: making that known once, and checking it ever after."""

from __future__ import annotations

import os
from datetime import datetime

from sqlalchemy import insert, select

from privacy.errors import InvalidRequest, LedgerMissing, LedgerTampered
from privacy.ledger import canonical, schema
from privacy.ledger.chain import Head, Identity, check_signature
from privacy.ledger.clock import stamp
from privacy.ledger.heads import HeadFile
from privacy.ledger.signing import Signer, Verifier
from privacy.ledger.store import Store


def found(store: Store, heads: HeadFile, *, silo: str, signer: Signer, now: datetime) -> Identity:
    """Make the tables and the identity; a ledger or a head already there is `InvalidRequest`."""
    with heads.locked():
        if heads.path.exists() or store.revision() is not None:
            raise InvalidRequest(
                f"{store.shown}: there is a ledger, or the head of one, already",
                field="ledger",
                value=store.shown,
            )
        store.create_file()
        store.upgrade()
        made = Identity(os.urandom(16).hex(), silo, signer.public, stamp(now))
        row = {
            "ledger": made.ledger,
            "silo": made.silo,
            "public": made.public,
            "created_at": made.created_at,
            "hash": made.genesis,
            "signature": signer.sign(canonical.statement(canonical.GENESIS, made.genesis)).hex(),
        }
        store.write(lambda connection: connection.execute(insert(schema.identity), row))
        heads.write(made.ledger, Head(0, made.genesis))
    return made


def identify(store: Store, *, silo: str, public: str, verify: Verifier) -> Identity:
    """Read the identity, which must be signed by this key and name this silo."""
    store.require()
    with store.reading() as connection:
        rows = connection.execute(select(schema.identity)).all()
    if not rows:
        raise LedgerMissing(f"{store.shown}: no ledger here", field="ledger", value=store.shown)
    row = rows[0]
    known = Identity(row.ledger, row.silo, row.public, row.created_at)
    if len(rows) != 1 or row.hash != known.genesis or row.public != public:
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
