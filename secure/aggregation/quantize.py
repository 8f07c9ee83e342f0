"""Fixed point: real vectors to integers that can be summed exactly, and back.

    >>> import numpy as np
    >>> quantizer = Quantizer(range=8.0, levels=1 << 22)
    >>> quantized = quantizer.quantize(np.array([0.5, -9.0]))
    >>> quantized.clipped
    1
    >>> bool(abs(quantizer.dequantize(quantized.values)[0] - 0.5) <= quantizer.max_error(1))
    True

Weights are public and normalised, and a silo applies its own before it quantizes. So a value is
clipped to the same range at every silo, and the weighted sum stays within it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secure.errors import BadParameters

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quantized:
    """A silo's integers, and how many of its values were clipped.

    Privacy: both depend on the silo's rows. `clipped` is for the silo alone; no message holds it.
    """

    values: Integers = field(repr=False)
    clipped: int = field(repr=False)


@dataclass(frozen=True)
class Quantizer:
    """Symmetric fixed point with `levels` levels over [-`range`, `range`].

    Zero is a level, so an even number of levels leaves one unused. A value goes to the nearest
    level, a tie to the even one.
    Privacy: both numbers are public and agreed beforehand; a range taken from the rows would tell.
    Errors: `BadParameters` for a range that is not positive and finite, or levels outside
    3 to 2^52, up to which a double holds every level exactly.
    """

    range: float
    levels: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.range) and 1e-100 < self.range < 1e100):
            raise _wrong("range", self.range, "a positive number, 1e-100 to 1e100")
        if type(self.levels) is not int or not 3 <= self.levels <= 1 << 52:
            raise _wrong("levels", self.levels, "3 to 2^52")

    @property
    def bound(self) -> int:
        """The largest integer that a value can become: the `bound` of a round."""
        return (self.levels - 1) // 2

    @property
    def step(self) -> float:
        """The distance between two levels."""
        return self.range / self.bound

    def quantize(self, values: npt.ArrayLike, *, weight: float = 1.0) -> Quantized:
        """Clip to the range, multiply by the weight, round to the nearest level.

        Shapes: any shape in, the same out. `weight` is the silo's public, normalised weight.
        Privacy: the integers are as private as the values.
        Errors: `BadParameters` for a value that is not finite or a weight outside [0, 1]; the
        message names no value.
        """
        if not 0.0 <= weight <= 1.0:
            raise _wrong("weight", weight, "a normalised weight, 0 to 1")
        reals: Reals = np.array(values, dtype=np.float64)
        # One NaN makes both extremes NaN, and an infinity is an extreme.
        low, high = (float(reals.min()), float(reals.max())) if reals.size else (0.0, 0.0)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise BadParameters("an update holds values that are not finite", field="values")
        clipped = 0
        if low < -self.range or high > self.range:
            clipped = int(np.count_nonzero(np.abs(reals) > self.range))
            np.clip(reals, -self.range, self.range, out=reals)
        reals *= weight * (self.bound / self.range)
        # Doubles may carry the product past the last level, by no more than bound * 2^-52 and so
        # by less than a half: rounding brings it back.
        np.rint(reals, out=reals)
        return Quantized(reals.astype(np.int64), clipped)

    def dequantize(self, total: Integers) -> Reals:
        """Return the sum of reals that a sum of integers stands for."""
        return total.astype(np.float64) * self.step

    def max_error(self, silos: int) -> float:
        """Bound the error of a de-quantized sum of `silos` vectors, in the unit of the values.

        The error is against the exact sum of the clipped, weighted values. Rounding to a level
        costs at most half a step per silo. The rest is double arithmetic, whose unit is
        u = 2^-53: scaling has three roundings (weight, bound / range, their product's use) of
        numbers no larger than the range, and de-quantizing three (the integer, the step, the
        product) of a sum no larger than `silos` ranges. Six u per silo and range are rounded
        up to eight, which covers the products of errors.
        """
        return silos * (self.step / 2 + self.range * 2.0**-50)


def check_sum(silos: int, bound: int, bits: int) -> None:
    """Refuse a sum that could wrap: silos * bound must be below half of 2^bits."""
    if bits not in (32, 64):
        raise _wrong("bits", bits, "32 or 64")
    modulus = 1 << bits
    if silos * bound >= modulus // 2:
        raise BadParameters(
            f"{silos} silos with values up to {bound} can reach {silos * bound}, "
            f"and modulo 2^{bits} sums must stay below {modulus // 2}; "
            "take fewer levels or 64 bits",
            field="bound",
            value=silos * bound,
            allowed=f"below {modulus // 2}",
        )


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """Return the public weights divided by their sum.

    Over the survivors of a round the weighted sum is divided by the sum of their normalised
    weights. Errors: `BadParameters` where a weight is negative or not finite, or all are zero.
    """
    if any(not (math.isfinite(weight) and weight >= 0) for weight in weights.values()):
        raise BadParameters("a weight is negative or not finite", field="weights")
    total = sum(weights.values())
    if not 0 < total < math.inf:
        raise BadParameters("the weights have no positive, finite sum", field="weights")
    return {name: weight / total for name, weight in weights.items()}


def _wrong(name: str, value: object, allowed: str) -> BadParameters:
    return BadParameters(
        f"{name} of a quantizer: {value!r} is not {allowed}",
        field=name,
        value=value,
        allowed=allowed,
    )
