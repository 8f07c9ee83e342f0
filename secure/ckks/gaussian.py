"""An exact discrete Gaussian over the integers, from the operating system's generator.

Floating-point samplers reach only some integers, and which ones tells what the noise was added to;
this one is integer arithmetic throughout. Canonne, Kamath and Steinke, "The Discrete Gaussian for
Differential Privacy" (NeurIPS 2020), algorithms 1 to 3.
"""

from __future__ import annotations

from fractions import Fraction
from secrets import randbelow


def discrete_gaussian(deviation: int) -> int:
    """Draw an integer x with probability proportional to exp(-x^2 / (2 deviation^2))."""
    scale = deviation + 1
    while True:
        drawn = _laplace(scale)
        # exp(-(|x| - deviation^2 / scale)^2 / (2 deviation^2))
        distance = abs(drawn) * scale - deviation**2
        if _with_chance_exp(Fraction(distance**2, 2 * deviation**2 * scale**2)):
            return drawn


def _laplace(scale: int) -> int:
    while True:
        low = randbelow(scale)
        if not _with_chance_exp(Fraction(low, scale)):
            continue
        high = 0
        while _with_chance_exp(Fraction(1)):
            high += 1
        size, negative = low + scale * high, randbelow(2) == 1
        if not (negative and size == 0):
            return -size if negative else size


def _with_chance_exp(exponent: Fraction) -> bool:
    """Return True with probability exp(-exponent)."""
    while exponent > 1:
        if not _with_chance_exp(Fraction(1)):
            return False
        exponent -= 1
    count = 1
    while randbelow(count * exponent.denominator) < exponent.numerator:
        count += 1
    return count % 2 == 1
