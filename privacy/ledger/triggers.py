"""Append-only, held by the database itself.

The triggers are made by a migration, and `verify` compares them (`privacy.ledger.frame`): a table
that a later migration rebuilds on SQLite loses its triggers, and must call `create` again.
"""

from __future__ import annotations

from sqlalchemy import Connection

TABLES = ("identity", "entries", "releases")
_OPERATIONS = ("UPDATE", "DELETE")


def statements(dialect: str) -> dict[str, str]:
    """The statements that make the triggers of a dialect, by the triggers' names."""
    made = {}
    for table in TABLES:
        for operation in _OPERATIONS:
            name = f"{table}_no_{operation.lower()}"
            if dialect == "sqlite":
                made[name] = (
                    f"CREATE TRIGGER {name} BEFORE {operation} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
            else:
                made[name] = (
                    f"CREATE TRIGGER {name} BEFORE {operation} ON {table} "
                    "FOR EACH ROW EXECUTE FUNCTION tacit_append_only()"
                )
        if dialect != "sqlite":
            made[f"{table}_no_truncate"] = (
                f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION tacit_append_only()"
            )
    return made


BODY = " BEGIN RAISE EXCEPTION 'this table is append-only'; END "
"""What the function of PostgreSQL's triggers does."""

_FUNCTION = (
    f"CREATE OR REPLACE FUNCTION tacit_append_only() RETURNS trigger LANGUAGE plpgsql AS $${BODY}$$"
)
_THERE = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger'",
    "postgresql": "SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
    "WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace",
}


def create(connection: Connection) -> None:
    """Make the triggers that are not there."""
    dialect = connection.dialect.name
    if dialect != "sqlite":
        connection.exec_driver_sql(_FUNCTION)
    there = set(connection.exec_driver_sql(_THERE[dialect]).scalars())
    for name, statement in statements(dialect).items():
        if name not in there:
            connection.exec_driver_sql(statement)
