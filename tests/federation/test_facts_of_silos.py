"""What silos tell of themselves is held against federation.yaml, and every answer is read first."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest
from tests_jobs_here import spec

from federation import lifecycle
from federation.answers import receipt
from federation.books import open_ledger, open_mirror
from federation.embedded import Embedded
from federation.errors import IntegrityError
from federation.home import Home
from federation.jobs.base import FACTS, PartyFacts
from federation.parties import Parties
from federation.record import Job
from federation.remote import Remote
from federation.settings import Sizes
from federation.silo import Silo
from privacy.events import Unit
from privacy.ledger import Receipt
from secure.errors import BadMessage

LIAR = "silo-3"
HUGE = 10**400
SECRET = "age 43"


def sizes(facts: PartyFacts) -> PartyFacts:
    return replace(facts, sizes=Sizes(train=99_999, test=99_999))


def fewer_features(facts: PartyFacts) -> PartyFacts:
    features = dict(list(facts.dataset.features.items())[:-1])
    return replace(facts, dataset=facts.dataset.model_copy(update={"features": features}))


def other_order(facts: PartyFacts) -> PartyFacts:
    features = dict(reversed(facts.dataset.features.items()))
    return replace(facts, dataset=facts.dataset.model_copy(update={"features": features}))


def another_silo(facts: PartyFacts) -> PartyFacts:
    return replace(facts, silo="silo-1")


def no_silo(facts: PartyFacts) -> PartyFacts:
    return replace(facts, silo=SECRET)


@pytest.mark.parametrize(
    ("lie", "field"),
    [
        (sizes, "sizes"),
        (fewer_features, "dataset"),
        (other_order, "dataset"),
        (another_silo, "silo"),
        (no_silo, "silo"),
    ],
)
def test_a_silo_that_tells_other_facts_than_are_on_file_is_refused_before_any_reserves(
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    lie: Callable[[PartyFacts], PartyFacts],
    field: str,
) -> None:
    honest = Silo.facts

    def hostile(self: Silo, dataset: str) -> PartyFacts:
        facts = honest(self, dataset)
        return lie(facts) if self.name == LIAR else facts

    job = Job.create(home, spec())
    with Embedded(home) as parties, open_mirror(home) as mirror:
        monkeypatch.setattr(Silo, "facts", hostile)
        for step in (
            lambda: lifecycle.quote(job.spec, parties),
            lambda: lifecycle.reserve(job, parties, mirror),
        ):
            with pytest.raises(IntegrityError, match="gather the newest bundle") as caught:
                step()
            assert caught.value.field == field and LIAR in caught.value.message
            assert SECRET not in str(vars(caught.value))
        monkeypatch.undo()
        assert parties.facts(job.spec.dataset)[LIAR].sizes.train < 99_999
    for silo in home.silo_names():
        ledger = open_ledger(home, silo)
        assert ledger.charge(job.id) is None
        ledger.close()


# Answers of another form


class Says(Embedded):
    """Silos of which any may have sent anything."""

    said: Any = None

    def call(self, silo: str, verb: str, **said: Any) -> Any:
        return self.said


def honest(parties: Parties, verb: str, **said: Any) -> dict[str, Any]:
    answer: dict[str, Any] = Embedded.call(parties, LIAR, verb, **said)  # type: ignore[arg-type]
    return answer


ANYTHING: list[Any] = [None, 7, HUGE, SECRET, [], [SECRET], {}, {"silo": 3}, {SECRET: SECRET}]


def asked(parties: Parties) -> dict[str, Callable[[], object]]:
    job, manifest = spec(), {"body": {"job": "j"}}
    return {
        "facts": lambda: parties.facts(job.dataset, [LIAR]),
        "price": lambda: parties.price(LIAR, job),
        "what_fits": lambda: parties.what_fits(LIAR, job),
        "balance": lambda: parties.balance(LIAR, job.dataset, Unit.RECORD),
        "standing": lambda: parties.standing(LIAR, "j"),
        "epsilons": lambda: parties.epsilons(LIAR, "j"),
        "reserve": lambda: parties.reserve(LIAR, manifest),
        "start": lambda: parties.start(LIAR, "j", {}),
        "settle": lambda: parties.settle(LIAR, "j"),
        "end": lambda: parties.end(LIAR, "j"),
    }


def test_what_is_no_answer_is_a_bad_message_and_not_shown(home: Home) -> None:
    with Says(home) as parties:
        for verb, ask in asked(parties).items():
            for said in ANYTHING:
                if (verb, said) in (("end", None), ("what_fits", {})):
                    continue  # never reserved here; nothing that scales
                parties.said = said
                with pytest.raises(BadMessage) as caught:
                    ask()
                assert LIAR in caught.value.message and caught.value.value == LIAR
                assert SECRET not in str(vars(caught.value)), verb


def changed(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy with one value in another's place."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    place: Any = copy
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("facts", ("accounts", 0, "delta")),
        ("facts", ("accounts", 0, "delta0")),
        ("facts", ("sizes", "train")),
        ("price", ("epsilon",)),
        ("price", ("delta",)),
        ("price", ("remaining_epsilon",)),
        ("price", ("admissible",)),
        ("price", ("accounts",)),
        ("price", ("subject",)),
        ("balance", ("used",)),
        ("balance", ("unprotected",)),
        ("balance", ("relation",)),
        ("what_fits", ("epsilon",)),
        ("what_fits", ("rounds",)),
    ],
)
def test_every_number_of_an_answer_is_one(home: Home, verb: str, path: tuple[Any, ...]) -> None:
    job = spec()
    said = {
        "facts": {"dataset": job.dataset},
        "balance": {"dataset": job.dataset, "unit": "record"},
    }.get(verb, {"spec": job.model_dump(mode="json")})
    with Says(home) as parties:
        true = honest(parties, verb, **said)
        ask = asked(parties)[verb]
        parties.said = json.loads(json.dumps(true))  # as it travels
        came = ask()
        if verb == "facts":
            came = FACTS.dump_python(came[LIAR], mode="json")  # type: ignore[index]
        assert came == true
        for value in (HUGE, float("nan"), SECRET, [1], {}):
            parties.said = changed(true, path, value)
            with pytest.raises(BadMessage):
                ask()


def test_an_epsilon_that_nothing_bounds_is_an_answer(home: Home) -> None:
    with Says(home) as parties:
        true = honest(parties, "price", spec=spec().model_dump(mode="json"))
        for path in (("epsilon",), ("accounts", next(iter(true["accounts"])), "used_after")):
            parties.said = changed(true, path, float("inf"))
            assert parties.price(LIAR, spec()) == parties.said
        parties.said = {"epsilon": 1.0}  # who says an epsilon says rounds: both are shown
        with pytest.raises(BadMessage):
            parties.what_fits(LIAR, spec())


ENTRY = {"seq": 7, "kind": "settle", "job": "j", "ledger": "l", "prev": "p"}


def signed(silo: str = LIAR, **body: Any) -> dict[str, Any]:
    said = {name: value for name, value in (ENTRY | body).items() if value is not None}
    return Receipt(silo, "public", json.dumps(said), "hash", "signature").document()


def test_a_receipt_is_of_the_silo_and_about_the_job_that_was_asked() -> None:
    assert receipt(LIAR, "j", signed()).seq == 7
    # Entries about several jobs: expiry, and a ledger that was restored.
    for several in ({"keys": ["i", "j"]}, {"forfeited": ["j"]}, {"charges": {"j": {}}}):
        assert receipt(LIAR, "j", signed(job=None, **several)).seq == 7
    for other in (
        signed("silo-1"),
        signed(job="i"),
        signed(job=None),
        signed(job=None, keys=7),
        signed(job=["j"]),
        signed(ledger=None),
        signed(prev=None),
        signed(seq=HUGE),
        signed(seq=-1),
        signed() | {"body": "[" * 100_000},
        signed() | {"body": 7},
    ):
        with pytest.raises(BadMessage):
            receipt(LIAR, "j", other)


# Over an exchange


class Answered(Remote):
    """A coordinator to whom silos have sent these bytes; nothing is between them."""

    def __init__(self, home: Home, sent: dict[str, bytes]) -> None:
        Parties.__init__(self, home)
        self._sent = sent

    def close(self) -> None:
        """There is no connection."""

    def _gather(
        self, silos: Collection[str], verb: str, said: dict[str, Any], patience: float
    ) -> dict[str, bytes]:
        return {silo: self._sent[silo] for silo in silos if silo in self._sent}


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"answer": "hi"}',
        b'{"answer": {"time": "soon"}}',
        b'{"answer": {"time": true}}',
        b'{"answer": {"time": 1' + b"0" * 400 + b"}}",
        b'{"answer": {"time": 1' + b"0" * 5000 + b"}}",
        b'{"answer": {"time": NaN}}',
        b'{"answer": {"time": Infinity}}',
        b'{"answer": {}}',
        b'{"answer": null, "error": null}',
        b'{"error": {"code": "FED-003", "message": 7}}',
        b'{"error": "no"}',
    ],
    ids=range(14),
)
def test_a_silo_that_says_no_time_does_not_serve_and_hides_no_other(
    home: Home, sent: bytes
) -> None:
    now = json.dumps({"answer": {"time": 1_700_000_000.0}}).encode()
    with Answered(home, {"silo-1": now, LIAR: sent}) as parties:
        lines = {silo: parties.hello(silo) for silo in home.silo_names()}
    assert lines.pop("silo-1")["serves"]
    assert set(lines) == {"silo-2", LIAR}
    assert all(line == {"serves": False, "clock_offset": None} for line in lines.values())
