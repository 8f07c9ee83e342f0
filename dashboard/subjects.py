"""What adds up for one person who is in several silos: the largest claims, not the naive sum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dashboard.queries import AccountLine


@dataclass(frozen=True, slots=True)
class PersonLine:
    """The bound for one person of a data set, over the `silos` accounts that claim most.

    Only accounts of unit subject and of one relation are added, at silos that declare rows of the
    data set, as nobody is in the others; epsilons and deltas each by their largest, as a person can
    be in no more than so many silos.
    """

    dataset: str
    relation: str
    silos: int
    claim: float
    spent: float
    delta: float


def people(
    accounts: Iterable[AccountLine], holders: Mapping[str, tuple[str, ...]], most: int | None
) -> tuple[PersonLine, ...]:
    """Add up the `most` largest epsilons and deltas, per data set and relation.

    `holders` are the silos with rows of each data set; `most` None: one person can be in all of
    them.
    """
    groups: dict[tuple[str, str], list[AccountLine]] = defaultdict(list)
    for account in accounts:
        if account.unit == "subject":
            for dataset in account.datasets or (account.source,):
                if account.silo in holders.get(dataset, (account.silo,)):
                    groups[dataset, account.relation].append(account)
    return tuple(
        _person(dataset, relation, lines, most)
        for (dataset, relation), lines in sorted(groups.items())
    )


def _person(dataset: str, relation: str, lines: list[AccountLine], most: int | None) -> PersonLine:
    silos = len(lines) if most is None else min(most, len(lines))
    return PersonLine(
        dataset=dataset,
        relation=relation,
        silos=silos,
        claim=_largest((line.claim for line in lines), silos),
        spent=_largest((line.spent for line in lines), silos),
        delta=_largest((line.delta for line in lines), silos),
    )


def _largest(values: Iterable[float], most: int) -> float:
    return sum(sorted(values, reverse=True)[:most])
