"""Bounds of the noise of single CKKS operations, from the parameters alone.

    >>> noise = Noise(8192, (68719230977, 268238849), 68719403009)
    >>> noise.tail > 8
    True

A ciphertext decrypts to a polynomial m + e. A bound is held for the value of e in a slot, the
value e(zeta) at a root of X^N + 1; the real part is what is decoded. Each noise is split in two:

- a random part, sub-Gaussian: E exp(<u, e>) <= exp(v |u|^2 / 2) for every real u over slots, of
  the real parts and of the imaginary parts alike, with **proxy** v. For coefficients that are
  independent, centred and strictly sub-Gaussian with variance r (uniform, ternary, binomial), the
  embedding is an isometry up to sqrt(N), and v = r N / 2;
- a part that is bounded in the worst case, **drift**, per slot.

Assumed, as everywhere in the analysis of CKKS (Cheon et al., ASIACRYPT 2017, section 3; Costache
et al., ePrint 2022/162): given the past, the residues of a ciphertext modulo its primes are
independent and uniform, since it looks random by ring learning with errors. So rounding errors are
independent and uniform, and so are the digits of a key switch. Every other step is an inequality.

Three kinds of event are excluded, each with probability at most 2^-64: that a combination of
random parts passes `tail` proxies, and that the secret or an error of a key is large in a slot.
There are fewer than 2^24 of them in one answer and its keys, so all bounds hold except with
probability 2^-40.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secure.ckks.standard import ERROR_VARIANCE, SECRET_VARIANCE

Reals = npt.NDArray[np.float64]

_LOG = 64 * math.log(2)


@dataclass(frozen=True)
class Noise:
    """Bounds in units of a ciphertext's integers; `level` counts the primes that are left."""

    ring: int
    primes: tuple[int, ...]
    special: int

    @property
    def tail(self) -> float:
        """Standard deviations (square roots of a proxy) that a real part stays within."""
        return math.sqrt(2 * (_LOG + math.log(2)))

    @property
    def fresh(self) -> float:
        """Proxy of a symmetric encryption: one error polynomial."""
        return ERROR_VARIANCE * self.ring / 2

    @property
    def rounding(self) -> float:
        """Proxy of r0 + r1 s: rounding both halves of a ciphertext (rescale, key switch)."""
        return (1 + self._largest(SECRET_VARIANCE)) * self.ring / 24

    def switching(self, level: int) -> float:
        """Proxy of a key switch: centred digits times the errors of a key, over p; rounding."""
        digits = sum((prime / self.special) ** 2 for prime in self.primes[:level])
        return digits * self.ring / 24 * self._largest(ERROR_VARIANCE) + self.rounding

    def switching_drift(self, level: int, slots: int) -> Reals:
        """Drift of a key switch in the first `slots` slots.

        SEAL's digits lie in [0, q), not around 0. The polynomial with all coefficients q / 2 has
        the value q / (1 - zeta) in a slot, large where zeta is near 1.
        """
        digits = sum(prime / self.special for prime in self.primes[:level])
        exponents = np.array([pow(3, slot, 2 * self.ring) for slot in range(slots)])
        near = np.abs(2 * np.sin(np.pi * exponents / (2 * self.ring)))
        drift: Reals = digits * math.sqrt(self._largest(ERROR_VARIANCE)) / near
        return drift

    def _largest(self, variance: float) -> float:
        """Bound |z(zeta)|^2 for a polynomial with coefficients of this variance, in every slot.

        A two-dimensional sub-Gaussian vector of proxy v: |z|^2 <= v (2 + 2 sqrt(2 t) + 2 t) except
        with probability exp(-t) (Hsu, Kakade and Zhang, 2012, theorem 2.1).
        """
        return variance * self.ring / 2 * (2 + 2 * math.sqrt(2 * _LOG) + 2 * _LOG)


def encoding_error(values: Reals, scale: float) -> Reals:
    """Bound what rounding to integers changes of periodic vectors [k, n] that are encoded.

    n is a power of two. A vector of period n fills the ring of degree 2n inside the larger one, so
    its error is computed there. A coefficient so close to a half that SEAL's own floating point
    may round it the other way counts as an error of a whole unit more.
    """
    count, slots = values.shape
    ring = 2 * slots
    exponents = np.array([pow(3, slot, 2 * ring) for slot in range(slots)])
    forward, mirrored = ((1 - exponents) // 2) % ring, ((1 + exponents) // 2) % ring
    spectrum = np.zeros((count, ring), dtype=np.complex128)
    spectrum[:, forward] = values
    spectrum[:, mirrored] = values
    twist = np.exp(1j * np.pi * np.arange(ring) / ring)
    coefficients = (np.fft.ifft(spectrum, axis=1) / twist).real * scale
    rounded = np.rint(coefficients)
    near = np.abs(np.abs(coefficients - np.floor(coefficients)) - 0.5) < 1e-3
    error = np.fft.fft((rounded - coefficients) * twist, axis=1)[:, forward]
    bound: Reals = (np.abs(error) + near.sum(axis=1, keepdims=True)) / scale
    return bound
