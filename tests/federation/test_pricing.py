"""What a job costs at a silo: the event that each account faces, and what a subject loses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests_parties import DELTA, dataset, facts, spec

from federation.errors import BadInput
from federation.jobs.base import PartyFacts, PartyQuote
from federation.jobs.train import quote
from federation.pricing import account_events, check_terms, epsilon, subject_loss, subjects_total
from privacy.accounting import pld
from privacy.errors import UnsupportedEvent
from privacy.events import Exchanged, Gaussian, Poisson, Relation, Repeat, SampledRows, Unit

QUIET: dict[str, Any] = {"evaluation": {"release": "none"}}


def quoted(party: PartyFacts, **changes: Any) -> PartyQuote:
    return quote(spec(**changes), {party.silo: party})[party.silo]


def test_where_a_subjects_rows_are_cut_a_record_more_may_push_another_out() -> None:
    plain, cut = facts(), facts(schema=dataset(4))
    line = quoted(plain, **QUIET)
    assert account_events(line.event, Unit.RECORD, plain) == {"d/record": line.event}
    assert account_events(line.event, Unit.RECORD, cut) == {"d/record": Exchanged(of=line.event)}
    # An exchange of one record for another, priced by dp_accounting as such.
    as_replaced = pld.epsilon(line.event, DELTA, Relation.REPLACE)
    assert epsilon(quoted(cut, **QUIET).event, quoted(cut, **QUIET), cut) == pytest.approx(
        as_replaced, rel=2e-3
    )
    assert as_replaced > 1.1 * epsilon(line.event, line, plain)


def test_such_a_job_is_calibrated_for_the_exchange_evaluation_included() -> None:
    party = facts(schema=dataset(4))
    line = quoted(party, privacy={"epsilon": 1.0})
    assert 0.99 < epsilon(line.event, line, party) <= 1.0
    alone = quoted(facts(), privacy={"epsilon": 1.0})
    assert line.plan["noise_multiplier"] > alone.plan["noise_multiplier"]
    assert line.plan["evaluation_noise"] > 1.3 * alone.plan["evaluation_noise"]


def test_under_replace_it_has_no_proven_price_and_is_refused() -> None:
    party = facts(schema=dataset(4), relation=Relation.REPLACE)
    with pytest.raises(UnsupportedEvent, match="add_remove"):
        quoted(party, privacy={"epsilon": 1.0})


def test_steps_clipped_per_row_protect_no_silo() -> None:
    party = facts(Unit.SILO)
    with pytest.raises(BadInput) as caught:
        quoted(party, privacy={"unit": "silo", "epsilon": 1.0})
    assert caught.value.field == "privacy.unit" and caught.value.allowed == ["record", "subject"]


@pytest.mark.large
def test_a_subject_loses_what_all_its_rows_lose_together() -> None:
    party = facts(schema=dataset(4))
    line = quoted(party, **QUIET)
    mixture = Repeat(times=8, of=SampledRows(sigma=1.5, rate=0.032, rows=4))
    loss = subject_loss(line, party)
    assert loss is not None and loss["delta"] == DELTA
    assert loss["epsilon"] == pytest.approx(pld.epsilon(mixture, DELTA), rel=2e-3)
    single = Repeat(times=8, of=Poisson(rate=0.032, of=Gaussian(sigma=1.5)))
    assert loss["epsilon"] > 2 * pld.epsilon(single, DELTA)
    assert subject_loss(quoted(facts()), facts()) is None


def test_a_subject_job_loses_a_subject_its_own_epsilon() -> None:
    party = facts(Unit.RECORD, Unit.SUBJECT, subjects=300, schema=dataset(4))
    line = quoted(party, privacy={"unit": "subject", "epsilon": 1.0})
    loss = subject_loss(line, party)
    assert loss is not None and loss["epsilon"] == epsilon(line.event, line, party)


def test_over_silos_the_largest_epsilons_and_the_largest_deltas_add_up_each_alone() -> None:
    lines = {
        "a": {"subject": {"epsilon": 1.0, "delta": 1e-6}},
        "b": {"subject": {"epsilon": 0.9, "delta": 1e-4}},
        "c": {"subject": {"epsilon": 0.5, "delta": 1e-5}},
        "d": {"subject": None},
    }
    assert subjects_total(lines, 1) == {"epsilon": 1.0, "delta": 1e-4, "silos": 1}
    two = subjects_total(lines, 2)
    assert two["epsilon"] == pytest.approx(1.9) and two["delta"] == pytest.approx(1.1e-4)
    assert subjects_total(lines, 9)["silos"] == 3


def test_every_account_of_the_source_needs_a_delta_below_one_over_its_units() -> None:
    party = facts(Unit.RECORD, Unit.SUBJECT, subjects=300, train=1000, schema=dataset(4))
    check_terms(party)
    record, subject = party.accounts
    for accounts, units in (
        ((replace(record, delta=1.1e-3), subject), 1000),
        ((record, replace(subject, delta=1 / 300)), 300),
    ):
        with pytest.raises(BadInput, match=f"1 / {units} units"):
            check_terms(replace(party, accounts=accounts))
