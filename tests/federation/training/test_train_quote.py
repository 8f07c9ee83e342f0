"""What a train job will cost, and the noise that makes it so: beside dp_accounting and a ledger."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.privacy_accountant import NeighboringRelation
from tests_parties import DELTA, dataset, facts, spec

from federation.errors import BadInput
from federation.jobs.base import PartyFacts, PartyQuote
from federation.jobs.train import quote
from federation.pricing import account_events
from federation.training.events import job_event
from privacy.accounting.pld import job_epsilon
from privacy.errors import InvalidEvent, Refused
from privacy.events import (
    DiscreteGaussian,
    Exchanged,
    Gaussian,
    Relation,
    SampledRows,
    Unit,
    leaves,
)
from privacy.ledger import AccountTerms, Ledger
from secure.keys import SigningKey, verify


def quoted(party: PartyFacts, **changes: Any) -> PartyQuote:
    return quote(spec(**changes), {party.silo: party})[party.silo]


def by_dp_accounting(plan: Any, rounds: int, relation: Relation, upper: bool = True) -> float:
    """The epsilon of steps and histograms, composed by dp_accounting itself on a finer grid."""
    replaced = relation is Relation.REPLACE
    options = {
        "value_discretization_interval": 2e-4,
        "pessimistic_estimate": upper,
        "use_connect_dots": upper,
    }
    step = pld.from_gaussian_mechanism(
        plan["noise_multiplier"],
        sampling_prob=plan["rate"],
        neighboring_relation=NeighboringRelation.REPLACE_ONE
        if replaced
        else NeighboringRelation.ADD_OR_REMOVE_ONE,
        **options,
    )
    whole = step.self_compose(rounds * plan["local_steps"])
    if plan["evaluations"]:
        count = pld.from_discrete_gaussian_mechanism(plan["evaluation_noise"], **options)
        whole = whole.compose(count.self_compose(plan["evaluations"] * (2 if replaced else 1)))
    return float(whole.get_epsilon_for_delta(DELTA))


@pytest.mark.parametrize(
    ("epsilon", "evaluation", "relation"),
    [
        (0.3, {}, Relation.ADD_REMOVE),
        (1.0, {"release": "none"}, Relation.ADD_REMOVE),
        (1.0, {"share": 0.6}, Relation.ADD_REMOVE),
        (4.0, {"every": 1, "share": 0.3}, Relation.ADD_REMOVE),
        (1.0, {"share": 0.6}, Relation.REPLACE),
    ],
)
def test_a_job_costs_at_most_its_epsilon_evaluation_included_and_little_less(
    epsilon: float, evaluation: dict[str, Any], relation: Relation
) -> None:
    party = facts(relation=relation)
    line = quoted(party, privacy={"epsilon": epsilon}, evaluation=evaluation)
    upper = by_dp_accounting(line.plan, 4, relation)
    assert upper <= epsilon * (1 + 1e-9) + 2e-4
    assert by_dp_accounting(line.plan, 4, relation, upper=False) >= 0.99 * epsilon - 2e-3


@pytest.mark.parametrize("relation", list(Relation))
@pytest.mark.parametrize("privacy", [{"epsilon": 2.0}, {"noise_multiplier": 3.0}])
def test_evaluation_takes_its_share_in_gaussian_terms(
    relation: Relation, privacy: dict[str, float]
) -> None:
    """Sum of 1 / sigma^2 at the histograms over that of one Gaussian that costs the whole."""
    evaluation = {"every": 2, "share": 0.4}
    line = quoted(facts(relation=relation, train=32), privacy=privacy, evaluation=evaluation)
    assert line.plan["rate"] == 1.0  # nothing is sampled: Gaussian terms are exact
    moves = 2 if relation is Relation.REPLACE else 1
    histograms = moves * line.plan["evaluations"] / line.plan["evaluation_noise"] ** 2
    steps = 8 * moves**2 / line.plan["noise_multiplier"] ** 2
    assert line.plan["evaluations"] == 2
    assert histograms / (histograms + steps) == pytest.approx(0.4, rel=0.01)


@pytest.mark.parametrize(
    ("train", "batch", "rate", "denominator"),
    [(1000, 32, 0.032, 32.0), (32, 32, 1.0, 32.0), (20, 32, 1.0, 20.0), (7, 1, 1 / 7, 1.0)],
)
def test_the_rate_is_batch_over_declared_size_at_most_one(
    train: int, batch: int, rate: float, denominator: float
) -> None:
    plan = quoted(facts(train=train), strategy={"batch_size": batch}).plan
    assert plan["rate"] == pytest.approx(rate) and plan["rate"] <= 1
    assert plan["denominator"] == pytest.approx(denominator)


def test_at_subject_level_subjects_are_counted_not_rows() -> None:
    party = facts(Unit.SUBJECT, train=1000, subjects=100, schema=dataset(5))
    plan = quoted(party, privacy={"noise_multiplier": 1.5, "unit": "subject"}).plan
    assert plan["rate"] == pytest.approx(0.32) and plan["denominator"] == pytest.approx(32)


def test_the_event_holds_every_step_and_every_histogram() -> None:
    line = quoted(facts(), evaluation={"every": 1})
    assert line.event == job_event(
        {"rate": 0.032, "local_steps": 2}, 1.5, line.plan["evaluation_noise"], 4, 4
    )
    assert [type(leaf) for leaf in leaves(line.event)] == [Gaussian, DiscreteGaussian]
    for rounds, every, times in ((9, 3, 3), (10, 3, 4), (2, 5, 1), (4, None, 1)):
        asked = spec(strategy={"rounds": rounds}, evaluation={"every": every})
        assert asked.evaluations == times


def test_more_is_never_cheaper() -> None:
    """More rounds or a larger rate need more noise for the same epsilon; more epsilon less."""

    def sigma(epsilon: float = 1.0, train: int = 1000, **strategy: int) -> float:
        line = quoted(
            facts(train=train),
            privacy={"epsilon": epsilon},
            strategy=strategy,
            evaluation={"release": "none"},
        )
        return float(line.plan["noise_multiplier"])

    assert sigma() < sigma(rounds=8)
    assert sigma(local_steps=4) == pytest.approx(sigma(rounds=8), rel=1e-9)
    assert sigma() < sigma(batch_size=64)
    assert sigma() < sigma(train=500)
    assert sigma(epsilon=2.0) < sigma()


def ledger(tmp_path: Path, *units: Unit, filter: str, **capacities: float) -> Ledger:
    made = Ledger.create(
        f"sqlite:///{tmp_path / 'ledger.db'}",
        silo="north",
        head=tmp_path / "head",
        signer=SigningKey.generate(),
        verify=verify,
    )
    for unit in units:
        made.open_account(
            AccountTerms(
                source="d",
                unit=unit,
                relation=Relation.ADD_REMOVE,
                epsilon=capacities[unit.value],
                delta=DELTA,
                filter=filter,
            )
        )
    return made


@pytest.mark.parametrize(
    ("filter", "epsilon"),
    [
        ("renyi", 0.5),
        ("renyi", 3.0),
        ("renyi1", 0.5),
        pytest.param("renyi1", 3.0, marks=pytest.mark.large),
        pytest.param("basic", 3.0, marks=pytest.mark.large),
    ],
)
def test_fit_account_fills_an_account_of_that_capacity_and_is_admitted_by_it(
    tmp_path: Path, filter: str, epsilon: float
) -> None:
    party = facts(filter=filter)
    line = quoted(party, privacy={"epsilon": epsilon, "fit": "account"})
    book = ledger(tmp_path, Unit.RECORD, filter=filter, record=epsilon)
    admission = book.would_admit("d/record", line.event)
    assert admission.admissible and admission.charge_share > 0.9
    assert line.family is not None
    less = line.family(line.plan["noise_multiplier"] * 0.98, 4)
    assert not book.would_admit("d/record", less).admissible
    # The tight price is below what the filter takes it for, and the noise above what that needs.
    tight = quoted(party, privacy={"epsilon": epsilon})
    assert line.plan["noise_multiplier"] >= tight.plan["noise_multiplier"] * 0.999
    book.close()


def test_a_job_is_charged_to_every_account_of_its_source_in_that_accounts_unit(
    tmp_path: Path,
) -> None:
    party = facts(Unit.RECORD, Unit.SUBJECT, subjects=300, schema=dataset(4))
    line = quoted(party)
    events = account_events(line.event, line.unit, party)
    assert set(events) == {"d/record", "d/subject"}
    assert events["d/record"] == Exchanged(of=line.event)  # it may push another row out
    step, histogram = leaves(events["d/subject"])
    assert step == SampledRows(sigma=1.5, rate=0.032, rows=4)
    assert histogram != DiscreteGaussian(sigma=line.plan["evaluation_noise"])
    prices = {name: job_epsilon(event, DELTA) for name, event in events.items()}
    assert prices["d/subject"] > 1.5 * prices["d/record"]
    per_subject = quoted(party, privacy={"noise_multiplier": 1.5, "unit": "subject"})
    assert account_events(per_subject.event, Unit.SUBJECT, party)["d/record"] == Exchanged(
        of=per_subject.event
    )

    book = ledger(tmp_path, Unit.RECORD, Unit.SUBJECT, filter="renyi", record=9, subject=0.5)
    with pytest.raises(Refused, match="d/subject"):
        book.reserve(
            key="j",
            job="j",
            events=events,
            releases={},
            refundable=True,
            digest="0" * 64,
            expires=datetime.now(UTC) + timedelta(minutes=10),
        )
    assert all(account.used == 0 for account in book.accounts())
    book.close()


@pytest.mark.parametrize(
    ("party", "changes", "error", "field"),
    [
        (facts(), {"privacy": {"epsilon": 1.0, "delta": 1e-5}}, BadInput, "privacy.delta"),
        (facts(), {"privacy": {"epsilon": 1, "unit": "subject"}}, BadInput, "privacy.unit"),
        (
            # An account and a declared number per subject, but rows that do not say whose they are.
            facts(Unit.SUBJECT, subjects=300),
            {"privacy": {"epsilon": 1, "unit": "subject"}},
            BadInput,
            "privacy.unit",
        ),
        (
            facts(train=500_000),
            {"strategy": {"batch_size": 100_001}},
            InvalidEvent,
            "denominator",
        ),
        (facts(), {"model": {"name": "cnn"}}, BadInput, "model.name"),
    ],
    ids=["delta", "no account", "no subject column", "batch", "cnn"],
)
def test_what_cannot_run_is_refused_at_the_quote(
    party: PartyFacts, changes: dict[str, Any], error: type[Exception], field: str
) -> None:
    with pytest.raises(error) as caught:
        quoted(party, **changes)
    assert caught.value.field == field  # type: ignore[attr-defined]
    assert caught.value.exit_code == 2  # type: ignore[attr-defined]


def test_a_large_batch_of_records_of_few_subjects_is_no_batch_of_subjects() -> None:
    party = facts(train=20_000, subjects=400, schema=dataset(100))
    assert quoted(party, strategy={"batch_size": 5000}).plan["denominator"] == 5000


def test_each_silo_has_its_own_noise_for_the_same_epsilon() -> None:
    parties = {name: facts(silo=name, train=n) for name, n in (("a", 200), ("b", 2000))}
    lines = quote(spec(privacy={"epsilon": 1.0}), parties)
    assert lines["a"].plan["noise_multiplier"] > lines["b"].plan["noise_multiplier"]
    again = quote(spec(privacy={"epsilon": 1.0}), {"b": parties["b"]})["b"]
    assert again.document() == lines["b"].document()  # a silo derives the same alone
    other = replace(parties["b"], dataset=dataset(classes=3))
    assert quote(spec(privacy={"epsilon": 1.0}), {"b": other})["b"].plan == lines["b"].plan
