"""Zero-concentrated differential privacy: one number, rho, that adds up (Bun and Steinke 2016)."""

from __future__ import annotations

import math

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
)


def rho(event: Event, relation: Relation = Relation.ADD_REMOVE) -> float:
    """Return the rho of an event: 1 / (2 sigma^2) of a Gaussian, epsilon^2 / 2 of a pure one.

    Sampling has no useful zCDP; a sampled event below rate one raises `UnsupportedEvent`.
    """
    replace = relation is Relation.REPLACE
    match event:
        case Gaussian(sigma=sigma):
            return (4.0 if replace else 1.0) / (2 * sigma**2)
        case DiscreteGaussian(sigma=sigma):
            return (2.0 if replace else 1.0) / (2 * sigma**2)
        case MovedCounts(sigma=sigma, rows=rows):
            return (2.0 if replace else 1.0) * rows**2 / (2 * sigma**2)
        case Exchanged():
            return rho(exchanged(event, relation), Relation.REPLACE)
        case Laplace(scale=scale):
            return ((2.0 if replace else 1.0) / scale) ** 2 / 2
        case RandomizedResponse(epsilon=local) if replace:
            return local**2 / 2
        case Approximate(epsilon=pure, delta=0.0):
            return pure**2 / 2
        case Repeat(times=times, of=of):
            return times * rho(of, relation) if times else 0.0
        case All(of=parts):
            return sum(rho(part, relation) for part in parts)
        case Poisson(rate=0.0):
            return 0.0
        case Poisson(rate=1.0, of=of):
            return rho(of, relation)
    raise UnsupportedEvent(
        f"{event.event} has no useful zCDP under {relation.value}; "
        "use an account with a Renyi filter",
        field="event",
        value=event.event,
    )


def epsilon(event: Event, delta: float, relation: Relation = Relation.ADD_REMOVE) -> float:
    """The epsilon at delta of the event's rho: rho + 2 sqrt(rho ln(1/delta))."""
    cost = rho(event, relation)
    return cost + 2 * math.sqrt(cost * math.log(1 / delta))
