"""Parquet files, read by pyarrow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from federation.errors import BadInput
from federation.settings import ParquetSource
from federation.sources.table import Table, existing, unreadable

_FORM = "Parquet"


def has_test(source: ParquetSource) -> bool:
    """Whether the source names a separate test file."""
    return source.test is not None


def columns(source: ParquetSource, *, separate_test: bool) -> tuple[str, ...]:
    """The names in the file's schema."""
    path = _path(source, separate_test)
    try:
        return tuple(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        raise unreadable(path, _FORM) from None


def read(source: ParquetSource, wanted: Sequence[str], *, separate_test: bool) -> Table:
    """Read columns of numbers, booleans, text, bytes, or lists of numbers (images)."""
    path = _path(source, separate_test)
    try:
        # Not `read_table`, which takes further columns from the names of the folders above.
        table = pq.ParquetFile(path).read(columns=list(wanted))
        columns = {name: _array(path, name, table[name]) for name in wanted}
    except BadInput:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError, MemoryError):
        raise unreadable(path, _FORM) from None
    return Table(columns, table.num_rows)


def _array(path: Path, name: str, column: Any) -> NDArray[Any]:
    """The values by the column's type alone: a null changes how no other row is read."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = kind.value_type
    if pa.types.is_floating(kind):
        floats: NDArray[Any] = column.to_numpy()  # of the column's width; a null is NaN
        return floats
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        if column.null_count == 0:
            array: NDArray[Any] = column.to_numpy()
            return array
        # Not by way of floats: a large number must stay the number that it is.
        return _objects(_list(column))
    if pa.types.is_decimal(kind):
        return _objects(_list(column))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        # As bytes, because a string column can hold text that is not UTF-8.
        column = column.cast(pa.large_binary())
        return _objects(
            [None if v is None else v.decode("utf-8", "surrogateescape") for v in _list(column)]
        )
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind):
        return _objects(_list(column))
    if _is_list(kind):
        inner = kind.value_type
        while _is_list(inner):
            inner = inner.value_type
        if pa.types.is_integer(inner) or pa.types.is_floating(inner):
            return _objects(_list(column))
    raise BadInput(
        f"source {path}: column {name!r} is of type {kind}, which has no place in a schema",
        field="column",
        value=str(kind),
        allowed="numbers, booleans, text, or lists of numbers",
    )


def _is_list(kind: Any) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_list(kind) for is_list in lists)


def _list(column: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return values


def _objects(values: list[Any]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        array[row] = value
    return array


def _path(source: ParquetSource, separate_test: bool) -> Path:
    return existing(source.test if separate_test and source.test else source.path)
