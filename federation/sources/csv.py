"""CSV files with a header line, read by the standard library.

Its reader forgives everything that a row can contain: a row with too few fields has missing
values, surplus fields are ignored, bytes that are not UTF-8 become replacement characters. One
row is what the format makes one row, line breaks inside quotes included.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TextIO

import numpy as np

from federation.errors import BadInput
from federation.settings import CsvSource
from federation.sources.table import Table, existing, unreadable


def has_test(source: CsvSource) -> bool:
    """Whether the source names a separate test file."""
    return source.test is not None


def columns(source: CsvSource, *, separate_test: bool) -> tuple[str, ...]:
    """The names in the header line."""
    path = _path(source, separate_test)
    with _open(path) as file:
        return _header(csv.reader(file, delimiter=source.delimiter), path)


def read(source: CsvSource, wanted: Sequence[str], *, separate_test: bool) -> Table:
    """Read columns as text; an absent field is None."""
    path = _path(source, separate_test)
    values: list[list[str | None]] = [[] for _ in wanted]
    notes = {"rows with too few or too many fields": 0, "rows that could not be read": 0}
    with _open(path) as file:
        lines = csv.reader(file, delimiter=source.delimiter)
        header = _header(lines, path)
        places = [header.index(name) for name in wanted]
        for row in _rows(lines):
            if row is None:
                notes["rows that could not be read"] += 1
                continue
            if not row:
                continue
            if len(row) != len(header):
                notes["rows with too few or too many fields"] += 1
            for place, column in zip(places, values, strict=True):
                column.append(row[place] if place < len(row) else None)
    rows = len(values[0]) if values else 0
    table = {name: _objects(column) for name, column in zip(wanted, values, strict=True)}
    return Table(table, rows, {note: count for note, count in notes.items() if count})


def _rows(lines: Iterator[list[str]]) -> Iterator[list[str] | None]:
    """Rows, None for one that the reader gives up on (a field above its limit)."""
    while True:
        try:
            yield next(lines)
        except StopIteration:
            return
        except csv.Error:
            yield None


def _objects(column: list[str | None]) -> np.ndarray:
    array = np.empty(len(column), dtype=object)
    array[:] = column
    return array


def _path(source: CsvSource, separate_test: bool) -> Path:
    return existing(source.test if separate_test and source.test else source.path)


def _open(path: Path) -> TextIO:
    return path.open(newline="", encoding="utf-8-sig", errors="replace")


def _header(lines: Iterator[list[str]], path: Path) -> tuple[str, ...]:
    try:
        first = next(chain((row for row in lines if row), iter([[]])))
    except csv.Error:
        raise unreadable(path, "CSV") from None
    names = tuple(name.strip() for name in first)
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
