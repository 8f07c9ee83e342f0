"""Activations as polynomials: exact ones, and minimax approximations with a certified error.

    >>> silu = approximate("silu", bound=4.0, degree=7)
    >>> silu.error < 0.01
    True
    >>> silu.depth
    3

A polynomial acts on u = x / bound, which lies in [-1, 1] where the range certificate holds, and is
written in Chebyshev polynomials of u: there the coefficients stay small, and so does the noise
that they amplify. The approximation is the minimax one on a grid (a linear program); its error is
the largest on a finer grid plus what both functions can move between two of its points, so that it
holds everywhere in the range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from numpy.polynomial import chebyshev

from secure.errors import BadParameters

Reals = npt.NDArray[np.float64]
C = TypeVar("C")

MAX_DEGREE = 31


def _relu(x: Reals) -> Reals:
    return np.where(x > 0, x, 0.0)


def _gelu(x: Reals) -> Reals:
    from scipy.special import ndtr

    product: Reals = x * ndtr(x)
    return product


def _sigmoid(x: Reals) -> Reals:
    from scipy.special import expit

    value: Reals = expit(x)
    return value


# The function, and how steep it is at most (GELU: 1.1290 at sqrt 2; SiLU: 1.0999 at 2.3994).
FUNCTIONS: dict[str, tuple[Callable[[Reals], Reals], float]] = {
    "relu": (_relu, 1.0),
    "gelu": (_gelu, 1.13),
    "silu": (lambda x: x * _sigmoid(x), 1.10),
    "sigmoid": (_sigmoid, 0.25),
    "tanh": (np.tanh, 1.0),
}


@dataclass(frozen=True)
class Polynomial:
    """p(u), u = x / bound, by Chebyshev coefficients, in place of a function f.

    `error` bounds |p - f| for |x| <= bound, `lipschitz` how steep f is.
    """

    coefficients: tuple[float, ...]
    bound: float
    error: float = 0.0
    lipschitz: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.degree <= MAX_DEGREE or not math.isfinite(sum(self.coefficients)):
            raise BadParameters(
                f"degree: a polynomial of degree {self.degree} is not between 1 and {MAX_DEGREE}",
                field="degree",
                value=self.degree,
                allowed=f"1 to {MAX_DEGREE}",
            )

    @property
    def degree(self) -> int:
        """The degree."""
        return len(self.coefficients) - 1

    @property
    def depth(self) -> int:
        """Levels of multiplication that an evaluation takes: ceil(log2(degree + 1))."""
        return self.degree.bit_length()

    def __call__(self, x: npt.ArrayLike) -> Reals:
        """Evaluate at x, in the unit of x and not of u."""
        scaled = np.asarray(x, dtype=np.float64) / self.bound
        return np.asarray(chebyshev.chebval(scaled, self._array), dtype=np.float64)

    def interval(self, low: float, high: float) -> tuple[float, float]:
        """Enclose p for u in [low, high], a part of [-1, 1]."""
        inside = _GRID[(low <= _GRID) & (high >= _GRID)]
        values = chebyshev.chebval(np.r_[low, inside, high], self._array)
        slack = self.slope * _STEP / 2
        return float(values.min() - slack), float(values.max() + slack)

    @property
    def slope(self) -> float:
        """Bound |dp/du| on [-1, 1]: |T_k'| <= k^2 (Markov)."""
        return float(sum(abs(c) * k * k for k, c in enumerate(self.coefficients)))

    def steepest(self) -> float:
        """Bound |dp/du| on [-1, 1] by a grid, tighter than `slope`."""
        derivative = chebyshev.chebder(self._array)
        values = np.abs(chebyshev.chebval(_GRID, derivative))
        curve = sum(abs(c) * k * k * (k * k - 1) / 3 for k, c in enumerate(self.coefficients))
        return float(values.max() + curve * _STEP / 2)

    def remainder(self, distance: float) -> float:
        """Bound |p(u + e) - p(u) - p'(u) e| for complex |e| <= distance and u in [-1, 1].

        Taylor's terms of T_k from the second on; every derivative of T_k is largest at 1.
        """
        total = 0.0
        for k, c in enumerate(self.coefficients):
            derivative, power = float(k * k), distance  # T_k'(1), distance^1 / 1!
            for j in range(1, k):
                # T_k^(j+1)(1) = T_k^(j)(1) (k^2 - j^2) / (2j + 1)
                derivative *= (k * k - j * j) / (2 * j + 1)
                power *= distance / (j + 1)
                total += abs(c) * derivative * power
        return total

    @property
    def _array(self) -> Reals:
        return np.asarray(self.coefficients, dtype=np.float64)


_GRID = np.cos(np.linspace(0.0, math.pi, 20001))
_STEP = float(np.max(-np.diff(_GRID)))


