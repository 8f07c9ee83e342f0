"""Renyi differential privacy of an event, at any orders, as an upper bound in both directions.

    >>> float(rdp(Gaussian(sigma=2.0), [3.0])[0])
    0.375

RDP at order a bounds the Renyi divergence of order a between the outputs on two neighbours; it
adds up over adaptively chosen events (Mironov 2017), which is why the ledger charges it. Closed
forms are those of Mironov (2017) and Canonne, Kamath, Steinke (2020); a Poisson-subsampled
Gaussian is Mironov, Talwar, Zhang (2019) as `dp_accounting` computes it, the divergence of adding,
which they prove to be the larger one; subjects with several rows are a mixture of Gaussians
(`privacy.accounting.mixture`), by quadrature. Skellam noise is Agarwal, Kairouz, Liu (2021), whose
bound holds at whole orders; between them (a - 1) D_a is convex in a, and a chord lies above it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial

import numpy as np
import numpy.typing as npt
from scipy import special

from privacy.accounting.units import exchanged
from privacy.errors import UnsupportedEvent
from privacy.events import (
    All,
    Approximate,
    DiscreteGaussian,
    Event,
    Exchanged,
    Gaussian,
    Laplace,
    MovedCounts,
    Poisson,
    RandomizedResponse,
    Relation,
    Repeat,
    SampledRows,
    Skellam,
)

Curve = npt.NDArray[np.float64]

SLACK = 1e-9
"""Relative rounding up of values that come from a series or a quadrature."""


def rdp(event: Event, orders: Sequence[float], relation: Relation = Relation.ADD_REMOVE) -> Curve:
    """Return the RDP of an event at each order, float64, `inf` where it is not finite.

    Under replace, Gaussians have twice the sensitivity, and sampled events are priced through the
    weak triangle inequality (remove one unit, add another). Raises `UnsupportedEvent` for an event
    that has no RDP or no meaning under the relation.
    """
    at = np.asarray(orders, dtype=np.float64)
    if not np.all(at > 1):
        raise ValueError(f"Renyi orders are above 1, not {at.min()}")
    return _rdp(event, tuple(float(a) for a in at), relation).copy()


WHOLE_ORDERS = tuple(map(float, (*range(2, 34), 40, 50, 64, 80, 100, 128, 192, 256, 512, 1024)))
"""Orders at which a sampled Gaussian is in closed form: a little looser, a hundred times faster."""


def epsilon(
    event: Event,
    delta: float,
    relation: Relation = Relation.ADD_REMOVE,
    orders: Sequence[float] | None = None,
) -> float:
    """The least epsilon at delta over the orders, dp_accounting's default ones if left out.

    Conversion: Canonne, Kamath, Steinke (2020), Proposition 12.
    """
    orders = orders or default_orders()
    curve = rdp(event, orders, relation)
    if not curve.any():
        return 0.0
    at = np.asarray(orders)
    values = curve - (math.log(delta) + np.log(at)) / (at - 1) + np.log1p(-1 / at)
    return max(0.0, float(np.min(values)))


def default_orders() -> tuple[float, ...]:
    """The orders that dp_accounting searches for the best conversion."""
    from dp_accounting.rdp import rdp_privacy_accountant

    return tuple(float(a) for a in rdp_privacy_accountant.DEFAULT_RDP_ORDERS)


@lru_cache(maxsize=4096)
def _rdp(event: Event, orders: tuple[float, ...], relation: Relation) -> Curve:
    at = np.asarray(orders)
    twice = 2.0 if relation is Relation.REPLACE else 1.0
    match event:
        case Gaussian(sigma=sigma):
            return at * twice**2 / (2 * sigma**2)
        case DiscreteGaussian(sigma=sigma):
            return at * twice / (2 * sigma**2)
        case MovedCounts(sigma=sigma, rows=rows):
            # Integer shifts of squared length at most rows^2, twice that under replace: Canonne,
            # Kamath, Steinke (2020), Theorem 14.
            return at * twice * rows**2 / (2 * sigma**2)
        case Skellam():
            moves = 2 if relation is Relation.REPLACE else 1
            return _chords(partial(_skellam, event, moves), orders)
        case Laplace(scale=scale):
            return _laplace(scale / twice, at)
        case RandomizedResponse():
            if relation is not Relation.REPLACE:
                raise UnsupportedEvent(
                    "randomized response has a price under replace only: one message exists "
                    "whatever it says; use an account with relation replace",
                    field="relation",
                    value=relation.value,
                    allowed=Relation.REPLACE.value,
                )
            return _randomized_response(event, at)
        case Approximate(epsilon=pure, delta=delta):
            if delta > 0:
                raise UnsupportedEvent(
                    "an (epsilon, delta) event has no RDP; use an account with delta0 set aside",
                    field="delta",
                    value=delta,
                    allowed=0,
                )
            return np.minimum(pure, _pure(pure, at))
        case Repeat(times=times, of=of):
            return times * _rdp(of, orders, relation) if times else np.zeros_like(at)
        case All(of=parts):
            return sum((_rdp(part, orders, relation) for part in parts), np.zeros_like(at))
        case Poisson(rate=rate, of=of):
            return _poisson(rate, of, orders, relation)
        case Exchanged():
            return _rdp(exchanged(event, relation), orders, Relation.REPLACE)
        case SampledRows():
            most = at * (2 * event.rows / event.sigma) ** 2 / 2
            return _replaceable(lambda o: _sampled_rows(event, o), orders, relation, most)
    raise UnsupportedEvent(f"no RDP for {type(event).__name__}", field="event")


def _poisson(rate: float, of: Event, orders: tuple[float, ...], relation: Relation) -> Curve:
    match of:
        case Repeat() | All() if rate < 1:
            raise UnsupportedEvent(
                "a sample that serves several mechanisms is not priced; sample each on its own",
                field="poisson.of",
                value=of.event,
                allowed=["gaussian"],
            )
    if rate == 0:
        return np.zeros(len(orders))
    if rate == 1:
        return _rdp(of, orders, relation)
    most = _rdp(of, orders, relation)
    match of:
        case Gaussian(sigma=sigma):
            return _replaceable(lambda o: _sampled_gaussian(rate, sigma, o), orders, relation, most)
        case Skellam():
            return _replaceable(partial(_sampled_skellam, rate, of), orders, relation, most)
    # Amplification only lowers the loss, so the mechanism without sampling bounds it.
    return most


def _replaceable(
    curve: Callable[[tuple[float, ...]], Curve],
    orders: tuple[float, ...],
    relation: Relation,
    most: Curve,
) -> Curve:
    """Under replace, remove one unit and then add another; never more than `most`, unsampled.

    Weak triangle inequality, Mironov (2017), Proposition 11, at p = q = 2:
    D_a(P || Q) <= (a - 1/2) / (a - 1) D_2a(P || R) + D_(2a - 1)(R || Q).
    """
    if relation is Relation.ADD_REMOVE:
        return curve(orders)
    at = np.asarray(orders)
    first = curve(tuple(float(2 * a) for a in orders))
    second = curve(tuple(float(2 * a - 1) for a in orders))
    total: Curve = np.minimum((at - 0.5) / (at - 1) * first + second, most)
    return total


def _sampled_gaussian(rate: float, sigma: float, orders: tuple[float, ...]) -> Curve:
    """Integer orders in closed form, the others by quadrature."""
    from privacy.accounting.mixture import renyi_of_mixture

    whole = {
        a: _integer_order(rate, lambda j: j * (j - 1) / (2 * sigma**2), int(a))
        for a in orders
        if a.is_integer()
    }
    between = tuple(a for a in orders if a not in whole)
    rest = dict(zip(between, renyi_of_mixture(sigma, rate, 1, between), strict=True))
    return np.array([whole[a] if a in whole else rest[a] for a in orders]) * (1 + SLACK)


def _integer_order(rate: float, loss: Callable[[Curve], Curve], order: int) -> float:
    """Mironov, Talwar, Zhang (2019), section 3.3: a binomial expansion of the a-th moment.

    `loss` is (j - 1) D_j of the mechanism without sampling, at whole orders j >= 2.
    """
    j = np.arange(order + 1)
    binomial = special.gammaln(order + 1) - special.gammaln(j + 1) - special.gammaln(order - j + 1)
    lost = loss(j[2:].astype(np.float64))
    terms = (binomial + j * np.log(rate) + (order - j) * np.log1p(-rate))[2:] + lost
    # The terms of j = 0 and 1 sum to nearly one; what exceeds one is added up on its own.
    excess = np.logaddexp.reduce(terms + np.log(-np.expm1(-lost)))
    return float(np.logaddexp(0.0, excess) / (order - 1))


def _sampled_skellam(rate: float, event: Skellam, orders: tuple[float, ...]) -> Curve:
    """The binomial expansion with Skellam losses; adding is the larger direction (accounting.md).

    The noise is symmetric, so reflecting at half of the shift exchanges the two distributions,
    which is what Mironov, Talwar, Zhang (2019), theorem 5, asks for.
    """

    def loss(j: Curve) -> Curve:
        return (j - 1) * _skellam(event, 1, j)

    whole = cache(partial(_integer_order, rate, loss))
    sampled = _chords(lambda at: np.array([whole(int(order)) for order in at]), orders)
    return sampled * (1 + SLACK)


def _skellam(event: Skellam, moves: int, at: Curve) -> Curve:
    """Agarwal, Kairouz, Liu (2021), theorem 3.5 and corollary 3.6: an upper bound at whole orders.

    With D1 and D2 the sensitivities in L1 and L2 and mu the variance: a D2^2 / (2 mu) +
    min(((2 a - 1) D2^2 + 6 D1) / (4 mu^2), 3 D1 / (2 mu)). `moves` is how many units' vectors the
    shift is made of. Integers are no larger than their squares, so D1 <= D2^2 for each of them.
    """
    mu = float(event.variance)
    l2_squared = float(event.l2_squared * moves**2)
    l1 = float(min(event.l1, event.l2_squared) * moves)
    excess = ((2 * at - 1) * l2_squared + 6 * l1) / (4 * mu**2)
    total: Curve = at * l2_squared / (2 * mu) + np.minimum(excess, 3 * l1 / (2 * mu))
    return total


def _chords(curve: Callable[[Curve], Curve], orders: tuple[float, ...]) -> Curve:
    """A bound that is proven at whole orders, at any orders above one.

    (a - 1) D_a is the logarithm of a moment, so it is convex in a (Hoelder), and zero at one: it
    lies below its chords.
    """
    at = np.asarray(orders)
    low = np.floor(at)
    below = (low - 1) * curve(np.maximum(low, 2.0))
    above = low * curve(low + 1)
    value: Curve = ((low + 1 - at) * below + (at - low) * above) / (at - 1)
    return value


def _sampled_rows(event: SampledRows, orders: tuple[float, ...]) -> Curve:
    from privacy.accounting.mixture import renyi_of_mixture

    return renyi_of_mixture(event.sigma, event.rate, event.rows, orders) * (1 + SLACK)


def _laplace(scale: float, at: Curve) -> Curve:
    """Mironov (2017), Table II."""
    b = 1 / scale
    larger = np.log(at / (2 * at - 1)) + (at - 1) * b
    smaller = np.log((at - 1) / (2 * at - 1)) - at * b
    return _bounded(b, at, np.logaddexp(larger, smaller) / (at - 1))


def _randomized_response(event: RandomizedResponse, at: Curve) -> Curve:
    """The divergence between the rows of two inputs: exact."""
    high, others = event.epsilon, event.categories - 2
    total = np.logaddexp(high, math.log(event.categories - 1))
    terms = np.stack(
        [
            high * at - total,
            high * (1 - at) - total,
            np.full_like(at, (math.log(others) if others else -np.inf) - total),
        ]
    )
    return _bounded(high, at, np.logaddexp.reduce(terms, axis=0) / (at - 1))


def _bounded(pure: float, at: Curve, value: Curve) -> Curve:
    """Round a pure mechanism's loss up; where rounding swallows it, its epsilon bounds it.

    The value is the logarithm of a sum near one, so it is off by some 2^-52 / (a - 1).
    """
    rounded = np.maximum(value, 0.0) * (1 + SLACK) + 2e-15 / (at - 1)
    return np.minimum(rounded, np.minimum(pure, _pure(pure, at)))


def _pure(pure: float, at: Curve) -> Curve:
    """Bun and Steinke (2016), Proposition 3.3: pure epsilon is epsilon^2 / 2 - zCDP."""
    value: Curve = at * pure**2 / 2
    return value
