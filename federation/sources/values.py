"""One value at a time: as a category's text, as a number, or as the name of a person.

Every function here looks at the value and its column's type, never at another row: what one row
contains must not change how the rest is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.schema import canonical_text


def texts(column: NDArray[Any]) -> NDArray[np.object_]:
    """The canonical text of each value, None where there is none."""
    return _each(column, _text)


def identities(column: NDArray[Any]) -> NDArray[np.object_]:
    """Whose row each is, None where that cannot be told; see `identity`."""
    return _each(column, identity)


def numbers(column: NDArray[Any]) -> NDArray[np.float64]:
    """Each value as a number, NaN where it is none."""
    if column.dtype.kind in "biuf":
        with np.errstate(over="ignore"):
            return column.astype(np.float64)
    return np.array([_number(value) for value in column], dtype=np.float64)


def identity(value: object) -> str | None:
    """The name of a subject: exact, so that two people never become one.

    Text counts as it stands, without the space around it: "100", "0100" and "1e2" are three
    people. A number from a typed column is the same person in whichever type it is kept: 17,
    17.0 and Decimal("17.00") are "17"; one with a fraction is written as its type writes it.
    None, an empty text and NaN are nobody, and so is a float too large for its type to tell from
    its neighbour (2^53 and above in 64 bits): two people may stand behind it.
    """
    if value is None or isinstance(value, str):
        text = (value or "").strip()
        return None if not text or text.lower() == "nan" else text
    if isinstance(value, bytes | bytearray | memoryview):
        return identity(bytes(value).decode("utf-8", "surrogateescape"))
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return _digits(int(value))
    if isinstance(value, float | np.floating):
        return _float_identity(value)
    if isinstance(value, Decimal):
        return _decimal_identity(value)
    if isinstance(value, np.datetime64 | np.timedelta64) and np.isnat(value):
        return None
    return identity(str(value))


def _float_identity(value: float | np.floating[Any]) -> str | None:
    if math.isnan(value):
        return None
    exact = 2 ** (np.finfo(type(value)).nmant + 1)
    if abs(value) >= exact:  # infinity as well
        return None
    return str(int(value)) if value == int(value) else str(value)


def _decimal_identity(value: Decimal) -> str | None:
    if not value.is_finite():
        return None
    if value.adjusted() > 1000 or value.adjusted() < -1000:
        return str(value)
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _digits(value: int) -> str | None:
    try:
        return str(value)
    except ValueError:  # of more digits than Python writes
        return None


def _text(value: object) -> str | None:
    if isinstance(value, np.datetime64 | np.timedelta64) and np.isnat(value):
        return None
    return canonical_text(value)


def _each(column: NDArray[Any], written: Callable[[object], str | None]) -> NDArray[np.object_]:
    if column.dtype.kind in "biu":
        unique, where = np.unique(column, return_inverse=True)
        found = np.empty(len(unique), dtype=object)
        found[:] = [written(value) for value in unique]
        return found[where.reshape(-1)]
    seen: dict[str, str | None] = {}  # most columns of text repeat a few texts
    found = np.empty(len(column), dtype=object)
    for row, value in enumerate(column):
        if type(value) is not str:
            found[row] = written(value)
            continue
        if value not in seen:
            seen[value] = written(value)
        found[row] = seen[value]
    return found


def _number(value: object) -> float:
    if type(value) is str:
        try:
            return float(value)
        except ValueError:
            pass  # not a plain number: perhaps a truth value
    if isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    text = canonical_text(value)
    if text is None:
        return float("nan")
    if text in ("true", "false"):
        return float(text == "true")
    try:
        return float(text)
    except (ValueError, OverflowError):
        return float("nan")
