"""A sum under noise that no party knows: every silo adds a share, and only the sum is opened.

    plan = SkellamPlan.of(noise_multiplier=1.0, clip=1.0, dimension=31, silos=3, colluding=1)
    part = noisy_integers(clipped_sum, plan, source)       # a silo's; the sum of these is opened
    total = to_reals(sum_of_parts, plan)

A silo scales its sum of clipped vectors by a power of two, rounds it to integers, and adds Skellam
noise of variance `share` to every coordinate. Sums of Skellam numbers are Skellam, so what
`honest` silos added together is Skellam noise of `honest * share`, whatever the others did. All
is integer arithmetic from there to the opened sum, and the sampler is exact.

What is protected is the sum, if nobody sees a part of it: a part alone carries `own_event`, which
is little. So this needs an aggregation that opens sums of at least `silos` parts and nothing else
(`secure.aggregation`), parts that are never clipped or rounded after their noise, and no second
sum of the same parts over another list of silos. The rule and its proof: docs/accounting.md.
Source: Agarwal, Kairouz, Liu (2021); rounding and shares as derived there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from privacy.errors import InvalidEvent
from privacy.events import Skellam
from privacy.mechanisms.poisson import poisson
from privacy.mechanisms.randomness import StepSource

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

LARGEST_SHARE = 1 << 32
"""Largest variance of one silo's noise, in squared steps of the grid.

It bounds the sampler's table: a million entries, made once in two seconds.
"""

FINEST = 256
"""How many times sqrt(dimension) a clip is in steps, if the largest share allows.

Rounding then raises the sensitivity by at most 0.4 %.
"""

LARGEST_DIMENSION = 1 << 26


@dataclass(frozen=True, kw_only=True)
class SkellamPlan:
    """What every silo of a sum knows about it, all public.

    `clip`: most that one unit moves a silo's sum in L2, as computed. `dimension`: coordinates.
    `exponent`: a step of the grid is 2^-exponent. `share`: variance of one silo's noise on a
    coordinate, in squared steps. `honest`: how many shares are, at least, in every sum that is
    opened and known to nobody who sees it.
    Raises `InvalidEvent` for numbers that make no sense.
    """

    clip: float
    dimension: int
    exponent: int
    share: int
    honest: int

    def __post_init__(self) -> None:
        rules = (
            ("clip", self.clip, 1e-100 < self.clip < 1e100, "1e-100 to 1e100"),
            (
                "dimension",
                self.dimension,
                1 <= self.dimension <= LARGEST_DIMENSION,
                f"1 to {LARGEST_DIMENSION}",
            ),
            ("exponent", self.exponent, -512 <= self.exponent <= 512, "-512 to 512"),
            ("share", self.share, 1 <= self.share <= LARGEST_SHARE, f"1 to {LARGEST_SHARE}"),
            ("honest", self.honest, self.honest >= 1, ">= 1"),
        )
        for field, value, holds, allowed in rules:
            if not holds:
                raise InvalidEvent(
                    f"{field}: {value:g} is not {allowed}",
                    field=field,
                    value=value,
                    allowed=allowed,
                )

    @classmethod
    def of(
        cls, *, noise_multiplier: float, clip: float, dimension: int, silos: int, colluding: int
    ) -> SkellamPlan:
        """Return the plan whose noise is at least `noise_multiplier * clip`, in the worst case.

        `silos`: the least number whose sum is ever opened. `colluding`: how many of them may tell
        others what they added; a silo that sees the sum knows its own share, so at least one.
        The grid is as fine as the largest share allows, up to `FINEST`.
        """
        if not 1 <= colluding < silos:
            raise InvalidEvent(
                f"colluding: {colluding} of {silos} silos; each silo that sees a sum knows its own "
                "noise, and one share at least has to be known to nobody",
                field="colluding",
                value=colluding,
                allowed=f"1 to {silos - 1}",
            )
        for field, value in (("noise_multiplier", noise_multiplier), ("clip", clip)):
            if not 1e-100 < value < 1e100:
                raise InvalidEvent(
                    f"{field}: {value:g} is not 1e-100 to 1e100",
                    field=field,
                    value=value,
                    allowed="1e-100 to 1e100",
                )
        honest = silos - colluding
        # All silos have to come to the same grid: in fractions, as no two machines round alike.
        steps = Fraction(FINEST**2 * dimension) / Fraction(clip) ** 2
        exponent = (steps.numerator.bit_length() - steps.denominator.bit_length()) // 2 - 1
        while _power(2 * exponent) < steps:
            exponent += 1
        variance = (Fraction(noise_multiplier) * Fraction(clip)) ** 2 / honest
        share = math.ceil(variance * _power(2 * exponent))
        while share > LARGEST_SHARE:
            exponent -= 1
            share = math.ceil(variance * _power(2 * exponent))
        return cls(clip=clip, dimension=dimension, exponent=exponent, share=share, honest=honest)

    @property
    def l2_squared(self) -> int:
        """Most that one unit moves a silo's integers, squared and added up.

        A coordinate that moves by x before it is rounded moves by at most |x| + 1 after. So the
        integers move by at most clip 2^exponent + sqrt(dimension) in L2, and the square of that is
        rounded down, being a whole number.
        """
        clip = math.ceil(Fraction(self.clip) * _power(self.exponent))
        return clip**2 + self.dimension + math.isqrt(4 * clip**2 * self.dimension)

    @property
    def l1(self) -> int:
        """Most that one unit moves a silo's integers in absolute values: Cauchy and Schwarz."""
        return math.isqrt(self.dimension * self.l2_squared)

    @property
    def event(self) -> Skellam:
        """What the opened sum costs a unit of any silo whose part is in it, in the worst case."""
        return Skellam(variance=self.honest * self.share, l2_squared=self.l2_squared, l1=self.l1)

    @property
    def own_event(self) -> Skellam:
        """What a unit has left where every other silo tells what it added."""
        return Skellam(variance=self.share, l2_squared=self.l2_squared, l1=self.l1)


def noisy_integers(total: Reals, plan: SkellamPlan, source: StepSource) -> Integers:
    """Scale a silo's sum of clipped vectors, round it, and add the silo's share of the noise.

    `total` is float64 [dimension], finite; one unit moves it by at most `plan.clip` in L2, its
    computation's own rounding included. Returns int64 [dimension].
    Privacy: the result is protected as a part of a sum only.
    """
    if total.shape != (plan.dimension,):
        raise ValueError(f"a vector of {total.shape}, where the plan is of {plan.dimension}")
    # A power of two only changes exponents: the product is exact, and so is rounding it.
    steps = np.rint(np.ldexp(total, plan.exponent)).astype(np.int64)
    return steps + skellam(plan.share, plan.dimension, source)


def to_reals(total: Integers, plan: SkellamPlan) -> Reals:
    """Return the sum of vectors that a sum of silos' integers stands for."""
    return np.ldexp(total.astype(np.float64), -plan.exponent)


def skellam(variance: int, n: int, source: StepSource) -> Integers:
    """Return n independent Skellam numbers of this variance: differences of two Poisson numbers."""
    mean = Fraction(variance, 2)
    return poisson(mean, n, source) - poisson(mean, n, source)


def _power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent
