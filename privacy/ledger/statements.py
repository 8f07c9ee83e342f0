"""Statements that are compiled once per kind of database and run on the driver's own cursor.

An append runs half a dozen of them, and what `Connection.execute` does around each takes longer
than the database does. Transactions stay SQLAlchemy's own.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Insert, Select, Update
from sqlalchemy.exc import DBAPIError

Source = Select[Any] | Insert | Update


class Statement:
    """A statement of plain texts and integers, within a transaction that was begun."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._compiled: dict[str, _Compiled] = {}

    def all(self, connection: Connection, **values: Any) -> list[Any]:
        """Run it and return the rows, each a named tuple of the columns."""
        compiled = self._for(connection)
        cursor = compiled.run(connection, values)
        try:
            return [compiled.row(*found) for found in cursor]
        finally:
            cursor.close()

    def first(self, connection: Connection, **values: Any) -> Any:
        """Run it and return the first row, `None` where there is none."""
        found = self.all(connection, **values)
        return found[0] if found else None

    def write(self, connection: Connection, **values: Any) -> None:
        """Run one that returns no rows."""
        self._for(connection).run(connection, values).close()

    def _for(self, connection: Connection) -> _Compiled:
        name = connection.dialect.name
        if name not in self._compiled:
            self._compiled[name] = _Compiled(self._source, connection)
        return self._compiled[name]


class _Compiled:
    """The text of one statement for one kind of database, and how its parameters are passed."""

    def __init__(self, source: Source, connection: Connection) -> None:
        compiled: Any = source.compile(
            dialect=connection.dialect, compile_kwargs={"render_postcompile": True}
        )
        self._text = str(compiled)
        self._given = dict(compiled.params)
        self._order = compiled.positiontup if compiled.positional else None
        self.row = _row_of(source)

    def run(self, connection: Connection, values: dict[str, Any]) -> Any:
        """Run it on a cursor, which the caller closes."""
        every = self._given | values
        parameters = every if self._order is None else [every[name] for name in self._order]
        cursor = connection.connection.cursor()
        try:
            cursor.execute(self._text, parameters)
        except connection.dialect.loaded_dbapi.Error as error:
            cursor.close()
            if connection.dialect.is_disconnect(error, connection.connection, cursor):
                connection.invalidate(error)  # the pool shall not hand it out again
            raise DBAPIError(self._text, None, error, hide_parameters=True) from error
        return cursor


def _row_of(source: Source) -> Callable[..., Any]:
    """What makes a named tuple of a row."""
    names = source.selected_columns.keys() if isinstance(source, Select) else ()
    return namedtuple("Row", names)
