"""Renyi differential privacy of an event, at any orders, as an upper bound in both directions.

    >>> float(rdp(Gaussian(sigma=2.0), [3.0])[0])
    0.375

RDP at order a bounds the Renyi divergence of order a between the outputs on two neighbours; it
adds up over adaptively chosen events (Mironov 2017), which is why the ledger charges it. Closed
forms are those of Mironov (2017) and Canonne, Kamath, Steinke (2020); a Poisson-subsampled
Gaussian is Mironov, Talwar, Zhang (2019) as `dp_accounting` computes it, the divergence of adding,
which they prove to be the larger one; subjects with several rows are a mixture of Gaussians
(`privacy.accounting.mixture`), by quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

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
    if not isinstance(of, Gaussian):
        # Amplification only lowers the loss, so the mechanism without sampling bounds it.
        return _rdp(of, orders, relation)
    sigma = of.sigma
    most = _rdp(of, orders, relation)
    return _replaceable(lambda o: _sampled_gaussian(rate, sigma, o), orders, relation, most)


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

    whole = {a: _integer_order(rate, sigma, int(a)) for a in orders if a.is_integer()}
    between = tuple(a for a in orders if a not in whole)
    rest = dict(zip(between, renyi_of_mixture(sigma, rate, 1, between), strict=True))
    return np.array([whole[a] if a in whole else rest[a] for a in orders]) * (1 + SLACK)


def _integer_order(rate: float, sigma: float, order: int) -> float:
    """Mironov, Talwar, Zhang (2019), section 3.3: a binomial expansion of the a-th moment."""
    j = np.arange(order + 1)
    binomial = special.gammaln(order + 1) - special.gammaln(j + 1) - special.gammaln(order - j + 1)
    terms = (
        binomial + j * np.log(rate) + (order - j) * np.log1p(-rate) + j * (j - 1) / (2 * sigma**2)
    )
    # The terms of j = 0 and 1 sum to nearly one; what exceeds one is added up on its own.
    excess = np.logaddexp.reduce(
        terms[2:] + np.log(-np.expm1(-j[2:] * (j[2:] - 1) / (2 * sigma**2)))
    )
    return float(np.logaddexp(0.0, excess) / (order - 1))


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
