"""No row stands in two sources: each row has one budget.

Two sources over one file would have two accounts, and each would let the whole budget be spent
on the same rows. Files are compared as the system sees them (links and other spellings of a path
included), tables and queries by their database and text. Two queries that read the same rows in
different words look different from here; that they do not is up to the owner.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel

from federation.errors import BadInput

_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433, "oracle": 1521}
_ADVICE = {
    "source": "let one source list all data sets of its rows under datasets",
    "silo": "give each silo its own rows",
}
_DEFAULT_SCHEMAS = ("main", "public", "dbo")


def refuse_shared_rows(
    sources: Mapping[str, BaseModel], *, on_disk: bool = False, holder: str = "source"
) -> None:
    """Raise `BadInput` where two sources, or two parts of one, are the same rows.

    `on_disk` follows links and looks at the files, for sources whose paths are absolute. `holder`
    is what bears the names: sources of one silo, or silos with a source each.
    """
    seen: dict[Any, tuple[str, str]] = {}
    for name, source in sources.items():
        for field, place in _places(source, on_disk):
            if place not in seen:
                seen[place] = (name, field)
                continue
            other, other_field = seen[place]
            both = f"{other_field} of {holder} {other!r} and {field} of {holder} {name!r}"
            advice = _ADVICE[holder]
            if other == name:
                both = f"{other_field} and {field} of {holder} {name!r}"
                advice = "each part has rows of its own"
            raise BadInput(
                f"{both} are the same rows, which have one budget and one part; {advice}",
                field=f"{holder}s.{name}.{field}",
                value=name,
                allowed=f"rows that no other {holder} and no other part has",
            )


def _places(source: BaseModel, on_disk: bool) -> Iterator[tuple[str, Any]]:
    """Each field that says where rows are, with what is equal for equal places."""
    database = None
    for field, value in source:
        if isinstance(value, Path):
            yield field, _file(str(value), on_disk)
        elif field == "url":
            database = _database(value.get_secret_value(), on_disk)
        elif value is not None and field.removeprefix("test_") in ("table", "query"):
            kind = field.removeprefix("test_")
            text = _query(value) if kind == "query" else _table(value, database)
            yield field, (database, kind, text)


def _file(path: str, on_disk: bool) -> Any:
    if not on_disk:
        return ("file", os.path.normpath(path))
    try:
        path = os.path.realpath(path)
        found = Path(path).stat()
    except (OSError, ValueError):  # not there (yet), or no path at all
        return ("file", os.path.normpath(path))
    return ("file", found.st_dev, found.st_ino)


def _database(url: str, on_disk: bool) -> Any:
    """Where a URL leads, whoever asks: without user, password and driver."""
    dialect, _, rest = url.partition("://")
    dialect = dialect.partition("+")[0].lower()
    if dialect == "sqlite":
        path = rest.partition("?")[0].removeprefix("/")
        return (dialect, _file(path, on_disk))
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(dialect)
        host = (parts.hostname or "localhost").lower()
    except ValueError:
        return ("url", url)
    if host in ("127.0.0.1", "::1"):
        host = "localhost"
    options = [o for o in parse_qsl(parts.query) if o[0] in ("host", "port", "dbname", "service")]
    return (dialect, host, port, parts.path.strip("/"), tuple(sorted(options)))


def _table(name: str, database: Any) -> str:
    schema, _, table = name.rpartition(".")
    if schema.lower() in _DEFAULT_SCHEMAS:
        name = table
    return name.lower() if database is not None and database[0] == "sqlite" else name


def _query(text: str) -> str:
    return " ".join(text.split()).rstrip("; ")
