"""Tables, constraints, indexes and triggers are as the migrations make them, or verify says so."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, inspect

from privacy.ledger import frame, schema, triggers
from privacy.ledger.store import Store

UPDATE = "CREATE TRIGGER entries_no_update BEFORE {} ON entries FOR EACH ROW {} EXECUTE FUNCTION {}"
OURS = "tacit_append_only()"
GONE = "DROP TRIGGER entries_no_update ON entries"
LAZY = """CREATE FUNCTION {} RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RETURN NULL; END $$"""

SQLITE = {
    "a trigger that ignores": [
        "CREATE TRIGGER evil BEFORE INSERT ON entries BEGIN SELECT RAISE(IGNORE); END"
    ],
    "another trigger": [
        "CREATE TRIGGER evil AFTER INSERT ON charges BEGIN "
        "UPDATE accounts SET balance = 'x' WHERE 0; END"
    ],
    "a trigger of one column": [
        "DROP TRIGGER entries_no_update",
        "CREATE TRIGGER entries_no_update BEFORE UPDATE OF kind ON entries "
        "BEGIN SELECT RAISE(ABORT, 'entries is append-only'); END",
    ],
    "another table": ["CREATE TABLE evil (x)"],
    "a view": ["CREATE VIEW evil AS SELECT * FROM entries"],
    "no index": ["DROP INDEX ix_charges_state_expires"],
    "an index of its own": ["CREATE UNIQUE INDEX evil ON charges (job)"],
    "no constraints": [
        "CREATE TABLE other AS SELECT * FROM accounts",
        "DROP TABLE accounts",
        "ALTER TABLE other RENAME TO accounts",
    ],
    "no key": [
        "CREATE TABLE other AS SELECT * FROM entries",
        "DROP TABLE entries",
        "ALTER TABLE other RENAME TO entries",
        *(sql for name, sql in triggers.statements("sqlite").items() if name[:7] == "entries"),
    ],
    "a conflict resolved": [
        "DROP TABLE nonces",
        "CREATE TABLE nonces (nonce TEXT NOT NULL, digest TEXT NOT NULL, until TEXT NOT NULL, "
        "CONSTRAINT pk_nonces PRIMARY KEY (nonce) ON CONFLICT REPLACE)",
        "CREATE INDEX ix_nonces_until ON nonces (until)",
    ],
}
POSTGRESQL = {
    "a trigger that is never on": [GONE, UPDATE.format("UPDATE", "WHEN (false)", OURS)],
    "a trigger before something else": [
        GONE,
        UPDATE.format("INSERT", "WHEN (new.seq < 0)", OURS),
    ],
    "a trigger of one column": [GONE, UPDATE.format("UPDATE OF kind", "", OURS)],
    "a trigger that does something else": [
        GONE,
        LAZY.format("lazy()"),
        UPDATE.format("UPDATE", "", "lazy()"),
    ],
    "a function that does something else": [
        LAZY.replace("CREATE", "CREATE OR REPLACE").format(OURS)
    ],
    "triggers off": ["ALTER TABLE entries DISABLE TRIGGER ALL"],
    "another trigger": [
        LAZY.format("lazy()"),
        "CREATE TRIGGER evil BEFORE INSERT ON charges FOR EACH ROW EXECUTE FUNCTION lazy()",
    ],
    "a rule": ["CREATE RULE evil AS ON INSERT TO releases DO INSTEAD NOTHING"],
    "another table": ["CREATE TABLE evil (x int)"],
    "a view": ["CREATE VIEW evil AS SELECT * FROM entries"],
    "a child": ["CREATE TABLE evil () INHERITS (nonces)"],
    "no log": ["ALTER TABLE charges SET UNLOGGED"],
    "no index": ["DROP INDEX ix_charges_state_expires"],
    "an index of its own": ["CREATE UNIQUE INDEX evil ON charges (job)"],
    "no check": ["ALTER TABLE accounts DROP CONSTRAINT ck_accounts_seq_whole"],
    "no key": ["ALTER TABLE entries DROP CONSTRAINT pk_entries"],
    "a key too late": [
        "ALTER TABLE entries DROP CONSTRAINT uq_entries_prev_hash",
        "ALTER TABLE entries ADD CONSTRAINT uq_entries_prev_hash UNIQUE (prev_hash) "
        "DEFERRABLE INITIALLY DEFERRED",
    ],
    "another type": ["ALTER TABLE charges ALTER COLUMN seq TYPE numeric"],
    "nulls": ["ALTER TABLE charges ALTER COLUMN state DROP NOT NULL"],
    "a default": ["ALTER TABLE charges ALTER COLUMN state SET DEFAULT 'settled'"],
    "another column": ["ALTER TABLE charges ADD COLUMN evil text"],
}


@pytest.mark.parametrize(
    ("make", "what"),
    [("sqlite", what) for what in sorted(SQLITE)]
    + [("postgresql", what) for what in sorted(POSTGRESQL)],
    indirect=["make"],
)
def test_what_is_changed_about_the_tables_is_found(place, ledger, what):
    statements = (SQLITE if place.sqlite else POSTGRESQL)[what]
    place.run(ledger)
    assert ledger.verify().ok
    with create_engine(Store(place.url).engine.url).begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    found = ledger.verify()
    assert not found.ok and found.first_bad["seq"] == 0
    assert "tables, indexes or triggers" in found.first_bad["reason"]


def test_what_must_be_there_is_what_the_tables_of_this_program_are(place, ledger):
    """The migrations make the tables that the code names, on both databases."""
    made = inspect(create_engine(Store(place.url).engine.url))
    assert set(made.get_table_names()) == {*schema.metadata.tables, "alembic_version"}
    for name, table in schema.metadata.tables.items():
        columns = {c["name"]: (str(c["type"]), c["nullable"]) for c in made.get_columns(name)}
        assert columns == {c.name: (str(c.type), c.nullable) for c in table.columns}
    assert len(frame.expected(sqlite=True)) > 20 and len(frame.expected(sqlite=False)) > 70
