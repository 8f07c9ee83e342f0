"""Hashes of this package: SHA-256 within a domain, over one encoding.

Every hash covers a domain, a zero byte and a msgpack list, so that none of one use can stand in for
one of another and no two lists run into the same bytes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from secure.errors import BadParameters

Array = npt.NDArray[Any]

NUMBERS = "biuf"
"""Kinds of arrays that are hashed: booleans, integers, floats."""


def digest(domain: bytes, *parts: Any) -> bytes:
    """Return the SHA-256 digest of the parts (text, bytes, integers, lists) within the domain."""
    return hashlib.sha256(domain + b"\0" + msgpack.packb(parts)).digest()


def array_digest(array: Array) -> bytes:
    """Return the digest of an array's type, shape and values.

    Values count as bits: -0.0 and 0.0 differ. Byte order and layout in memory do not count.
    Errors: `BadParameters` for anything but numbers.
    """
    if array.dtype.kind not in NUMBERS:
        raise BadParameters(
            f"an array of {array.dtype} has no digest",
            field="dtype",
            value=str(array.dtype),
            allowed="booleans, integers, floats",
        )
    plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    inside = hashlib.sha256(plain.tobytes()).digest()
    return digest(b"tacit array 1", plain.dtype.str, list(array.shape), inside)


def unhex(text: object, size: int) -> bytes:
    """Read `size` bytes from lower-case hexadecimal digits; anything else is a `ValueError`."""
    if not isinstance(text, str):
        raise ValueError("not text")
    read = bytes.fromhex(text)
    if read.hex() != text or len(read) != size:
        raise ValueError(f"not {2 * size} lower-case hexadecimal digits")
    return read
