"""NumPy archives: one array per column, all with the same number of rows."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.errors import BadInput
from federation.settings import NpzSource
from federation.sources.table import Table, existing, unreadable

LARGEST = 64 * 2**30
"""Bytes that the arrays of one archive may take unpacked."""

_FORM = "a NumPy archive (.npz)"
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    NotImplementedError,  # a way of packing that is not known here
    RuntimeError,  # packed with a password
    MemoryError,
)


def has_test(source: NpzSource) -> bool:
    """Whether the source names a separate test file."""
    return source.test is not None


def columns(source: NpzSource, *, separate_test: bool) -> tuple[str, ...]:
    """The names of the arrays."""
    path = _path(source, separate_test)
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(
                name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")
            )
    except _BROKEN:
        raise unreadable(path, _FORM) from None


def read(source: NpzSource, wanted: Sequence[str], *, separate_test: bool) -> Table:
    """Read arrays; those of Python objects are refused, because loading them runs code."""
    path = _path(source, separate_test)
    arrays: dict[str, NDArray[Any]] = {}
    try:
        _refuse_bombs(path, wanted)
        with np.load(path, allow_pickle=False) as archive:
            for name in wanted:
                arrays[name] = archive[name]
                if not isinstance(arrays[name], np.ndarray):  # bytes, where it is no array
                    raise unreadable(path, _FORM)
    except BadInput:
        raise
    except _BROKEN:
        raise unreadable(path, f"{_FORM} of numbers and texts") from None
    lengths = {array.shape[0] if array.ndim else -1 for array in arrays.values()}
    if len(lengths) > 1 or -1 in lengths:
        raise BadInput(
            f"source {path}: its arrays are not equally long",
            field="path",
            value=str(path),
            allowed="one entry per row in every array",
        )
    return Table(arrays, lengths.pop() if lengths else 0)


def _refuse_bombs(path: Path, wanted: Sequence[str]) -> None:
    """Refuse an archive whose arrays are far larger unpacked than any machine holds."""
    with zipfile.ZipFile(path) as archive:
        size = sum(archive.getinfo(f"{name}.npy").file_size for name in wanted)
    if size > LARGEST:
        raise BadInput(
            f"source {path}: its arrays take {size / 2**30:.0f} GiB unpacked",
            field="path",
            value=str(path),
            allowed=f"at most {LARGEST // 2**30} GiB",
        )


def _path(source: NpzSource, separate_test: bool) -> Path:
    return existing(source.test if separate_test and source.test else source.path)
