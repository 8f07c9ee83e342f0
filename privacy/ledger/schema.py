"""The tables of a ledger's database.

`entries` is the truth: its `body` is what was signed, its other columns are an index on it.
`accounts`, `charges` and `releases` are caches of what the entries add up to, so that the cost of
an operation does not grow with their number. `verify` compares every column of all of them.
`nonces` holds messages that were seen, for as long as they could come again; it is in no entry.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)

REVISION = "20261123_0001"
"""The newest migration; a database at another one is not read."""


def _whole(name: str) -> CheckConstraint:
    """SQLite turns an integer that overflows into a float; PostgreSQL's bigint cannot hold one."""
    return CheckConstraint(f"{name} = CAST({name} AS BIGINT) AND {name} >= 0", name=f"{name}_whole")


identity = Table(
    "identity",
    metadata,
    Column("ledger", Text, primary_key=True),
    Column("silo", Text, nullable=False),
    Column("public", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("signature", Text, nullable=False),
)

entries = Table(
    "entries",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("job", Text),
    Column("account", Text),
    Column("recorded_at", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("prev_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("signature", Text, nullable=False),
    UniqueConstraint("prev_hash"),
    _whole("seq"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("account", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("opening", Text, nullable=False),
    Column("balance", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    _whole("seq"),
    Index(None, "source"),
)

charges = Table(
    "charges",
    metadata,
    Column("key", Text, primary_key=True),
    Column("job", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("expires", Text, nullable=False),
    Column("record", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    _whole("seq"),
    Index(None, "job"),
    Index(None, "state", "expires"),
)

releases = Table(
    "releases",
    metadata,
    Column("job", Text, primary_key=True),
    Column("round", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text, primary_key=True),
    Column("protection", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("event", Text),
    Column("charge", Text),
    Column("number", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    UniqueConstraint("charge", "name", "number"),
    _whole("round"),
    _whole("size"),
    _whole("number"),
    _whole("seq"),
)

nonces = Table(
    "nonces",
    metadata,
    Column("nonce", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("until", Text, nullable=False),
    Index(None, "until"),
)
