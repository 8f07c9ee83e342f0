"""Secret numbers out of one seed: a ChaCha20 key stream for each label.

    >>> a, b = Stream(b"0" * 32, "layers", 0), Stream(b"0" * 32, "layers", 0)
    >>> bool((a.permutation(5) == b.permutation(5)).all())
    True

The key of a stream is HKDF-SHA256 (RFC 5869) of the seed under the label, so streams of different
labels tell nothing about one another. No generator with a small seed is used anywhere.
"""

from __future__ import annotations

import math

import msgpack
import numpy as np
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray
from torch import Tensor


def derive(secret: bytes, *label: str | int) -> bytes:
    """Return the 32-byte key of a label."""
    info: bytes = msgpack.packb(["tacit equivariant 1", *label])
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret)


class Stream:
    """The secret numbers of one label; calls consume the stream in order."""

    def __init__(self, secret: bytes, *label: str | int) -> None:
        key = derive(secret, *label)
        self._stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def bits(self, n: int) -> NDArray[np.uint64]:
        """Return n uniform 64-bit integers."""
        return np.frombuffer(self._stream.update(bytes(8 * n)), dtype="<u8")

    def uniform(self, n: int) -> Tensor:
        """Return n uniform numbers in (0, 1), float64."""
        cells = (self.bits(n) >> np.uint64(12)).astype(np.float64) + 0.5
        return torch.from_numpy(cells * 2.0**-52)

    def normal(self, n: int) -> Tensor:
        """Return n standard Gaussians by the method of Box and Muller, float64."""
        half = (n + 1) // 2
        radius = (-2 * self.uniform(half).log()).sqrt()
        angle = 2 * math.pi * self.uniform(half)
        return torch.cat([radius * angle.cos(), radius * angle.sin()])[:n]

    def permutation(self, n: int) -> Tensor:
        """Return a permutation of n, int64: the order of n random words.

        Two of the words are equal with probability below n^2 / 2^65, the only bias.
        """
        return torch.from_numpy(np.argsort(self.bits(n), kind="stable").astype(np.int64))

    def signs(self, n: int) -> Tensor:
        """Return n signs, float64."""
        return torch.from_numpy(1.0 - 2.0 * (self.bits(n) >> np.uint64(63)).astype(np.float64))

    def scales(self, n: int) -> Tensor:
        """Return n scales in (1/2, 2), uniform in the logarithm, float64."""
        return torch.exp2(2 * self.uniform(n) - 1)

    def orthogonal(self, n: int) -> Tensor:
        """Return an orthogonal matrix [n, n] from Haar's measure, float64.

        QR of a Gaussian matrix with the signs of R's diagonal taken out (Mezzadri, "How to
        generate random matrices from the classical compact groups", 2007, section 5).
        """
        q, r = torch.linalg.qr(self.normal(n * n).reshape(n, n))
        turned: Tensor = q * torch.sign(torch.diagonal(r))
        return turned
