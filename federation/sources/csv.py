"""CSV files with a header line, read by the standard library.

Every value is text: no type is inferred, so no row decides how another is read. The reader
forgives everything that a row can contain: a row with too few fields has missing values, surplus
fields are ignored, bytes that are not UTF-8 stay apart from one another. One row is what the
format makes one row, line breaks inside quotes included: a quote that opens a field and is never
closed takes the lines after it, which is a matter of the file and told by its owner's check.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TextIO

import numpy as np

from federation.errors import BadInput, Missing
from federation.settings import CsvSource
from federation.sources.table import DELIMITERS, Table, existing, unreadable

csv.field_size_limit(2**31 - 1)  # at its limit the reader would make many rows of one

LONG = 131_072
"""Characters above which a field is worth a word to its owner."""

TOLERANCE = 1.1
"""Lines per row above which the quotes are worth a word to the owner."""

_RAGGED = "rows with too few or too many fields"
_BROKEN_LINES = "rows with line breaks inside quotes"
_LONG = f"rows with a field of more than {LONG} characters"


def has_test(source: CsvSource) -> bool:
    """Whether the source names a separate test file."""
    return source.test is not None


def delimiter(path: Path) -> str:
    """At which character the header line is cut: the first of `DELIMITERS` that makes columns.

    A comma where none does, or where there is no header line to look at. No row is read.
    """
    for cut in DELIMITERS:
        try:
            with _open(existing(path)) as file:
                if len(_header(csv.reader(file, delimiter=cut), path)) > 1:
                    return cut
        except (BadInput, Missing):
            continue
    return ","


def columns(source: CsvSource, *, separate_test: bool) -> tuple[str, ...]:
    """The names in the header line."""
    path = _path(source, separate_test)
    with _open(path) as file:
        return _header(csv.reader(file, delimiter=source.delimiter), path)


def read(source: CsvSource, wanted: Sequence[str], *, separate_test: bool) -> Table:
    """Read columns as text; an absent field is None."""
    path = _path(source, separate_test)
    values: list[list[str | None]] = [[] for _ in wanted]
    notes = dict.fromkeys((_RAGGED, _BROKEN_LINES, _LONG), 0)
    rows = lines = 0
    with _open(path) as file:
        reader = csv.reader(file, delimiter=source.delimiter)
        header = _header(reader, path)
        places = [header.index(name) for name in wanted]
        before = reader.line_num
        for row in _rows(reader, path):
            taken, before = reader.line_num - before, reader.line_num
            if not row:
                continue
            rows += 1
            lines += taken
            notes[_BROKEN_LINES] += taken > 1
            notes[_LONG] += max(map(len, row)) > LONG
            notes[_RAGGED] += len(row) != len(header)
            for place, column in zip(places, values, strict=True):
                column.append(row[place] if place < len(row) else None)
    table = {name: _objects(column) for name, column in zip(wanted, values, strict=True)}
    found = {note: count for note, count in notes.items() if count}
    return Table(table, rows, found, _warnings(rows, lines))


def _warnings(rows: int, lines: int) -> tuple[str, ...]:
    """What the owner should look at where quotes made far fewer rows than there are lines."""
    if lines <= TOLERANCE * rows:
        return ()
    return (
        f"{lines} lines made {rows} rows: a quote that was never closed makes one row of all "
        "lines after it; double every quote inside a quoted field, or export the file again",
    )


def _rows(reader: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error:  # one field of more than 2 GiB
        raise unreadable(path, "CSV") from None


def _objects(column: list[str | None]) -> np.ndarray:
    array = np.empty(len(column), dtype=object)
    array[:] = column
    return array


def _path(source: CsvSource, separate_test: bool) -> Path:
    return existing(source.test if separate_test and source.test else source.path)


def _open(path: Path) -> TextIO:
    try:
        return path.open(newline="", encoding="utf-8-sig", errors="surrogateescape")
    except OSError:
        raise unreadable(path, "CSV") from None


def _header(lines: Iterator[list[str]], path: Path) -> tuple[str, ...]:
    try:
        first = next(chain((row for row in lines if row), iter([[]])))
    except csv.Error:
        raise unreadable(path, "CSV") from None
    names = tuple(
        name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip() for name in first
    )
    if not names:
        raise BadInput(
            f"source {path}: no header line",
            field="path",
            value=str(path),
            allowed="a first line with the names of the columns",
        )
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise BadInput(
            f"source {path}: column {twice[0]!r} stands twice in the header line",
            field="column",
            value=twice[0],
            allowed="each name once",
        )
    return names
