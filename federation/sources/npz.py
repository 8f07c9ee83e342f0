"""NumPy archives: one array per column, all with the same number of rows."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.errors import BadInput
from federation.settings import NpzSource
from federation.sources.table import Table, existing, unreadable


def has_test(source: NpzSource) -> bool:
    """Whether the source names a separate test file."""
    return source.test is not None


def columns(source: NpzSource, *, separate_test: bool) -> tuple[str, ...]:
    """The names of the arrays."""
    path = _path(source, separate_test)
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        raise unreadable(path, "a NumPy archive (.npz)") from None


def read(source: NpzSource, wanted: Sequence[str], *, separate_test: bool) -> Table:
    """Read arrays; those of Python objects are refused, because loading them runs code."""
    path = _path(source, separate_test)
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in wanted:
                arrays[name] = archive[name]
    except (zipfile.BadZipFile, OSError, ValueError, EOFError):
        raise unreadable(path, "a NumPy archive (.npz) of numbers and texts") from None
    lengths = {array.shape[0] if array.ndim else -1 for array in arrays.values()}
    if len(lengths) > 1 or -1 in lengths:
        raise BadInput(
            f"source {path}: its arrays are not equally long",
            field="path",
            value=str(path),
            allowed="one entry per row in every array",
        )
    return Table(arrays, lengths.pop() if lengths else 0)


def _path(source: NpzSource, separate_test: bool) -> Path:
    return existing(source.test if separate_test and source.test else source.path)
