"""Cut public example rows into silos of unequal size whose labels are skewed.

    >>> parts = cut(np.repeat([0, 1], 50), silos=4)
    >>> [len(p) for p in parts]
    [38, 30, 22, 10]

Silo i of S takes a share of class c of C in proportion to its size, falling from 1.6 to 0.4 of
the mean, times 1 + 0.6 cos(2 pi (i/S - c/C)): neighbouring silos see like mixtures, opposite ones
see opposite mixtures. Which rows, is by hash of their number, so that every machine agrees.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

TEST_EVERY = 4


def cut(labels: NDArray[np.int64], silos: int) -> list[NDArray[np.int64]]:
    """The numbers of each silo's rows; every row goes to exactly one silo."""
    classes = int(labels.max()) + 1
    parts: list[list[int]] = [[] for _ in range(silos)]
    for c in range(classes):
        rows = sorted(np.flatnonzero(labels == c).tolist(), key=_order)
        shares = [_size(i, silos) * _tilt(i / silos - c / classes) for i in range(silos)]
        ends = [round(len(rows) * sum(shares[: i + 1]) / sum(shares)) for i in range(silos)]
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            parts[i] += rows[start:end]
    return [np.array(sorted(part, key=_order), dtype=np.int64) for part in parts]


def parts_of(rows: int) -> NDArray[np.str_]:
    """Which part each of a silo's rows is in: one of four is for the test."""
    return np.array(["test" if row % TEST_EVERY == 1 else "train" for row in range(rows)])


def round_size(rows: int) -> int:
    """A round number near `rows`, for a size that is declared in public."""
    step = 10 if rows >= 50 else 5
    return max(step, step * round(rows / step))


def _size(silo: int, silos: int) -> float:
    return 1.6 - 1.2 * silo / (silos - 1) if silos > 1 else 1.0


def _tilt(turn: float) -> float:
    return 1 + 0.6 * math.cos(2 * math.pi * turn)


def _order(row: int) -> bytes:
    return hashlib.blake2b(row.to_bytes(8, "big"), digest_size=8).digest()
