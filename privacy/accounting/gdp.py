"""Gaussian differential privacy, only where it is exact: compositions of plain Gaussians.

The central limit "GDP" of DP-SGD is an estimate that lies below the truth (Dong, Roth, Su 2019
state it as a limit); it is not offered.
"""

from __future__ import annotations

import math

from scipy.special import log_ndtr

from privacy.accounting.units import exchanged
from privacy.errors import UnsupportedEvent
from privacy.events import All, Event, Exchanged, Gaussian, Poisson, Relation, Repeat


def mu_squared(event: Event, relation: Relation = Relation.ADD_REMOVE) -> float:
    """Return mu^2 of a composition of plain Gaussians: the sum of (sensitivity / sigma)^2."""
    match event:
        case Gaussian(sigma=sigma):
            return (4.0 if relation is Relation.REPLACE else 1.0) / sigma**2
        case Exchanged():
            return mu_squared(exchanged(event, relation), Relation.REPLACE)
        case Repeat(times=times, of=of):
            return times * mu_squared(of, relation) if times else 0.0
        case All(of=parts):
            return sum(mu_squared(part, relation) for part in parts)
        case Poisson(rate=0.0):
            return 0.0
        case Poisson(rate=1.0, of=of):
            return mu_squared(of, relation)
    raise UnsupportedEvent(
        f"{event.event} is not exactly Gaussian; use an account with a Renyi filter",
        field="event",
        value=event.event,
        allowed=["gaussian"],
    )


def mu(event: Event, relation: Relation = Relation.ADD_REMOVE) -> float:
    """Return mu: the event is as hard to see through as N(0, 1) against N(mu, 1)."""
    return math.sqrt(mu_squared(event, relation))


def delta_of(mu: float, epsilon: float) -> float:
    """delta(epsilon) of mu-GDP: Balle and Wang (2018), Theorem 8."""
    a = float(log_ndtr(mu / 2 - epsilon / mu))
    b = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    return math.exp(a) * -math.expm1(b - a) if b < a else 0.0


def epsilon(event: Event, delta: float, relation: Relation = Relation.ADD_REMOVE) -> float:
    """The exact epsilon at delta, rounded up."""
    loss = mu(event, relation)
    if loss == 0 or delta_of(loss, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(loss, high) > delta:
        low, high = high, 2 * high
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(loss, middle) > delta else (low, middle)
    return high
