"""RDP of a Gaussian whose shift is binomial: what a sampled subject's rows lose, by quadrature.

P = sum_j Bin(k, q)(j) N(j, s^2) against Q = N(0, s^2), or the other way round. With k = 1 this is
the Poisson-subsampled Gaussian. Both directions are computed and the larger is returned. That all
rows move the sum in one direction is the worst case (the dominating pair of
`MixtureOfGaussiansDpEvent` in dp_accounting, whose PLD the tests compare with).

Fractional orders are exact here, where dp_accounting interpolates upward between integers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special

Curve = npt.NDArray[np.float64]

TAIL = 12.0
"""Standard deviations beyond an integrand's outermost peak: e^-72 of it is left out."""

TOLERANCE = 1e-12
"""Two successive grids agree to this in the logarithm, which is also added to the result."""

LARGEST_GRID = 1 << 25
"""Most points times shifts of one grid; where more are needed the plain bound is returned."""

_AT_ONCE = 1 << 20
"""Points times shifts held in memory."""


@lru_cache(maxsize=4096)
def renyi_of_mixture(sigma: float, rate: float, rows: int, orders: tuple[float, ...]) -> Curve:
    """Return the larger Renyi divergence of the two directions at each order, rounded up.

    Trapezoid sums, which converge geometrically for integrands that are analytic and decay like a
    Gaussian; the grid is halved until two results agree. Where none agree, the result is what all
    rows together lose without sampling (a k^2 / (2 s^2), by convexity), which is never less.
    """
    j = np.arange(rows + 1)
    choose = special.gammaln(rows + 1) - special.gammaln(j + 1) - special.gammaln(rows - j + 1)
    weights = choose + special.xlogy(j, rate) + special.xlog1py(rows - j, -rate)
    result = []
    for order in orders:
        # An integrand's peaks are at x = power E[j | x]. Of P^a Q^(1-a) that lies between 0 and
        # a k; of Q^a P^(1-a) it is below 0, where E[j | x] is at most the mean k q.
        tail, mean = TAIL * sigma, rows * rate
        forward = _log_moment(sigma, weights, order, -tail, order * rows + tail)
        backward = _log_moment(sigma, weights, 1 - order, (1 - order) * mean - tail, tail)
        value = (max(forward, backward, 0.0) + TOLERANCE) / (order - 1)
        result.append(min(value, order * rows**2 / (2 * sigma**2)))
    return np.array(result)


def _log_moment(sigma: float, weights: Curve, power: float, low: float, high: float) -> float:
    """Return ln of the mean of (P/Q)^power under Q, over [low, high]."""
    shifts = np.arange(len(weights))[:, None]
    chunk = max(1, _AT_ONCE // len(weights))
    previous, points = np.inf, 513
    if (high - low) / sigma * len(weights) > LARGEST_GRID:  # a coarser grid cannot agree
        return float("inf")
    while points * len(weights) <= LARGEST_GRID:
        grid = np.linspace(low, high, points)
        parts = []
        for x in np.split(grid, range(chunk, points, chunk)):
            # The quadratic terms of ln P and ln Q cancel.
            ratio = special.logsumexp(
                weights[:, None] + (2 * x[None, :] * shifts - shifts**2) / (2 * sigma**2), axis=0
            )
            parts.append(special.logsumexp(power * ratio - (x / sigma) ** 2 / 2))
        step = (high - low) / (points - 1) / (sigma * np.sqrt(2 * np.pi))
        value = float(special.logsumexp(parts) + np.log(step))
        if abs(value - previous) <= TOLERANCE * max(1.0, abs(value)):
            return value
        previous, points = value, 2 * points - 1
    return float("inf")
