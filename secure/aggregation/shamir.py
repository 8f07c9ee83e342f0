"""Shamir's t-of-n secret sharing of 32-byte secrets.

    >>> shares = split(bytes(32), 2, 3)
    >>> combine({1: shares[0], 3: shares[2]}) == bytes(32)
    True

The field is that of the integers modulo p = 2^256 + 297, the least prime above 2^256, so that
every 32-byte string is an element. Any t shares give the secret; any t - 1 are consistent with
every secret, and equally so. Source: Shamir, "How to share a secret", CACM 22 (1979).
Python's integers do not run in constant time; only the owner of the secrets runs `split`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from secure.errors import BadMessage, BadParameters

PRIME = (1 << 256) + 297
"""The order of the field."""

SHARE = 33
"""The size of a share in bytes, big endian."""


def split(secret: bytes, threshold: int, silos: int) -> list[bytes]:
    """Share a 32-byte secret: share i (from 0) is the polynomial's value at i + 1.

    Privacy: fewer than `threshold` shares tell nothing about the secret. The coefficients come
    from the operating system's generator. Errors: `BadParameters`.
    """
    if len(secret) != 32 or not 1 <= threshold <= silos:
        raise BadParameters("a secret has 32 bytes and a threshold from 1 to the number of silos")
    random = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    polynomial = [int.from_bytes(secret, "big"), *random]
    return [_value(polynomial, at).to_bytes(SHARE, "big") for at in range(1, silos + 1)]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret of which these are shares, by place (from 1).

    Exactly `threshold` shares are wanted; more are used too, fewer give an unrelated value.
    Errors: `BadMessage` for a share of wrong size or outside the field, and where the value at
    zero is no 32-byte secret, which honest shares never give.
    """
    points = list(shares)
    weights = lagrange(points)
    total = sum(w * element(shares[at]) for at, w in zip(points, weights, strict=True)) % PRIME
    if total >> 256:
        raise BadMessage("the shares do not combine to a secret", field="share")
    return total.to_bytes(32, "big")


def lagrange(points: Sequence[int]) -> list[int]:
    """Return what each point's value counts for at zero: the product of x_j / (x_j - x_i)."""
    weights = []
    for at in points:
        above, below = 1, 1
        for other in points:
            if other != at:
                above = above * other % PRIME
                below = below * (other - at) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return weights


def element(share: bytes) -> int:
    """Return the field element of a share; `BadMessage` where it is none."""
    value = int.from_bytes(share, "big")
    if len(share) != SHARE or value >= PRIME:
        raise BadMessage("a share is not an element of the field", field="share")
    return value


def _value(polynomial: Sequence[int], at: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * at + coefficient) % PRIME
    return value
