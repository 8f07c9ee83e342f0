"""Canonical bytes: RFC 8785 JSON, and the hashes and signatures over it.

Every hash is taken over a domain, a zero byte and the canonical text, so that no text of one use
can stand in for one of another.
"""

from __future__ import annotations

import hashlib
import json
from json.encoder import encode_basestring as _quoted
from typing import Any

import rfc8785

from privacy.errors import InvalidRequest

MAX = 2**53 - 1
"""The largest integer that RFC 8785 writes exactly."""

ENTRY = b"tacit ledger entry 1"
GENESIS = b"tacit ledger genesis 1"
CHECKPOINT = b"tacit ledger checkpoint 1"


def encode(value: Any) -> str:
    """Return the canonical text.

    What has none (NaN, an infinity, an integer above 2^53 - 1) is an `InvalidRequest`, and so is
    a float that would be written as such an integer, and read back as one.
    """
    try:
        return _text(value)
    except (rfc8785.CanonicalizationError, UnicodeError, ValueError) as error:
        raise InvalidRequest(f"not canonical JSON: {error}", field="request") from None


def _text(value: Any) -> str:
    """What `rfc8785` writes, four times faster for the plain values that entries are made of."""
    kind = type(value)
    if kind is str and value.isascii():
        return _quoted(value)
    if kind is int and -MAX <= value <= MAX:
        return repr(value)
    if value is None:
        return "null"
    if kind is dict and all(type(key) is str and key.isascii() for key in value):
        inside = [f"{_quoted(key)}:{_text(value[key])}" for key in sorted(value)]
        return "{" + ",".join(inside) + "}"
    if kind is list or kind is tuple:
        return "[" + ",".join([_text(item) for item in value]) + "]"
    if kind is float and value.is_integer() and MAX < abs(value) < 1e21:
        raise ValueError(f"{value!r} would be read back as an integer above 2^53 - 1")
    return rfc8785.dumps(value).decode()


def decode(text: str) -> Any:
    """Parse a stored text; integers stay integers."""
    return json.loads(text)


def digest(domain: bytes, text: str) -> str:
    """Return the SHA-256 digest of `text` within `domain`, in hexadecimal digits."""
    return hashlib.sha256(domain + b"\0" + text.encode()).hexdigest()


def unhex(text: str) -> bytes:
    """Read hexadecimal digits as they are written here: lower case, no blanks; else `ValueError`.

    Any other spelling of the same bytes is a changed text.
    """
    read = bytes.fromhex(text)
    if read.hex() != text:
        raise ValueError("not in lower-case hexadecimal digits")
    return read


def statement(domain: bytes, hash_: str) -> bytes:
    """Return the bytes that a signature covers."""
    return domain + b"\0" + unhex(hash_)


def sha256(value: Any) -> str:
    """Return the SHA-256 digest of a value's canonical text, in hexadecimal digits."""
    return hashlib.sha256(encode(value).encode()).hexdigest()