def approximate(name: str, *, bound: float, degree: int) -> Polynomial:
    """Return the minimax polynomial of an activation on [-bound, bound], with its error.

    Errors: `BadParameters` for an unknown function, a bound that is not in 0.1 to 1000, or a degree
    outside 2 to 31.
    """
    if name not in FUNCTIONS:
        raise BadParameters(
            f"activation: {name!r} has no polynomial form",
            field="activation",
            value=name,
            allowed=sorted(FUNCTIONS),
        )
    if not (math.isfinite(bound) and 0.1 <= bound <= 1000):
        raise BadParameters(
            f"bound: {bound!r} is not between 0.1 and 1000", field="bound", value=bound
        )
    if type(degree) is not int or not 2 <= degree <= MAX_DEGREE:
        raise BadParameters(
            f"degree: {degree!r} is not between 2 and {MAX_DEGREE}", field="degree", value=degree
        )
    from scipy.optimize import linprog

    function, lipschitz = FUNCTIONS[name]
    points = np.cos(np.linspace(0.0, math.pi, 40 * degree + 1))
    basis = chebyshev.chebvander(points, degree)
    values = function(bound * points)
    ones = np.ones((len(points), 1))
    solution = linprog(
        np.r_[np.zeros(degree + 1), 1.0],
        A_ub=np.block([[basis, -ones], [-basis, -ones]]),
        b_ub=np.r_[values, -values],
        bounds=[(None, None)] * (degree + 1) + [(0, None)],
    )
    if not solution.success:
        raise BadParameters(f"no minimax polynomial of {name} was found", field="degree")
    # Of an even or odd function half the coefficients are noise of the solver: they cost products.
    coefficients = np.where(np.abs(solution.x[:-1]) < 1e-9, 0.0, solution.x[:-1])
    polynomial = Polynomial(tuple(float(c) for c in coefficients), bound)
    gap = np.abs(polynomial(bound * _GRID) - function(bound * _GRID)).max()
    slack = (polynomial.steepest() + lipschitz * bound) * _STEP / 2
    return Polynomial(polynomial.coefficients, bound, float(gap + slack), lipschitz)


class Powers(Protocol[C]):
    """What an evaluation needs of encrypted numbers; `level` counts the primes that are left."""

    def level(self, x: C) -> int:
        """Return the level of a number."""
        ...

    def scale(self, x: C) -> float:
        """Return the scale of a number."""
        ...

    def prime(self, level: int) -> int:
        """Return the prime that a rescale from `level` divides by."""
        ...

    def linear(self, x: C, factor: float, constant: float, level: int, scale: float) -> C:
        """Return factor x + constant at this level and scale; x is at a higher level."""
        ...

    def product(self, x: C, y: C, level: int, scale: float) -> C:
        """Return x y at this level, below both; `scale` is scale(x) scale(y) / prime(level + 1)."""
        ...

    def double_less_one(self, x: C) -> C:
        """Return 2 x - 1: with x = T_m^2 that is T_2m."""
        ...

    def add(self, x: C, y: C | float) -> C:
        """Return the sum of two numbers of one level and scale, or of a number and a constant."""
        ...


def evaluate(polynomial: Polynomial, u: C, powers: Powers[C], scale: float) -> C:
    """Evaluate at an encrypted u, `depth` levels below it and at this scale.

    Splits p = q T_m + r at the largest power of two m (Paterson and Stockmeyer's recursion in the
    Chebyshev basis, with T_(m+j) = 2 T_m T_j - T_(m-j)). Coefficients ride on the products, and
    every plain factor is encoded at the scale that makes sums agree exactly.
    """
    top = powers.level(u)
    table = {1: u}
    m = 1
    while 2 * m <= polynomial.degree:
        level = top - m.bit_length()
        natural = powers.scale(table[m]) ** 2 / powers.prime(level + 1)
        square = powers.product(table[m], table[m], level, natural)
        m *= 2
        table[m] = powers.double_less_one(square)

    def run(coefficients: list[float], level: int, scale: float) -> C:
        if len(coefficients) == 2:
            return powers.linear(u, coefficients[1], coefficients[0], level, scale)
        m = 1 << ((len(coefficients) - 1).bit_length() - 1)
        quotient = [coefficients[m]] + [2 * c for c in coefficients[m + 1 :]]
        rest = coefficients[:m]
        for j, c in enumerate(coefficients[m + 1 :], start=1):
            rest[m - j] -= c
        if len(_trimmed(quotient)) == 1:
            total = powers.linear(table[m], quotient[0], 0.0, level, scale)
        else:
            partner = scale * powers.prime(level + 1) / powers.scale(table[m])
            inner = run(_trimmed(quotient), level + 1, partner)
            total = powers.product(inner, table[m], level, scale)
        rest = _trimmed(rest)
        return powers.add(total, rest[0] if len(rest) == 1 else run(rest, level, scale))

    return run(_trimmed(list(polynomial.coefficients)), top - polynomial.depth, scale)


def _trimmed(coefficients: list[float]) -> list[float]:
    kept = list(coefficients)
    while len(kept) > 1 and kept[-1] == 0.0:
        kept.pop()
    return kept
