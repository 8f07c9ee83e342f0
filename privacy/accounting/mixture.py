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


@lru_cache(maxsize=4096)
def renyi_of_mixture(sigma: float, rate: float, rows: int, orders: tuple[float, ...]) -> Curve:
    """Return the larger Renyi divergence of the two directions at each order, rounded up.

    Trapezoid sums, which converge geometrically for integrands that are analytic and decay like a
    Gaussian; the grid is halved until two results agree.
    """
    j = np.arange(rows + 1)
    choose = special.gammaln(rows + 1) - special.gammaln(j + 1) - special.gammaln(rows - j + 1)
    weights = choose + special.xlogy(j, rate) + special.xlog1py(rows - j, -rate)
    result = []
    for order in orders:
        # P^a Q^(1-a) has its peaks between 0 and a k; Q^a P^(1-a) is at most Q (1-q)^(k(1-a)).
        forward = _log_moment(sigma, weights, order, -TAIL * sigma, order * rows + TAIL * sigma)
        backward = _log_moment(sigma, weights, 1 - order, -TAIL * sigma, TAIL * sigma)
        result.append((max(forward, backward, 0.0) + TOLERANCE) / (order - 1))
    return np.array(result)


def _log_moment(sigma: float, weights: Curve, power: float, low: float, high: float) -> float:
    """Return ln of the mean of (P/Q)^power under Q, over [low, high]."""
    previous, points = np.inf, 513
    while points <= 1 << 22:
        x = np.linspace(low, high, points)
        shifts = np.arange(len(weights))[:, None]
        # The quadratic terms of ln P and ln Q cancel.
        ratio = special.logsumexp(
            weights[:, None] + (2 * x[None, :] * shifts - shifts**2) / (2 * sigma**2), axis=0
        )
        step = (high - low) / (points - 1) / (sigma * np.sqrt(2 * np.pi))
        value = float(special.logsumexp(power * ratio - (x / sigma) ** 2 / 2) + np.log(step))
        if abs(value - previous) <= TOLERANCE * max(1.0, abs(value)):
            return value
        previous, points = value, 2 * points - 1
    return float("inf")
