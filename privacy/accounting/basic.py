"""Basic composition: epsilons add up, deltas add up (Dwork and Roth 2014, Theorem 3.16)."""

from __future__ import annotations

from privacy.errors import UnsupportedEvent
from privacy.events import (
    All,
    Approximate,
    Event,
    Laplace,
    Poisson,
    RandomizedResponse,
    Relation,
    Repeat,
)


def cost(event: Event, relation: Relation = Relation.ADD_REMOVE) -> tuple[float, float]:
    """Return (epsilon, delta) of an event whose parts each have one; a Gaussian has none."""
    replace = relation is Relation.REPLACE
    match event:
        case Laplace(scale=scale):
            return (2.0 if replace else 1.0) / scale, 0.0
        case RandomizedResponse(epsilon=local) if replace:
            return local, 0.0
        case Approximate(epsilon=pure, delta=delta):
            return pure, delta
        case Repeat(times=times, of=of):
            if times == 0:
                return 0.0, 0.0
            one = cost(of, relation)
            return times * one[0], times * one[1]
        case All(of=parts):
            costs = [cost(part, relation) for part in parts]
            return sum(c[0] for c in costs), sum(c[1] for c in costs)
        case Poisson(rate=0.0):
            return 0.0, 0.0
        case Poisson(of=of):
            return cost(of, relation)  # sampling only lowers the loss
    raise UnsupportedEvent(
        f"{event.event} has no epsilon of its own under {relation.value}",
        field="event",
        value=event.event,
    )


def epsilon(event: Event, delta: float, relation: Relation = Relation.ADD_REMOVE) -> float:
    """The sum of epsilons, where the sum of deltas is within delta."""
    total, spent = cost(event, relation)
    if spent > delta:
        raise UnsupportedEvent(
            f"the deltas of its parts add up to {spent:g}",
            field="delta",
            value=spent,
            allowed=delta,
        )
    return total
