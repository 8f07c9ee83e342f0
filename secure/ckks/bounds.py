"""The proved error of a whole network: every operation's noise, carried to the answer.

Noise that enters at one layer is carried on by what follows. Its random part (a sub-Gaussian
vector over the slots, `secure.ckks.noise`) goes through a matrix R as R V R^T, since slots are
independent; through a square as 2 a e, |a| at most what interval arithmetic allows, for which the
matrix is first replaced by a diagonal one above it (by row sums or by its largest eigenvalue); its
square and everything else goes into the drift, carried in absolute values. Answers are within tail
sqrt(V) + drift of exact arithmetic, for every row of the box, except with probability 2^-40.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secure.ckks.layout import Layout, copies
from secure.ckks.network import Network
from secure.ckks.noise import TAIL, Noise
from secure.ckks.polynomials import Polynomial, evaluate
from secure.ckks.ranges import Ranges
from secure.ckks.schedule import Schedule, Stage

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Error:
    """Proxies of the random part (a diagonal bound) and the drift, per slot or feature."""

    proxy: Reals
    drift: Reals

    def largest(self) -> Reals:
        """Bound the real part, and the imaginary part alike."""
        total: Reals = TAIL * np.sqrt(self.proxy) + self.drift
        return total


@dataclass(frozen=True)
class Proof:
    """Bounds per answer. Where the last activation is a square, also what they are made of.

    `hidden` is the error of what is squared last, per feature; `rounded` the most that encoding the
    last weights changes per unit of each square; `rest` bounds per answer what grows with neither.
    They make a bound for one row (`secure.ckks.witness`).
    """

    errors: Reals
    hidden: Error | None
    rounded: Reals
    rest: Reals


def prove(network: Network, layout: Layout, ranges: Ranges, schedule: Schedule) -> Proof | None:
    """Bound |answer - exact| per output, or return None where a value outgrows its modulus."""
    noise = schedule.noise
    box = [layout.inputs(side) for side in ranges.inputs]
    magnitude = np.abs(box).max(axis=0)
    if not _fits(magnitude, schedule.fresh, schedule, len(schedule.primes)):
        return None
    places = layout.spreads[0].matrix.shape[1]
    error = Error(np.full(places, noise.fresh / schedule.fresh**2), np.zeros(places))
    hidden: Error | None = None
    still: Error | None = None
    last = len(network.activations)
    for layer, stage in enumerate(schedule.stages(network)):
        reach = math.sqrt(2) * float(error.largest().max())
        if layer == 0:
            reach += layout.slots / schedule.fresh  # half a unit in every coefficient of a row
        rounding = layout.rounding(layer, stage)
        fixed = rounding.fixed(reach)
        if layer == 0:
            fixed = fixed + layout.input_rounding() / schedule.fresh
        encoded = fixed + rounding.over(box[0], box[1])
        error = _affine(layout, layer, error, encoded, stage, noise)
        if still is not None:
            still = _affine(layout, layer, still, fixed, stage, noise)
        magnitude = layout.place(layer, ranges.before[layer])
        if stage.plain < 2.0**12 or not _fits(magnitude, stage.after, schedule, stage.level - 1):
            return None
        if layer == last:
            break
        level = stage.level - 1
        switch = layout.drift(layer, level, noise)
        activation = network.activations[layer]
        if activation is None:
            scale = stage.after**2 / schedule.primes[level - 1]
            if not _fits(magnitude**2, scale, schedule, level - 1):
                return None
            if layer == last - 1:
                hidden = Error(layout.read(layer, error.proxy), layout.read(layer, error.drift))
                still = _square(error, np.zeros(1), level, stage.after, scale, noise, switch)
            size = layout.window(magnitude)
            error = _square(error, size, level, stage.after, scale, noise, switch)
        else:
            error = _polynomial(activation, error, level, schedule, float(switch.max()))
        # Padding holds what the activation makes of 0.
        empty = 0.0 if activation is None else float(activation(0.0))
        box = [layout.place(layer, side, empty) for side in ranges.after[layer]]
    # The places of the answers come first; decoding is in double precision.
    decoding = 2.0**-45 * float(magnitude.max())
    errors, rest = (
        part.largest()[: network.outputs] + decoding for part in (error, still or error)
    )
    if not _fits(magnitude + errors.max(), schedule.answer, schedule, 1):
        return None
    rounded = rounding.per_input()
    if hidden is not None:
        rounded = layout.read(last - 1, layout.window(rounded))
    return Proof(errors, hidden, rounded, rest)


def _fits(magnitude: Reals, scale: float, schedule: Schedule, level: int) -> bool:
    """Whether a message stays below a quarter of its modulus; noise is far below the rest."""
    room = sum(math.log2(prime) for prime in schedule.primes[:level]) - 2
    largest = float(magnitude.max())
    return math.log2(scale) < room and (largest == 0.0 or math.log2(largest * scale) < room)


def _affine(
    layout: Layout, layer: int, error: Error, encoded: Reals, stage: Stage, noise: Noise
) -> Error:
    """Carry an error through a matrix, and add what the product itself does wrong."""
    spread = layout.spreads[layer]
    rows, columns = spread.matrix.shape
    proxy, drift = (copies(part, columns) for part in (error.proxy, error.drift))
    # Key switches before the weights, at the scale of the inputs; and after them, all but gone.
    turned = noise.switching(stage.level) / stage.scale**2 * spread.turned
    slots = noise.switching_drift(stage.level) / stage.scale
    late = spread.after / stage.plain
    moved = spread.origin @ (slots if spread.origin.shape[1] > 1 else slots.max(keepdims=True))
    own = noise.rounding / stage.after**2
    own += spread.after * noise.switching(stage.level) / (stage.scale * stage.plain) ** 2
    if spread.shared:
        # Row sums of the absolute covariance.
        sums = spread.absolute @ (proxy * spread.absolute.sum(axis=0))
        diagonal = spread.shared * sums + turned
    else:
        covariance = spread.covariance(proxy) + turned
        diagonal = _diagonal(covariance, last=layer == len(layout.spreads) - 1)
    moved = moved + late * slots.max() + np.resize(layout.window(encoded), rows)
    return Error(diagonal + own, spread.absolute @ drift + moved)


def _diagonal(covariance: Reals, *, last: bool) -> Reals:
    """Return a diagonal above a covariance, by row sums or by its largest eigenvalue.

    Behind the last layer each answer is looked at alone, and its own variance is enough.
    """
    if last:
        return np.diag(covariance).copy()
    sums: Reals = np.abs(covariance).sum(axis=1)
    if len(covariance) > 1024:
        return sums
    largest = float(np.linalg.eigvalsh(covariance)[-1]) * (1 + 1e-9)
    return sums if sums.sum() < largest * len(sums) else np.full(len(sums), largest)


def _square(
    error: Error,
    magnitude: Reals,
    level: int,
    scale: float,
    after: float,
    noise: Noise,
    switch: Reals,
) -> Error:
    """Bound (a + e)^2 - a^2 = 2 a e + e^2, the relinearisation and the rescale.

    Of e^2 real and imaginary part are at most 2 |e|^2 in the largest of both parts.
    """
    largest = error.largest()
    size = np.resize(magnitude, len(largest))
    own = noise.switching(level) / scale**4 + noise.rounding / after**2
    return Error(
        4 * size**2 * error.proxy + own,
        2 * size * error.drift + 2 * largest**2 + switch / scale**2,
    )


def _polynomial(
    polynomial: Polynomial, error: Error, level: int, schedule: Schedule, switch: float
) -> Error:
    """Carry an error through p(u + e) = p(u) + p'(u) e + rest, and add p's own noise."""
    distance = math.sqrt(2) * float(error.largest().max())
    numbers = _Numbers(schedule, switch)
    inner = evaluate(polynomial, _Number(1.0, 0.0, level, schedule.work), numbers, schedule.work)
    steep = polynomial.steepest()
    return Error(
        steep**2 * error.proxy,
        steep * error.drift + polynomial.remainder(distance) + inner.error,
    )


@dataclass(frozen=True)
class _Number:
    """A bound on a number, on the absolute error of its ciphertext; level and scale."""

    size: float
    error: float
    level: int
    scale: float


class _Numbers:
    """An evaluation of a polynomial in bounds: worst case at every step."""

    def __init__(self, schedule: Schedule, switch: float) -> None:
        self._schedule = schedule
        self._noise = schedule.noise
        self._switch = switch  # drift of a key switch, real or imaginary, at the highest level

    def level(self, x: _Number) -> int:
        return x.level

    def scale(self, x: _Number) -> float:
        return x.scale

    def prime(self, level: int) -> int:
        return self._schedule.primes[level - 1]

    def linear(
        self, x: _Number, factor: float, constant: float, level: int, scale: float
    ) -> _Number:
        plain = scale * self.prime(level + 1) / x.scale
        own = x.size / plain + self._rounding / scale + 1.0 / scale
        return _Number(
            abs(factor) * x.size + abs(constant),
            abs(factor) * x.error + x.error / plain + own,
            level,
            scale,
        )

    def product(self, x: _Number, y: _Number, level: int, scale: float) -> _Number:
        drift = math.sqrt(2) * self._switch
        switch = (drift + self._random(self._noise.switching(level + 1))) / (x.scale * y.scale)
        own = switch + self._rounding / scale
        carried = x.size * y.error + y.size * x.error + x.error * y.error
        return _Number(x.size * y.size, carried + own, level, scale)

    def double_less_one(self, x: _Number) -> _Number:
        # The result is a Chebyshev polynomial, whose value stays in [-1, 1].
        return _Number(1.0, 2 * x.error + 1.0 / x.scale, x.level, x.scale)

    def add(self, x: _Number, y: _Number | float) -> _Number:
        if isinstance(y, float):
            return _Number(x.size + abs(y), x.error + 1.0 / x.scale, x.level, x.scale)
        return _Number(x.size + y.size, x.error + y.error, x.level, x.scale)

    @property
    def _rounding(self) -> float:
        return self._random(self._noise.rounding)

    def _random(self, proxy: float) -> float:
        """Bound the absolute value, both parts."""
        return TAIL * math.sqrt(2 * proxy)
