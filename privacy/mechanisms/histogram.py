"""Counts under integer noise: the discrete Gaussian, sampled exactly.

Canonne, Kamath, Steinke (2020), Algorithms 1 to 3. All arithmetic is on integers from the
cryptographic source, so nothing is lost to floating point: the guarantee is that of the sampler.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from privacy.mechanisms.randomness import StepSource

Counts = npt.NDArray[np.int64]


def noisy_histogram(counts: Counts, sigma: float, source: StepSource) -> Counts:
    """Add discrete Gaussian noise of parameter sigma to every count; they may become negative.

    One unit is in at most one cell. The cost is `DiscreteGaussian(sigma)`.
    """
    noise = [discrete_gaussian(sigma, source) for _ in range(counts.size)]
    return counts + np.asarray(noise, dtype=np.int64).reshape(counts.shape)


def discrete_gaussian(sigma: float, source: StepSource) -> int:
    """Draw an integer with probability proportional to exp(-x^2 / (2 sigma^2))."""
    variance = Fraction(sigma) ** 2
    scale = math.floor(sigma) + 1
    while True:
        drawn = _discrete_laplace(scale, source)
        distance = abs(drawn) - variance / scale
        if _bernoulli_exp(distance**2 / (2 * variance), source):
            return drawn


def _discrete_laplace(scale: int, source: StepSource) -> int:
    while True:
        low = source.below(scale)
        if not _bernoulli_exp(Fraction(low, scale), source):
            continue
        high = 0
        while _bernoulli_exp(Fraction(1), source):
            high += 1
        magnitude = low + scale * high
        negative = source.below(2) == 1
        if not (negative and magnitude == 0):
            return -magnitude if negative else magnitude


def _bernoulli_exp(gamma: Fraction, source: StepSource) -> bool:
    """Flip a coin that is true with probability exp(-gamma), gamma >= 0."""
    while gamma > 1:
        if not _bernoulli_exp(Fraction(1), source):
            return False
        gamma -= 1
    k = 1
    while source.below(gamma.denominator * k) < gamma.numerator:
        k += 1
    return k % 2 == 1
