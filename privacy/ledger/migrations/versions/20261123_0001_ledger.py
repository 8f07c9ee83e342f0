"""The ledger: identity, entries, and the caches of what they add up to."""

import sqlalchemy as sa
from alembic import op

from privacy.ledger import triggers

revision = "20261123_0001"
down_revision = None


def _whole(table: str, name: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(
        f"{name} = CAST({name} AS BIGINT) AND {name} >= 0", name=op.f(f"ck_{table}_{name}_whole")
    )


def upgrade() -> None:
    """Make the tables and their triggers."""
    text, number = sa.Text(), sa.BigInteger()
    op.create_table(
        "identity",
        sa.Column("ledger", text, nullable=False),
        sa.Column("silo", text, nullable=False),
        sa.Column("public", text, nullable=False),
        sa.Column("created_at", text, nullable=False),
        sa.Column("hash", text, nullable=False),
        sa.Column("signature", text, nullable=False),
        sa.PrimaryKeyConstraint("ledger", name=op.f("pk_identity")),
    )
    op.create_table(
        "entries",
        sa.Column("seq", number, autoincrement=False, nullable=False),
        sa.Column("kind", text, nullable=False),
        sa.Column("job", text),
        sa.Column("account", text),
        sa.Column("recorded_at", text, nullable=False),
        sa.Column("body", text, nullable=False),
        sa.Column("prev_hash", text, nullable=False),
        sa.Column("hash", text, nullable=False),
        sa.Column("signature", text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_entries")),
        sa.UniqueConstraint("prev_hash", name=op.f("uq_entries_prev_hash")),
        _whole("entries", "seq"),
    )
    op.create_table(
        "accounts",
        sa.Column("account", text, nullable=False),
        sa.Column("source", text, nullable=False),
        sa.Column("opening", text, nullable=False),
        sa.Column("balance", text, nullable=False),
        sa.Column("seq", number, nullable=False),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_accounts")),
        _whole("accounts", "seq"),
    )
    op.create_index(op.f("ix_accounts_source"), "accounts", ["source"])
    op.create_table(
        "charges",
        sa.Column("key", text, nullable=False),
        sa.Column("job", text, nullable=False),
        sa.Column("state", text, nullable=False),
        sa.Column("expires", text, nullable=False),
        sa.Column("record", text, nullable=False),
        sa.Column("seq", number, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_charges")),
        _whole("charges", "seq"),
    )
    op.create_index(op.f("ix_charges_job"), "charges", ["job"])
    op.create_index(op.f("ix_charges_state_expires"), "charges", ["state", "expires"])
    op.create_table(
        "releases",
        sa.Column("job", text, nullable=False),
        sa.Column("round", number, autoincrement=False, nullable=False),
        sa.Column("name", text, nullable=False),
        sa.Column("protection", text, nullable=False),
        sa.Column("digest", text, nullable=False),
        sa.Column("request", text, nullable=False),
        sa.Column("size", number, nullable=False),
        sa.Column("event", text),
        sa.Column("charge", text),
        sa.Column("number", number, nullable=False),
        sa.Column("seq", number, nullable=False),
        sa.PrimaryKeyConstraint("job", "round", "name", name=op.f("pk_releases")),
        sa.UniqueConstraint(
            "charge", "name", "number", name=op.f("uq_releases_charge_name_number")
        ),
        _whole("releases", "round"),
        _whole("releases", "size"),
        _whole("releases", "number"),
        _whole("releases", "seq"),
    )
    op.create_table(
        "nonces",
        sa.Column("nonce", text, nullable=False),
        sa.Column("digest", text, nullable=False),
        sa.Column("until", text, nullable=False),
        sa.PrimaryKeyConstraint("nonce", name=op.f("pk_nonces")),
    )
    op.create_index(op.f("ix_nonces_until"), "nonces", ["until"])
    triggers.create(op.get_bind())
