"""Numbers modulo the two primes of a ciphertext, as arrays of 64-bit words.

The last but one axis of an array of residues is the prime (`parameters.DATA`), the last the
coefficient. Products stay below 2^63: a factor of 45 bits meets 15 bits at a time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from secure.aggregation.ckks.facts import WORD
from secure.aggregation.ckks.parameters import DATA, DEGREE
from secure.errors import BadMessage

Words = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

PRIME: Words = np.array(DATA, dtype=np.uint64)[:, None]
"""The primes, to be broadcast over coefficients."""

_LIMB = 15


def to_bytes(residues: Words) -> bytes:
    """Pack residues, six bytes each, little endian."""
    words = np.ascontiguousarray(residues, dtype="<u8")
    return words.view(np.uint8).reshape(-1, 8)[:, :WORD].tobytes()


def from_bytes(packed: bytes, *shape: int) -> Words:
    """Read residues of a shape, whose last two axes are prime and coefficient.

    Errors: `BadMessage` for another size, or a residue that is not below its prime.
    """
    count = int(np.prod(shape))
    if len(packed) != count * WORD:
        raise BadMessage("residues of another size", field="values", value=len(packed))
    words = np.zeros((count, 8), dtype=np.uint8)
    words[:, :WORD] = np.frombuffer(packed, dtype=np.uint8).reshape(-1, WORD)
    residues = words.view("<u8").reshape(shape).astype(np.uint64, copy=False)
    if bool((residues >= PRIME).any()):
        raise BadMessage("a residue that is not below its prime", field="values")
    return residues


def lift(values: Integers, shift: int) -> Words:
    """Return the residues of integers times 2^shift."""
    return np.stack([_scaled((values % p).astype(np.uint64), shift, p) for p in DATA])


def recombine(residues: Words, shift: int) -> tuple[Integers, npt.NDArray[np.float64]]:
    """Divide the integers of these residues by 2^shift; return the nearest integers and the rests.

    Integers are those of least absolute value (Garner's form of the Chinese remainders). Doubles
    carry what is below 2^40 in units of 2^shift with an error below 2^-10.
    """
    first, second = DATA
    less, more = residues[0], residues[1]
    apart = (more + np.uint64(second) - less % second) % second
    high = _times(apart, pow(first, -1, second), second).astype(np.int64)
    high[high > second // 2] -= second
    unit = 2.0**shift
    reals = high * (first / unit) + less / unit
    nearest = np.rint(reals)
    return nearest.astype(np.int64), reals - nearest


def flood(key: bytes, count: int, bits: int) -> Words:
    """Return the residues of `count` integers, uniform from -2^bits to 2^bits - 1.

    They come from the ChaCha20 key stream: a key is used for one flood only. `bits` is 32 to 94.
    """
    words = np.frombuffer(_stream(key, 16 * count), dtype="<u8").reshape(count, 2)
    low = words[:, 0] & np.uint64(0xFFFFFFFF)
    high = words[:, 1] & np.uint64((1 << (bits + 1 - 32)) - 1)
    least = [np.uint64(p - (1 << bits) % p) for p in DATA]
    return np.stack(
        [
            (_scaled(high % np.uint64(p), 32, p) + low + down) % np.uint64(p)
            for p, down in zip(DATA, least, strict=True)
        ]
    )


def ternary(key: bytes) -> Integers:
    """Return coefficients uniform over {-1, 0, 1}: a secret key, from a key of its own."""
    drawn = np.frombuffer(_stream(key, 2 * DEGREE), dtype=np.uint8)
    return (drawn[drawn < 255][:DEGREE] % 3).astype(np.int64) - 1


def _scaled(residues: Words, bits: int, prime: int) -> Words:
    """Return residues times 2^bits."""
    while bits > 0:
        step = min(bits, _LIMB)
        residues = (residues << np.uint64(step)) % np.uint64(prime)
        bits -= step
    return residues


def _times(residues: Words, factor: int, prime: int) -> Words:
    """Return residues times one factor below the prime."""
    total = np.zeros_like(residues)
    for at in (2 * _LIMB, _LIMB, 0):
        limb = np.uint64(factor >> at & ((1 << _LIMB) - 1))
        total = ((total << np.uint64(_LIMB)) + residues * limb) % np.uint64(prime)
    return total


def _stream(key: bytes, size: int) -> bytes:
    return Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(size))
