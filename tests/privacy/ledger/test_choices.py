"""What filters are said to admit of typical jobs is what a real account of theirs then admits."""

from __future__ import annotations

from functools import cache

import pytest

from privacy.errors import Refused, UnsupportedEvent
from privacy.events import Relation
from privacy.ledger import AccountTerms
from privacy.ledger.choices import TYPICAL, choices
from privacy.ledger.filters import NAMES

TERMS = {"source": "others", "unit": "record", "epsilon": 1.5, "delta": 1e-5}


@cache
def said(relation: Relation) -> dict[str, dict[str, int | None]]:
    return choices(AccountTerms(**TERMS, relation=relation))


@pytest.mark.parametrize("job", TYPICAL)
@pytest.mark.parametrize("relation", list(Relation))
@pytest.mark.parametrize("name", NAMES)
def test_an_account_admits_as_many_as_was_said_and_not_one_more(place, ledger, name, relation, job):
    terms = AccountTerms(**TERMS, relation=relation, filter=name)
    ledger.open_account(terms)
    events, count = {terms.id: TYPICAL[job]}, said(relation)[job][name]
    if count is None:
        with pytest.raises(UnsupportedEvent):
            place.reserve(ledger, events=events)
        return
    assert ledger.repeats(terms.id, TYPICAL[job]) == count
    if count <= 20:
        for i in range(count):
            place.reserve(ledger, f"job-{i}", events=events)
        with pytest.raises(Refused):
            place.reserve(ledger, "one-more", events=events)


def test_a_delta_set_aside_stays_so_under_the_filters_that_know_it():
    plain = choices(AccountTerms(**TERMS, relation="add_remove"))
    aside = choices(AccountTerms(**TERMS, relation="add_remove", delta0=9e-6))
    job = "one histogram of counts, noise 20"
    assert aside[job]["renyi"] < plain[job]["renyi"]
    assert aside[job]["basic"] == plain[job]["basic"]
