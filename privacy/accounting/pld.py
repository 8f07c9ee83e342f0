"""The tight price of an event: privacy loss distributions, by dp_accounting.

The distribution of the privacy loss is discretised pessimistically (connect-the-dots, Doroshenko
et al. 2022) and composed by convolution, so epsilon is an upper bound and close to the truth. It
prices a plan that is fixed before it starts; it is no filter, and the ledger never adds these up.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from privacy.accounting import basic, rdp
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
    Poisson,
    RandomizedResponse,
    Relation,
    Repeat,
    SampledRows,
)

GRID = 1e-4
"""Width of a cell of the privacy loss, in nats; the pessimism of the result is of its order."""

JOB_GRID = 5e-4
"""The finest grid at which jobs are calibrated and quoted."""

JOB_CELLS = 2000
"""How many cells of the grid an epsilon spans when a job is priced: about a part in a thousand.

The work of a price grows with epsilon over the grid; without this, a typing error such as
epsilon 500 would take minutes to be refused.
"""

HOPELESS = 5000.0
"""Above it the RDP bound is the price: no account holds as much, and a PLD could not be written."""

MOST_ROWS = 64
"""Rows of a subject up to which the mixture of its shifts is written out."""


@lru_cache(maxsize=4096)
def epsilon(
    event: Event, delta: float, relation: Relation = Relation.ADD_REMOVE, grid: float = GRID
) -> float:
    """Return an upper bound of epsilon at delta, tight to about the grid.

    Raises `UnsupportedEvent` for an event that has no distribution under the relation.
    """
    distribution = _distribution(event, relation, grid, True)
    return float(distribution.get_epsilon_for_delta(delta)) if distribution is not None else 0.0


def job_epsilon(event: Event, delta: float, relation: Relation = Relation.ADD_REMOVE) -> float:
    """Return the upper bound by which jobs are calibrated and quoted: `epsilon` on a grid to suit.

    The grid follows from the event alone (its RDP bound tells the size of the result), so that
    the same event always has the same price. Where every part has an epsilon of its own, their
    sum is another upper bound, and the smaller of the two is the price. An event that has no
    distribution here is priced by its RDP at all orders.
    """
    try:
        about = rdp.epsilon(event, delta, relation, rdp.WHOLE_ORDERS)
    except UnsupportedEvent:
        about = 0.0
    if about > HOPELESS:
        return about
    coarse = about / JOB_CELLS
    # A power of two, so that events of nearly the same price are priced alike.
    grid = JOB_GRID * 2 ** max(0, math.ceil(math.log2(coarse / JOB_GRID))) if coarse else JOB_GRID
    prices: list[float] = []
    with contextlib.suppress(UnsupportedEvent):
        prices.append(epsilon(event, delta, relation, grid))
    with contextlib.suppress(UnsupportedEvent):
        prices.append(basic.epsilon(event, delta, relation))
    return min(prices) if prices else rdp.epsilon(event, delta, relation)


def epsilon_lower(
    event: Event, delta: float, relation: Relation = Relation.ADD_REMOVE, grid: float = GRID
) -> float:
    """Return a lower bound of epsilon at delta: what no valid accountant may go below."""
    return lower(event, relation, grid)(delta)


def lower(event: Event, relation: Relation, grid: float) -> Callable[[float], float]:
    """Return `epsilon_lower` of an event at any delta, from one distribution."""
    distribution = _distribution(event, relation, grid, False)

    def at(delta: float) -> float:
        return 0.0 if distribution is None else float(distribution.get_epsilon_for_delta(delta))

    return at


def _distribution(event: Event, relation: Relation, grid: float, upper: bool) -> Any:
    """The distribution of an event; None where it costs nothing."""
    from dp_accounting.pld import common
    from dp_accounting.pld import privacy_loss_distribution as pld
    from dp_accounting.privacy_accountant import NeighboringRelation

    replace = relation is Relation.REPLACE
    twice = 2.0 if replace else 1.0
    options: dict[str, Any] = {
        "value_discretization_interval": grid,
        "pessimistic_estimate": upper,
        "use_connect_dots": upper,
    }
    neighbours = (
        NeighboringRelation.REPLACE_ONE if replace else NeighboringRelation.ADD_OR_REMOVE_ONE
    )

    def again(of: Event) -> Any:
        return _distribution(of, relation, grid, upper)

    match event:
        case Gaussian(sigma=sigma):
            return pld.from_gaussian_mechanism(sigma / twice, **options)
        case DiscreteGaussian(sigma=sigma):
            one = pld.from_discrete_gaussian_mechanism(sigma, **options)
            return one.self_compose(2) if replace else one
        case Laplace(scale=scale):
            return pld.from_laplace_mechanism(scale / twice, **options)
        case RandomizedResponse(epsilon=local, categories=categories) if replace:
            # dp_accounting's parameter is the probability of answering at random.
            random = categories / (math.expm1(local) + categories)
            return pld.from_randomized_response(
                random,
                categories,
                pessimistic_estimate=upper,
                value_discretization_interval=grid,
            )
        case Approximate(epsilon=pure, delta=extra):
            parameters = common.DifferentialPrivacyParameters(pure, extra)
            return pld.from_privacy_parameters(parameters, value_discretization_interval=grid)
        case Repeat(times=times, of=of):
            part = again(of) if times else None
            return part.self_compose(times) if part is not None and times > 1 else part
        case All(of=parts):
            total = None
            for part in (again(part) for part in parts):
                if part is not None:
                    total = part if total is None else total.compose(part)
            return total
        case Poisson(rate=0.0):
            return None
        case Poisson(rate=1.0, of=of):
            return again(of)
        case Poisson(rate=rate, of=Gaussian(sigma=sigma)):
            return pld.from_gaussian_mechanism(
                sigma, sampling_prob=rate, neighboring_relation=neighbours, **options
            )
        case Poisson(rate=rate, of=Laplace(scale=scale)) if not replace:
            return pld.from_laplace_mechanism(scale, sampling_prob=rate, **options)
        case Exchanged():
            return _distribution(exchanged(event, relation), Relation.REPLACE, grid, upper)
        case SampledRows(rate=0.0):
            return None
        case SampledRows(sigma=sigma, rate=rate, rows=rows) if not replace and rows <= MOST_ROWS:
            from scipy import stats

            shifts = list(range(rows + 1))
            return pld.from_mixture_gaussian_mechanism(
                sigma, shifts, list(stats.binom.pmf(shifts, rows, rate)), **options
            )
    raise UnsupportedEvent(
        f"{event.event} has no privacy loss distribution here under {relation.value}",
        field="event",
        value=event.event,
    )
