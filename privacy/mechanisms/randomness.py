"""Where samples and noise come from: a key stream that only its silo can compute.

    >>> a = StepSource(b"0" * 32, "train", "job-1", 0, 3)
    >>> b = StepSource(b"0" * 32, "train", "job-1", 0, 3)
    >>> bool((a.normal(4) == b.normal(4)).all())
    True

The secret is drawn from the operating system when a job starts and destroyed when it settles; a
step's stream is ChaCha20 under a key derived from it by BLAKE2b and the step's context. So a
repeat of the same step after a crash gives the same bits, which is the same release, and nobody
without the secret can tell the stream from uniform bits. There is no seed.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy.special import ndtri


class StepSource:
    """The randomness of one step; calls consume the stream in order."""

    def __init__(self, secret: bytes, *context: str | int) -> None:
        if len(secret) < 32:
            raise ValueError("a secret has at least 32 bytes")
        label = b"".join(
            len(part).to_bytes(4, "big") + part for part in (str(c).encode() for c in context)
        )
        key = hashlib.blake2b(label, key=secret[:64], digest_size=32, person=b"tacit-step").digest()
        self._stream = Cipher(algorithms.ChaCha20(key, b"\0" * 16), mode=None).encryptor()

    def bits(self, n: int) -> npt.NDArray[np.uint64]:
        """Return n uniform 64-bit integers."""
        return np.frombuffer(self._stream.update(bytes(8 * n)), dtype="<u8")

    def uniform(self, n: int) -> npt.NDArray[np.float64]:
        """Return n uniform numbers in (0, 1), the midpoints of 2^52 equal cells.

        With one bit more the midpoints of the upper half would not be float64 numbers, and the
        last would round to one, whose Gaussian is infinite.
        """
        cells = (self.bits(n) >> np.uint64(12)).astype(np.float64) + 0.5
        return cells * 2.0**-52

    def normal(self, n: int) -> npt.NDArray[np.float64]:
        """Return n standard Gaussians, by inversion, float64.

        The grid and the rounding of floating point are not covered by the guarantee of a real
        Gaussian; docs/training.md says so.
        """
        drawn: npt.NDArray[np.float64] = ndtri(self.uniform(n))
        return drawn

    def bernoulli(self, n: int, rate: float) -> npt.NDArray[np.bool_]:
        """Return n coins that are true with probability `rate`, rounded down to 2^-64."""
        if rate >= 1:
            return np.ones(n, dtype=np.bool_)
        threshold = int(Fraction(rate) * 2**64)
        coins: npt.NDArray[np.bool_] = self.bits(n) < np.uint64(threshold)
        return coins

    def below(self, limit: int) -> int:
        """Return a uniform integer in [0, limit), exactly, by rejection."""
        size = (limit.bit_length() + 7) // 8
        mask = (1 << limit.bit_length()) - 1
        while True:
            drawn = int.from_bytes(self._stream.update(bytes(size)), "big") & mask
            if drawn < limit:
                return drawn
