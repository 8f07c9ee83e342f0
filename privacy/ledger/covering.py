"""Whether one event holds all that others do, by what is run and how often, not by prices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from privacy.events import Event, Exchanged, parse, terms

Data = Mapping[str, Any]
"""An event as plain data."""


def covers(whole: Data, part: Data) -> bool:
    """Whether every mechanism of `part` is in `whole`, at least as many times."""
    return Counter(terms(parse(part))) <= Counter(terms(parse(whole)))


def covers_logged(accounts: Iterable[Data], logged: Iterable[tuple[Data, int]]) -> bool:
    """Whether what is charged to each account of a job can be all that its releases cost.

    Releases are logged in the job's unit, accounts charged in their own. A change of unit maps
    mechanisms one by one, so that each account must hold as many, and the account in the job's
    own unit the very same, perhaps faced by exchange.
    """
    needed: Counter[Event] = Counter()
    for event, times in logged:
        needed.update({term: n * times for term, n in terms(parse(event)).items()})
    if not needed:
        return True
    held = [_unexchanged(event) for event in accounts]
    return any(needed <= one for one in held) and all(needed.total() <= one.total() for one in held)


def _unexchanged(event: Data) -> Counter[Event]:
    counted: Counter[Event] = Counter()
    for term, n in terms(parse(event)).items():
        inner = term
        while isinstance(inner, Exchanged):
            inner = inner.of
        counted[inner] += n
    return counted
