"""What an event costs in an account's unit, when the job counts in another.

A record account and a subject account may stand on the same source; a job in one unit is charged
to both. Upward, from record to subject with up to k rows: plain Gaussian and Skellam sums move k
times as far, a sampled Gaussian becomes a mixture of Gaussians. Downward, from subject to record: a
job at subject level clips the average of a subject's rows, so a record more or less changes one
subject's vector for another of at most the clip; that is an exchange of one subject for another.
And where at most k rows of a subject are used, a record more may push another out, in a job per
record too: an exchange.
"""

from __future__ import annotations

from privacy.errors import UnsupportedEvent
from privacy.events import (
    NOTHING,
    All,
    Approximate,
    DiscreteGaussian,
    Event,
    Exchanged,
    Gaussian,
    Laplace,
    MovedCounts,
    Poisson,
    Relation,
    Repeat,
    SampledRows,
    Skellam,
    Unit,
    leaves,
    parse,
)


def to_unit(
    event: Event, *, event_unit: Unit, account_unit: Unit, rows_per_subject: int | None
) -> Event:
    """Return the event as one unit of the account faces it.

    `rows_per_subject` is the most rows of one subject that a job uses, None where rows belong to
    nobody. Raises `UnsupportedEvent` where no proven conversion is known.
    """
    if event == NOTHING:
        return event
    if event_unit is account_unit:
        capped = event_unit is Unit.RECORD and rows_per_subject is not None
        return Exchanged(of=event) if capped else event
    if Unit.SILO in (event_unit, account_unit):
        raise UnsupportedEvent(
            f"a job per {event_unit.value} cannot be priced on an account per {account_unit.value}",
            field="unit",
            value=event_unit.value,
            allowed=account_unit.value,
        )
    if event_unit is Unit.SUBJECT:
        return Exchanged(of=event)
    if rows_per_subject is None:
        raise UnsupportedEvent(
            "an account per subject needs the schema's most rows per subject",
            field="subject.max_rows",
        )
    return _of_group(event, rows_per_subject)


def _of_group(event: Event, rows: int) -> Event:
    match event:
        case Gaussian(sigma=sigma):
            return Gaussian(sigma=sigma / rows)
        case Laplace(scale=scale):
            return Laplace(scale=scale / rows)
        case DiscreteGaussian(sigma=sigma):
            return MovedCounts(sigma=sigma, rows=rows)
        case Skellam(l2_squared=l2_squared, l1=l1):
            # Integers of a group can outgrow what an event holds: `parse` refuses those by name.
            moved = {"l2_squared": l2_squared * rows**2, "l1": l1 * rows}
            return parse(event.model_dump() | moved)
        case Poisson(rate=rate, of=Gaussian(sigma=sigma)) if rate < 1:
            return SampledRows(sigma=sigma, rate=rate, rows=rows)
        case Poisson(rate=1.0, of=of):
            return _of_group(of, rows)
        case Repeat(times=times, of=of):
            return Repeat(times=times, of=_of_group(of, rows))
        case All(of=parts):
            return All(of=tuple(_of_group(part, rows) for part in parts))
    raise UnsupportedEvent(
        f"{event.event} per record has no proven price per subject",
        field="event",
        value=event.event,
    )


def exchanged(event: Exchanged, relation: Relation) -> Event:
    """Return what an `Exchanged` runs, to be priced under replace.

    Raises `UnsupportedEvent` under replace, where one exchange may become two, and for parts of
    which only an (epsilon, delta) is known.
    """
    if relation is Relation.REPLACE:
        raise UnsupportedEvent(
            "rows that stand for a subject have no proven price per record under replace; use an "
            "account with relation add_remove",
            field="relation",
            value=relation.value,
            allowed=Relation.ADD_REMOVE.value,
        )
    if any(isinstance(leaf, Approximate) for leaf in leaves(event.of)):
        raise UnsupportedEvent(
            "nobody knows what an exchange costs of an event of which only an epsilon is known",
            field="exchanged.of",
            value="approximate",
        )
    return event.of
