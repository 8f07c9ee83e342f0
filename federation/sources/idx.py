"""IDX files, the format of MNIST: unsigned bytes, a big-endian header, gzip or not.

    magic 00 00 TYPE NDIM | NDIM sizes of four bytes | the values

LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.errors import BadInput
from federation.settings import IdxSource
from federation.sources.table import Table, existing, unreadable

_TYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_COLUMNS = ("image", "label")


def has_test(source: IdxSource) -> bool:
    """Whether the source names a separate test pair."""
    return source.test_images is not None


def columns(source: IdxSource, *, separate_test: bool) -> tuple[str, ...]:
    """`image` and `label`, if both files are there."""
    for path in _paths(source, separate_test):
        existing(path)
    return _COLUMNS


def read(source: IdxSource, wanted: Sequence[str], *, separate_test: bool) -> Table:
    """Read images [rows, height, width] and labels [rows], which must be equally many."""
    paths = _paths(source, separate_test)
    images, labels = (read_idx(existing(path)) for path in paths)
    if len(images) != len(labels) or labels.ndim != 1:
        raise BadInput(
            f"source {paths[0]}: its images and the labels of {paths[1]} do not pair up",
            field="labels",
            value=str(paths[1]),
            allowed="one label per image",
        )
    arrays = dict(zip(_COLUMNS, (images, labels), strict=True))
    return Table({name: arrays[name] for name in wanted}, len(labels))


def read_idx(path: Path) -> NDArray[Any]:
    """Read one IDX file; one that is cut short or of another format raises `BadInput`."""
    data = path.read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        zero, kind, dimensions = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{dimensions}I", data, 4)
        values = np.frombuffer(data, dtype=_TYPES[kind], offset=4 + 4 * dimensions)
        if zero or not dimensions:
            raise ValueError
        native: NDArray[Any] = values.reshape(shape).astype(_TYPES[kind].newbyteorder("="))
        return native
    except (ValueError, KeyError, struct.error, OSError, EOFError, zlib.error, MemoryError):
        raise unreadable(path, "IDX") from None


def _paths(source: IdxSource, separate_test: bool) -> tuple[Path, Path]:
    if separate_test and source.test_images and source.test_labels:
        return source.test_images, source.test_labels
    return source.images, source.labels
