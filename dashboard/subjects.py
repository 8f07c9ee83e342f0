"""What adds up for one person who is in several silos: the largest claims, not the naive sum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from dashboard.queries import AccountLine


@dataclass(frozen=True, slots=True)
class PersonLine:
    """The bound for one person of a data set, over the `silos` accounts that claim most.

    Only accounts of unit subject and of one relation are added; epsilons and deltas each by their
    largest, as a person can be in no more than so many silos.
    """

    dataset: str
    relation: str
    silos: int
    claim: float
    spent: float
    delta: float


def people(accounts: Iterable[AccountLine], most: int) -> tuple[PersonLine, ...]:
    """Add up the `most` largest epsilons and deltas, per data set and relation."""
    groups: dict[tuple[str, str], list[AccountLine]] = defaultdict(list)
    for account in accounts:
        if account.unit == "subject":
            for dataset in account.datasets or (account.source,):
                groups[dataset, account.relation].append(account)
    return tuple(
        PersonLine(
            dataset=dataset,
            relation=relation,
            silos=min(most, len(lines)),
            claim=_largest((line.claim for line in lines), most),
            spent=_largest((line.spent for line in lines), most),
            delta=_largest((line.delta for line in lines), most),
        )
        for (dataset, relation), lines in sorted(groups.items())
    )


def _largest(values: Iterable[float], most: int) -> float:
    return sum(sorted(values, reverse=True)[:most])
