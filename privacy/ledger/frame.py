"""What a ledger's database must consist of, and what it consists of: tables, indexes, triggers.

A constraint that is gone or a trigger that looks away changes what the database refuses, and no
row shows it. What must be there is not written down a second time: the migrations are run on an
empty SQLite database in memory. What SQLite keeps as text is compared as text, blanks and quotes
aside; PostgreSQL's catalogue is compared with the same tables, each part put into words.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

from sqlalchemy import Connection, create_engine, inspect

from privacy.ledger import triggers
from privacy.ledger.store import migrate

_LOCK = threading.Lock()
_TYPES = {"TEXT": "text", "BIGINT": "bigint", "VARCHAR(32)": "character varying(32)"}
_MASTER = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'"

_OURS = """c.relnamespace = current_schema()::regnamespace AND NOT EXISTS (
    SELECT 1 FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')"""
_CATALOGUE = (
    """SELECT 'table ' || c.relname, concat(c.relkind, c.relpersistence,
        c.relhasrules OR c.relforcerowsecurity OR EXISTS (
            SELECT 1 FROM pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent)))
    FROM pg_class c WHERE c.relkind NOT IN ('i', 'I', 't', 'c') AND OURS""",
    """SELECT concat('column ', c.relname, '.', a.attname), concat(
        format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN ' not null' END,
        CASE WHEN a.atthasdef OR a.attidentity <> '' OR a.attcollation <> t.typcollation
            THEN ' changed' END)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind = 'r' AND OURS""",
    """SELECT 'constraint ' || n.conname, concat(c.relname, ' ', pg_get_constraintdef(n.oid))
    FROM pg_constraint n JOIN pg_class c ON c.oid = n.conrelid WHERE n.contype <> 'n' AND OURS""",
    """SELECT 'index ' || x.relname,
        concat(pg_get_indexdef(x.oid), CASE WHEN NOT i.indisvalid THEN ' invalid' END)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
    WHERE NOT EXISTS (SELECT 1 FROM pg_constraint n WHERE n.conindid = x.oid) AND OURS""",
    """SELECT 'trigger ' || t.tgname,
        concat(pg_get_triggerdef(t.oid), ' ', t.tgenabled, p.prosrc)
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE NOT t.tgisinternal AND OURS""",
)


def differences(connection: Connection) -> list[str]:
    """The names of what is missing, changed, or there without belonging there."""
    sqlite = connection.dialect.name == "sqlite"
    found = set(_kept(connection) if sqlite else _catalogue(connection))
    return sorted({name for name, _ in found ^ set(expected(sqlite))})


def expected(sqlite: bool) -> frozenset[tuple[str, str]]:
    """The parts by name, each with what it must be; made once in a process."""
    with _LOCK:
        return _expected(sqlite)


@cache
def _expected(sqlite: bool) -> frozenset[tuple[str, str]]:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        migrate(connection)
        parts = frozenset(_kept(connection) if sqlite else _in_words(inspect(connection)))
    engine.dispose()
    return parts


def _kept(connection: Connection) -> Iterator[tuple[str, str]]:
    for kind, name, sql in connection.exec_driver_sql(_MASTER):
        yield f"{kind} {name}", re.sub(r'[\s"]', "", sql or "")


def _catalogue(connection: Connection) -> Iterator[tuple[str, str]]:
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for query in _CATALOGUE:
        for name, what in connection.exec_driver_sql(query.replace("OURS", _OURS)):
            yield name, _plain(what.replace(f" {schema}.", " "))


def _in_words(tables: Any) -> Iterator[tuple[str, str]]:
    """The tables as `_CATALOGUE` describes them."""
    for table in tables.get_table_names():
        yield f"table {table}", "rpf"
        for column in tables.get_columns(table):
            null = "" if column["nullable"] else " not null"
            yield f"column {table}.{column['name']}", _plain(_TYPES[str(column["type"])] + null)
        primary = tables.get_pk_constraint(table)
        keys = [("PRIMARY KEY", primary["name"], primary["constrained_columns"])]
        for unique in tables.get_unique_constraints(table):
            keys.append(("UNIQUE", unique["name"], unique["column_names"]))
        for kind, name, columns in keys:
            yield f"constraint {name}", _plain(f"{table} {kind} {','.join(columns)}")
        for check in tables.get_check_constraints(table):
            yield f"constraint {check['name']}", _plain(f"{table} CHECK {check['sqltext']}")
        for index in tables.get_indexes(table):
            kind = "UNIQUE INDEX" if index["unique"] else "INDEX"
            on = f"{table} USING btree {','.join(index['column_names'])}"
            yield f"index {index['name']}", _plain(f"CREATE {kind} {index['name']} ON {on}")
    for name, statement in triggers.statements("postgresql").items():
        yield f"trigger {name}", _plain(f"{statement} O{triggers.BODY}")


def _plain(text: str) -> str:
    """Without blanks and brackets, and casts to what a column already is."""
    return re.sub(r"[\s()]", "", re.sub(r"CAST\((\w+) AS BIGINT\)", r"\1", text))
