"""How far two honest answers may differ, measured; and what that lets through.

    tolerance = calibrate([run_on_one_machine, run_on_another, run_with_two_threads])
    power(tolerance, run_on_one_machine, int8_run)
    0.97

Two honest machines give different last bits: sums run in another order, kernels differ with the
batch. So floating-point answers agree when |a - b| <= absolute + relative * max(|a|, |b|) in every
output. **Any change within that passes**: agreement in floating point is not proof, and the power
against a given substitute is measured, not guessed. `EXACT` is for fixed point, where honest
answers are equal and nothing passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from secure.errors import BadParameters
from secure.verification.hashing import Array

FLOOR = 16 * float(np.finfo(np.float32).eps)
"""The least relative tolerance, 1.9e-6: runs on one machine may all be equal where others differ.
"""


@dataclass(frozen=True)
class Tolerance:
    """Answers agree within `absolute` + `relative` times the larger of the two magnitudes."""

    absolute: float
    relative: float

    def __post_init__(self) -> None:
        if not (0 <= self.absolute < np.inf and 0 <= self.relative < 1):
            raise BadParameters(
                "a tolerance is finite, not negative, and its relative part below 1",
                field="tolerance",
                value=(self.absolute, self.relative),
            )

    def allowed(self, values: Array) -> npt.NDArray[np.float64]:
        """Return how far from each of these values another may be."""
        return self.absolute + self.relative * np.abs(values.astype(np.float64))

    def agree(self, one: Array, other: Array) -> bool:
        """Whether two answers agree in shape and in every output; NaN agrees with nothing."""
        return one.shape == other.shape and bool(np.all(self._within(one, other)))

    def rows_that_differ(self, one: Array, other: Array) -> int:
        """Return in how many rows [rows, outputs] some output is out of tolerance."""
        return int(np.count_nonzero(~self._within(one, other).all(axis=1)))

    def _within(self, one: Array, other: Array) -> npt.NDArray[np.bool_]:
        larger = np.maximum(np.abs(one), np.abs(other))
        with np.errstate(invalid="ignore", over="ignore"):
            near = np.abs(_wide(one) - _wide(other)) <= self.allowed(larger)
        # An infinity would allow itself any distance.
        within: npt.NDArray[np.bool_] = near & np.isfinite(one) & np.isfinite(other)
        return within


EXACT = Tolerance(0.0, 0.0)
"""For fixed point: agreement is equality."""


def calibrate(runs: Sequence[Array], *, quantile: float = 0.999, factor: float = 4.0) -> Tolerance:
    """Find the tolerance from honest runs of the same rows.

    Shapes: every run is [rows, outputs], of one model on one input, by different threads, batch
    sizes, machines or number formats that count as honest.
    For each pair of runs and each row, the largest difference over the row's outputs is taken in
    units of s + max(|a|, |b|), where s is the root mean square of all outputs. The tolerance is
    `factor` times the `quantile` of these, and no less than `FLOOR`.
    Privacy: the rows may be public ones; the tolerance depends on them.
    Errors: `BadParameters` for fewer than two runs, or runs of different shapes or not finite.
    """
    shapes = {run.shape for run in runs}
    if len(runs) < 2 or len(shapes) > 1 or len(runs[0].shape) != 2 or not runs[0].size:
        raise BadParameters(
            "a tolerance needs two or more honest runs of the same rows",
            field="runs",
            value=len(runs),
            allowed="2 or more arrays [rows, outputs]",
        )
    if not all(np.isfinite(run).all() for run in runs):
        raise BadParameters("an honest run is not finite", field="runs")
    scale = float(np.sqrt(np.mean([np.mean(np.square(_wide(run))) for run in runs])))
    if scale == 0:
        raise BadParameters("honest runs that are all zero calibrate nothing", field="runs")
    seen = [
        np.max(
            np.abs(_wide(a) - _wide(b)) / (scale + np.maximum(np.abs(_wide(a)), np.abs(_wide(b)))),
            axis=1,
        )
        for a, b in combinations(runs, 2)
    ]
    found = max(FLOOR, factor * float(np.quantile(np.concatenate(seen), quantile)))
    return Tolerance(found * scale, found)


def power(tolerance: Tolerance, honest: Array, substitute: Array) -> float:
    """Return the share of rows on which a substitute's answer is out of tolerance.

    With a share p per row, m rows find the substitute with probability 1 - (1 - p)^m as far as rows
    are independent.
    """
    return tolerance.rows_that_differ(honest, substitute) / len(honest)


def _wide(values: Array) -> Array:
    """Doubles for floats; integers stay exact."""
    return values.astype(np.float64) if values.dtype.kind == "f" else values.astype(np.int64)
