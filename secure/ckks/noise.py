"""Bounds of the noise of single CKKS operations, from the parameters alone.

    >>> noise = Noise(8192, (68719230977, 268238849), 68719403009)
    >>> noise.rounding > noise.fresh
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
independent and uniform, and so are the digits of a key switch, up to what rotations of one
ciphertext share. Every other step is an inequality.

The secret is small in every slot because the client sees to it (`SECRET_SPREAD`). Two kinds of
event are excluded, each with probability at most 2^-64: that a combination of random parts passes
`TAIL` square roots of its proxy, and that an error of a key is large in a slot. There are fewer
than 2^24 of them in one answer and its keys, so all bounds hold except with probability 2^-40.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from secure.ckks.standard import ERROR_VARIANCE, SECRET_SPREAD, SECRET_VARIANCE

Reals = npt.NDArray[np.float64]

_LOG = 64 * math.log(2)
TAIL = math.sqrt(2 * (_LOG + math.log(2)))  # square roots of a proxy that a real part stays within


@dataclass(frozen=True)
class Noise:
    """Bounds in units of a ciphertext's integers; `level` counts the primes that are left."""

    ring: int
    primes: tuple[int, ...]
    special: int

    @property
    def fresh(self) -> float:
        """Proxy of a symmetric encryption: one error polynomial."""
        return ERROR_VARIANCE * self.ring / 2

    @property
    def rounding(self) -> float:
        """Proxy of r0 + r1 s: rounding both halves of a ciphertext (rescale, key switch)."""
        secret = SECRET_SPREAD * SECRET_VARIANCE * self.ring
        return (1 + secret) * self.ring / 24

    def switching(self, level: int) -> float:
        """Proxy of a key switch: centred digits times the errors of a key, over p; rounding.

        Rotations of one ciphertext share its digits, so this is a bound on any combination of them
        together: over the keys' errors, which are independent, the proxy is |A e|^2 with trace as
        many times `mean` as there are switches.
        """
        digits = sum((prime / self.special) ** 2 for prime in self.primes[:level])
        mean = ERROR_VARIANCE * self.ring
        # Hsu, Kakade and Zhang (2012), theorem 2.1, for any matrix A, except with exp(-_LOG).
        spread = 1 + 2 * math.sqrt(_LOG) + 2 * _LOG
        return digits * self.ring / 24 * mean * spread + self.rounding

    def switching_drift(self, level: int) -> Reals:
        """Drift of a key switch in every slot.

        SEAL's digits lie in [0, q), not around 0. The polynomial with all coefficients q / 2 has
        the value q / (1 - zeta) in a slot, large where zeta is near 1.
        """
        digits = sum(prime / self.special for prime in self.primes[:level])
        # |e(zeta)|^2 of a two-dimensional sub-Gaussian vector, by theorem 2.1 as above.
        largest = ERROR_VARIANCE * self.ring / 2 * (2 + 2 * math.sqrt(2 * _LOG) + 2 * _LOG)
        drift: Reals = digits * math.sqrt(largest) / near(self.ring)
        return drift


@cache
def near(ring: int) -> Reals:
    """Return |1 - zeta| for the root zeta of every slot: 3^slot is its exponent."""
    distances: Reals = np.abs(2 * np.sin(np.pi * _exponents(ring) / (2 * ring)))
    return distances


@cache
def _exponents(ring: int) -> npt.NDArray[np.int64]:
    return np.array([pow(3, slot, 2 * ring) for slot in range(ring // 2)])


def encoding_error(values: Reals, scale: float) -> tuple[npt.NDArray[np.complex128], Reals]:
    """Return what rounding to integers changes of periodic vectors [k, n] that are encoded.

    n is a power of two. A vector of period n fills the ring of degree 2n inside the larger one, so
    its error is computed there. Beside it, per vector, a bound on how far SEAL may be from that: a
    coefficient so close to a half that its floating point may round it the other way.
    """
    ring = 2 * values.shape[1]
    exponents = _exponents(ring)
    forward, mirrored = ((1 - exponents) // 2) % ring, ((1 + exponents) // 2) % ring
    spectrum = np.zeros((len(values), ring), dtype=np.complex128)
    spectrum[:, forward] = values
    spectrum[:, mirrored] = values
    twist = np.exp(1j * np.pi * np.arange(ring) / ring)
    coefficients = (np.fft.ifft(spectrum, axis=1) / twist).real * scale
    error = np.fft.fft((np.rint(coefficients) - coefficients) * twist, axis=1)[:, forward]
    return error / scale, ties(coefficients).sum(axis=1, keepdims=True) / scale


def ties(values: Reals) -> npt.NDArray[np.bool_]:
    """Say which numbers lie so near to a half that floating point may round them either way."""
    close: npt.NDArray[np.bool_] = np.abs(np.abs(values - np.floor(values)) - 0.5) < 1e-3
    return close
