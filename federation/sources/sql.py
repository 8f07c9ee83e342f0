"""Tables and queries of any database that SQLAlchemy reaches.

Read only: the connection is opened so where the database can do that, and nothing is ever
committed. No error of the driver is passed on, because such texts can hold credentials, queries
and values; ours name the source's data sets and the kind of database. Names of tables and columns
are quoted; a query is its owner's own, from `silo.yaml`, and no job can change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from federation.errors import BadInput, Missing
from federation.settings import SqlSource
from federation.sources.table import Table

_BATCH = 10_000


def has_test(source: SqlSource) -> bool:
    """Whether the source names a separate test table or query."""
    return source.test_table is not None or source.test_query is not None


def columns(source: SqlSource, *, separate_test: bool) -> tuple[str, ...]:
    """The names of the columns that the table or query gives."""
    with _result(source, separate_test, None) as result:
        return tuple(result.keys())


def read(source: SqlSource, wanted: Sequence[str], *, separate_test: bool) -> Table:
    """Read columns, and no other, as the driver gives them."""
    values: list[list[Any]] = [[] for _ in wanted]
    with _result(source, separate_test, wanted) as result:
        while batch := result.fetchmany(_BATCH):
            for place, column in enumerate(values):
                column.extend(row[place] for row in batch)
    rows = len(values[0]) if values else 0
    arrays = {}
    for name, column in zip(wanted, values, strict=True):
        arrays[name] = np.empty(rows, dtype=object)
        arrays[name][:] = column
    return Table(arrays, rows)


@contextmanager
def _result(
    source: SqlSource, separate_test: bool, wanted: Sequence[str] | None
) -> Iterator[sa.CursorResult[Any]]:
    """Run the statement of a part in a transaction that is rolled back; None asks for no row."""
    engine = _engine(source)
    options = {"postgresql_readonly": True} if engine.dialect.name == "postgresql" else {}
    statement = _statement(source, separate_test, wanted, engine.dialect)
    try:
        with _connected(source, engine).execution_options(
            no_parameters=True, **options
        ) as connection:
            yield connection.exec_driver_sql(statement)
            connection.rollback()
    except SQLAlchemyError as error:
        raise _unreachable(source, engine, error) from None
    finally:
        engine.dispose()


def _connected(source: SqlSource, engine: sa.Engine) -> sa.Connection:
    try:
        return engine.connect()
    except (TypeError, ValueError, OSError) as error:  # what drivers say to an odd URL
        raise _unreachable(source, engine, error) from None


def _statement(
    source: SqlSource, separate_test: bool, wanted: Sequence[str] | None, dialect: sa.Dialect
) -> str:
    quote = dialect.identifier_preparer.quote_identifier
    table, query = source.table, source.query
    if separate_test:
        table, query = source.test_table, source.test_query
    if query is not None:
        rows = f"({query.rstrip().rstrip(';')}\n) AS source"
    else:
        rows = ".".join(quote(part) for part in str(table).split("."))
    if wanted is None:
        return f"SELECT * FROM {rows} WHERE 1 = 0"  # noqa: S608
    names = [quote(name) for name in wanted]
    if dialect.name == "postgresql":
        # As text: the driver gives up on values that Python cannot hold, such as infinite dates.
        names = [f"CAST({name} AS text)" for name in names]
    return f"SELECT {', '.join(names)} FROM {rows}"  # noqa: S608


def _engine(source: SqlSource) -> sa.Engine:
    try:
        url = sa.make_url(source.url.get_secret_value())
        engine = sa.create_engine(url, poolclass=sa.NullPool)
    except (ArgumentError, ValueError):
        raise BadInput(
            f"source of {_names(source)}: url is not a SQLAlchemy URL",
            field="url",
            allowed="dialect+driver://user:password@host/database",
        ) from None
    except (NoSuchModuleError, ImportError):
        raise Missing(
            f"source of {_names(source)}: the driver of its url is not installed",
            field="url",
            allowed='an installed driver, such as that of the extra "postgres"',
        ) from None
    if engine.dialect.name == "sqlite":
        _sqlite(source, engine, url)
    return engine


def _sqlite(source: SqlSource, engine: sa.Engine, url: sa.URL) -> None:
    """Never create a file, never write one, and take text that is not UTF-8 as it can be read."""
    if url.database and url.database != ":memory:" and not url.database.startswith("file:"):
        path = Path(url.database)
        if not path.is_file():
            raise Missing(
                f"source of {_names(source)}: {path}: no such database",
                field="url",
                value=str(path),
            )

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: object) -> None:
        connection.execute("PRAGMA query_only = ON")
        connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")


def _unreachable(source: SqlSource, engine: sa.Engine, error: Exception) -> Missing:
    return Missing(
        f"source of {_names(source)}: the {engine.dialect.name} database could not be read "
        f"({type(error).__name__}); check url, table or query, and the rights to read",
        field="url",
    )


def _names(source: SqlSource) -> str:
    return ", ".join(source.datasets)
