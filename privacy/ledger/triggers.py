"""Append-only, held by the database itself.

The triggers are made by a migration and counted by `verify`: a table that a later migration
rebuilds on SQLite loses its triggers, and must call `create` again.
"""

from __future__ import annotations

from sqlalchemy import Connection

TABLES = ("identity", "entries")
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


_FUNCTION = """
CREATE OR REPLACE FUNCTION tacit_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'this table is append-only'; END $$
"""


def create(connection: Connection) -> None:
    """Make the triggers that are not there."""
    dialect = connection.dialect.name
    if dialect != "sqlite":
        connection.exec_driver_sql(_FUNCTION)
    missing = set(absent(connection))
    for name, statement in statements(dialect).items():
        if name in missing:
            connection.exec_driver_sql(statement)


def absent(connection: Connection) -> list[str]:
    """The names of triggers that are missing, changed or switched off."""
    expected = statements(connection.dialect.name)
    if connection.dialect.name == "sqlite":
        rows = connection.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master WHERE type='trigger'"
        )
        found = {name: sql for name, sql in rows}
        return [name for name, sql in expected.items() if found.get(name) != sql]
    rows = connection.exec_driver_sql(
        "SELECT t.tgname, t.tgenabled, c.relname, p.prosrc FROM pg_trigger t "
        "JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid "
        "WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace"
    )
    source = _FUNCTION.split("$$")[1]
    good = {
        name
        for name, enabled, table, body in rows
        if enabled in ("O", b"O") and name.startswith(table) and body == source
    }
    return [name for name in expected if name not in good]
