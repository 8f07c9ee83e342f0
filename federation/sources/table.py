"""One table out of any source: named columns of equal length, as they stand in the source.

What is wrong with a source as a whole (no file, not of its format, no such column) raises an
error that names it. What is wrong with a row never does: the row comes out as it could be read,
and `notes` counts such rows for the owner's check.
"""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from federation.errors import BadInput, Missing
from federation.settings import CsvSource, SourceConfig

PARTS = ("train", "test")
UNLABELLED = "unlabelled"
DELIMITERS = ",;\t|"
"""At which characters a text table may be cut without its owner saying so."""


@dataclass(frozen=True)
class Table:
    """Columns by name: numbers [rows], objects [rows], or arrays [rows, ...] such as images.

    `notes` and `warnings` are for the owner's check only.
    """

    columns: Mapping[str, NDArray[Any]]
    rows: int
    notes: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Reader(Protocol):
    """A module of this package that reads one kind of source."""

    @staticmethod
    def columns(source: Any, *, separate_test: bool) -> tuple[str, ...]:
        """The names of the columns that are there."""
        ...

    @staticmethod
    def read(source: Any, columns: Sequence[str], *, separate_test: bool) -> Table:
        """Read these columns, all of which are there."""
        ...

    @staticmethod
    def has_test(source: Any) -> bool:
        """Whether the source names a separate test part."""
        ...


def reader(source: SourceConfig) -> Reader:
    """The module that reads this kind of source; only that one is imported.

    Raises `BadInput` for a source of no rows.
    """
    if source.kind == "none":
        raise BadInput(
            f"source of {', '.join(source.datasets)}: it is of kind none, which has no rows",
            field="source",
            value=source.kind,
            allowed="a source with rows, or sizes of 0 and a role that reads none",
        )
    module: Any = importlib.import_module(f"federation.sources.{source.kind}")
    return module  # type: ignore[no-any-return]


def columns(source: SourceConfig) -> tuple[str, ...]:
    """The names of the columns of a source."""
    return reader(source).columns(source, separate_test=False)


def read(source: SourceConfig, wanted: Sequence[str], *, separate_test: bool = False) -> Table:
    """Read `wanted` columns of a source, or of its separate test part.

    Raises `BadInput` for a column that is not there or a test part that is not named, `Missing`
    for a file or database that is not there.
    """
    check_columns(source, wanted, separate_test=separate_test)
    return reader(source).read(source, wanted, separate_test=separate_test)


def check_columns(
    source: SourceConfig, wanted: Sequence[str], *, separate_test: bool = False
) -> None:
    """Raise what `read` would raise, without reading a row."""
    module = reader(source)
    if separate_test and not module.has_test(source):
        raise BadInput(
            f"source of {', '.join(source.datasets)}: the data set is split by files, "
            "but the source names no test part",
            field="test",
            allowed="a test file, table or query of its own",
        )
    there = module.columns(source, separate_test=separate_test)
    for name in wanted:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f"; it has {near[0]!r}" if near else ""
            cut = _miscut(source, there)
            hint = f"; {cut}" if cut else hint
            raise BadInput(
                f"source of {', '.join(source.datasets)}: no column {name!r}{hint}",
                field="column",
                value=name,
                allowed=list(there),
            )
        if there.count(name) > 1:
            raise BadInput(
                f"source of {', '.join(source.datasets)}: column {name!r} is there twice",
                field="column",
                value=name,
                allowed="each name once",
            )


def _miscut(source: SourceConfig, there: Sequence[str]) -> str:
    """What to do about a CSV whose header line was cut at nothing; empty where all seems well."""
    if not isinstance(source, CsvSource) or len(there) != 1:
        return ""
    other = next((c for c in DELIMITERS if c in there[0] and c != source.delimiter), None)
    if other is None:
        return ""
    return (
        f"its header line, cut at {source.delimiter!r}, is one column with {other!r} in it; "
        f"silo.yaml can say delimiter: {json.dumps(other)}"
    )


def existing(path: Path) -> Path:
    """The path, if there is a file; else `Missing`."""
    try:
        there = path.is_file()
    except OSError:  # a name too long, a folder that may not be looked into
        there = False
    if not there:
        raise Missing(f"source {path}: no such file", field="path", value=str(path))
    return path


def unreadable(path: Path, form: str) -> BadInput:
    """The error of a file that is not of its form."""
    return BadInput(
        f"source {path}: cannot be read as {form}", field="path", value=str(path), allowed=form
    )
