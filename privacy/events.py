"""Mechanism events: frozen data that says exactly what was run, never an epsilon.

    >>> step = Poisson(rate=0.01, of=Gaussian(sigma=1.0))
    >>> job = Repeat(times=1000, of=step)
    >>> parse(job.model_dump()) == job
    True

An event is what the ledger stores; an accountant interprets it. The rules of this file are a
contract with every ledger ever written: a kind of event is added, never removed and never given
another meaning, and an unknown kind is refused. Sensitivities are one unless the event names them:
a `sigma` is a noise multiplier, that is, the standard deviation over the L2 sensitivity under
add/remove of one unit.

The habit of keeping mechanisms as data and accountants as interpreters is that of
`dp_accounting` (Google).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from privacy.errors import InvalidEvent


class Unit(StrEnum):
    """What one unit of privacy protects."""

    RECORD = "record"
    SUBJECT = "subject"
    SILO = "silo"


class Relation(StrEnum):
    """Which data sets count as neighbours: one unit more or less, or one exchanged for another."""

    ADD_REMOVE = "add_remove"
    REPLACE = "replace"


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Positive = Annotated[float, Field(gt=0)]


class Gaussian(_Event):
    """N(0, sigma^2) added to a value of L2 sensitivity one under add/remove (two under replace)."""

    event: Literal["gaussian"] = "gaussian"
    sigma: Positive


class DiscreteGaussian(_Event):
    """Discrete Gaussian noise on integers, of which one unit moves one coordinate by one.

    Under replace a unit leaves one coordinate and enters another: two such moves.
    Canonne, Kamath, Steinke (2020).
    """

    event: Literal["discrete_gaussian"] = "discrete_gaussian"
    sigma: Positive


class MovedCounts(_Event):
    """Discrete Gaussian noise on integers, of which one unit moves up to `rows` by one each.

    They may be the same coordinate, which then moves by up to `rows`. Under replace as many moves
    go the other way.
    """

    event: Literal["moved_counts"] = "moved_counts"
    sigma: Positive
    rows: Annotated[int, Field(ge=1)]


Whole = Annotated[int, Field(ge=1, le=2**53 - 1)]
"""A positive integer that canonical JSON writes exactly."""


class Skellam(_Event):
    """Skellam noise of this variance on each coordinate of a vector of integers.

    It is the difference of two Poisson numbers of mean `variance / 2`. Here the sensitivities are
    part of the event, because its loss is not a function of their ratio to the noise: under
    add/remove one unit moves the vector by integers whose squares add up to `l2_squared` at most,
    and whose absolute values to `l1` (under replace, by two such moves). `variance` is that of the
    noise of which nobody who sees the result knows a part.
    Agarwal, Kairouz, Liu (2021).
    """

    event: Literal["skellam"] = "skellam"
    variance: Whole
    l2_squared: Whole
    l1: Whole


class Laplace(_Event):
    """Laplace noise of this scale on a value of L1 sensitivity one under add/remove."""

    event: Literal["laplace"] = "laplace"
    scale: Positive


class RandomizedResponse(_Event):
    """k-ary randomized response: the true category with weight e^epsilon, each other with 1.

    One unit's message exists whatever it says, so the event is one of `replace` only.
    """

    event: Literal["randomized_response"] = "randomized_response"
    epsilon: Positive
    categories: Annotated[int, Field(ge=2)]


class Approximate(_Event):
    """Any (epsilon, delta)-DP mechanism, of which nothing more is known."""

    event: Literal["approximate"] = "approximate"
    epsilon: Annotated[float, Field(ge=0)]
    delta: Annotated[float, Field(ge=0, lt=1)] = 0.0


class SampledRows(_Event):
    """What a subject with up to `rows` rows loses to one step of record-level DP-SGD.

    Each row joins the batch independently with probability `rate` and moves the sum by at most
    one clip; the noise has standard deviation `sigma` clips. So the subject faces a Gaussian
    whose shift is binomial(rows, rate): a mixture of Gaussians.
    """

    event: Literal["sampled_rows"] = "sampled_rows"
    sigma: Positive
    rate: Annotated[float, Field(ge=0, le=1)]
    rows: Annotated[int, Field(ge=1)]


class Poisson(_Event):
    """`of`, run on a sample that each unit joins independently with probability `rate`."""

    event: Literal["poisson"] = "poisson"
    rate: Annotated[float, Field(ge=0, le=1)]
    of: Event


class Exchanged(_Event):
    """`of`, faced by somebody who exchanges one of its units for another instead of adding one.

    A record of a subject-level job is such a somebody: with or without it the subject is there,
    with one vector or another. So is a record where only so many of a subject's rows are used:
    it may take another's place.
    """

    event: Literal["exchanged"] = "exchanged"
    of: Event


class Repeat(_Event):
    """`of`, run this many times, each time with fresh randomness, adaptively chosen inputs."""

    event: Literal["repeat"] = "repeat"
    times: Annotated[int, Field(ge=0)]
    of: Event


class All(_Event):
    """Every event of `of`, on the same units; an empty list costs nothing."""

    event: Literal["all"] = "all"
    of: tuple[Event, ...]


Event = Annotated[
    Gaussian
    | DiscreteGaussian
    | MovedCounts
    | Skellam
    | Laplace
    | RandomizedResponse
    | Approximate
    | SampledRows
    | Poisson
    | Exchanged
    | Repeat
    | All,
    Field(discriminator="event"),
]

for _composite in (Poisson, Exchanged, Repeat, All):
    _composite.model_rebuild()

_adapter: TypeAdapter[Event] = TypeAdapter(Event)

NOTHING = All(of=())
"""The event of a job that touches no row."""


def parse(data: Any) -> Event:
    """Read an event from plain data; an unknown kind or field raises `InvalidEvent`."""
    try:
        return _adapter.validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "event"
        raise InvalidEvent(
            f"event: {where}: {first['msg']}",
            field=where,
            value=first.get("input"),
            allowed=first.get("ctx", {}).get("expected_tags"),
        ) from None


def leaves(event: Event) -> Iterator[Event]:
    """Yield the basic mechanisms of a tree, each once however often it is repeated."""
    match event:
        case Repeat(of=of) | Poisson(of=of) | Exchanged(of=of):
            yield from leaves(of)
        case All(of=parts):
            for part in parts:
                yield from leaves(part)
        case _:
            yield event


def terms(event: Event) -> dict[Event, int]:
    """Return the mechanisms that an event comes to, and how many times each is run.

    `Repeat` and `All` only write a sum, in any depth and order; what is faced by exchange, or run
    on everybody, is so part by part.
    """
    counted: dict[Event, int] = {}
    match event:
        case Repeat(times=times, of=of):
            counted = {term: times * n for term, n in terms(of).items() if times}
        case All(of=parts):
            for part in parts:
                for term, n in terms(part).items():
                    counted[term] = counted.get(term, 0) + n
        case Exchanged(of=of):
            counted = {Exchanged(of=term): n for term, n in terms(of).items()}
        case Poisson(rate=1.0, of=of):
            counted = terms(of)
        case _:
            counted = {event: 1}
    return counted


def canonical(event: Event) -> Event:
    """Return the one form of all events that run the same mechanisms equally often."""
    counted = sorted(terms(event).items(), key=lambda pair: pair[0].model_dump_json())
    parts = [term if n == 1 else Repeat(times=n, of=term) for term, n in counted]
    return parts[0] if len(parts) == 1 else All(of=tuple(parts))
