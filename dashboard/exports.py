"""Rows as a CSV file that a spreadsheet opens as text, never as a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_csv(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Write rows with the keys of the first as header; no row gives an empty file."""
    text = io.StringIO()
    if rows:
        writer = csv.writer(text)
        writer.writerow([cell(key) for key in rows[0]])
        writer.writerows([cell(value) for value in row.values()] for row in rows)
    return text.getvalue().encode()


def cell(value: object) -> object:
    """Put an apostrophe before text that a spreadsheet would take for a formula."""
    if isinstance(value, str) and value.lstrip(" ").startswith(FORMULA):
        return f"'{value}"
    return value
