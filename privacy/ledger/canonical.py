"""Canonical bytes: RFC 8785 JSON, and the hashes and signatures over it.

Every hash is taken over a domain, a zero byte and the canonical text, so that no text of one use
can stand in for one of another.
"""

from __future__ import annotations

import hashlib
import json
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

    What has none (NaN, an infinity, an integer above 2^53 - 1) is an `InvalidRequest`.
    """
    try:
        return rfc8785.dumps(value).decode()
    except (rfc8785.CanonicalizationError, UnicodeError) as error:
        raise InvalidRequest(f"not canonical JSON: {error}", field="request") from None


def decode(text: str) -> Any:
    """Parse a stored text; integers stay integers."""
    return json.loads(text)


def digest(domain: bytes, text: str) -> str:
    """Return the SHA-256 digest of `text` within `domain`, in hexadecimal digits."""
    return hashlib.sha256(domain + b"\0" + text.encode()).hexdigest()


def statement(domain: bytes, hash_: str) -> bytes:
    """Return the bytes that a signature covers."""
    return domain + b"\0" + bytes.fromhex(hash_)


def sha256(value: Any) -> str:
    """Return the SHA-256 digest of a value's canonical text, in hexadecimal digits."""
    return hashlib.sha256(encode(value).encode()).hexdigest()
