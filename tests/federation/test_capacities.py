"""Raising what an account allows: two persons of the silo's policy, over the same proposal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation import capacities, statements
from federation.errors import BadInput, NotFound, PolicyRefused
from federation.home import Home
from federation.membership import Membership
from federation.silo import Silo
from secure.keys import SigningKey

SILO = "silo-2"
ACCOUNT = "breast-cancer/record"
CAPACITY = 8.0  # of the example
REASON = "board, 3 March"

Persons = dict[str, SigningKey]


def write(home: Home, **policy: Any) -> None:
    path = home.silo(SILO).config
    said = yaml.safe_load(path.read_text())
    said["policy"] |= policy
    path.write_text(yaml.safe_dump(said, sort_keys=False))


@pytest.fixture
def persons(home: Home) -> Persons:
    """Three persons, two of whom silo-2's policy enrols."""
    made = {name: SigningKey.generate() for name in ("ada", "bob", "eve")}
    write(home, approvers={name: made[name].public for name in ("ada", "bob")})
    return made


def entries(home: Home) -> list[dict[str, Any]]:
    """The ledger's entries about capacities."""
    with closing(Silo(home, SILO)) as silo:
        assert silo.ledger.verify().ok
        return [json.loads(e.body) for e in silo.ledger.entries() if e.kind == "capacity"]


def allows(home: Home) -> float:
    with closing(Silo(home, SILO)) as silo:
        return silo.ledger.account("breast-cancer", "record").capacity_epsilon


def propose(home: Home, key: SigningKey, epsilon: float = 12.0) -> Any:
    with closing(Silo(home, SILO)) as silo:
        return silo.capacities.set(ACCOUNT, epsilon, REASON, key)


def agree(home: Home, key: SigningKey) -> Any:
    with closing(Silo(home, SILO)) as silo:
        return silo.capacities.agree(ACCOUNT, key)


def waiting(home: Home) -> list[Any]:
    """What is shown of it, without a key."""
    found = {ACCOUNT: allows(home), "breast-cancer/subject": 3.0}
    return list(capacities.proposals(home, SILO, found, capacities.clock.now()))


def file(home: Home) -> Path:
    return home.silo(SILO).capacities / "breast-cancer.record.json"


def test_one_proposes_another_agrees_and_the_entry_names_both(home: Home, persons: Persons) -> None:
    before = allows(home)
    word = propose(home, persons["ada"])
    assert word.by == "ada" and (word.proposal.was, word.proposal.epsilon) == (before, 12.0)
    assert allows(home) == before and entries(home) == []
    assert [w.proposal for w in waiting(home)] == [word.proposal]

    raised = agree(home, persons["bob"])
    assert raised.capacity_epsilon == raised.largest_capacity_epsilon == 12.0
    (entry,) = entries(home)
    said = [
        statements.read(statement, persons[name].public, kind="capacity")
        for name, statement in zip(("ada", "bob"), entry["agreed"], strict=True)
    ]
    assert [body["by"] for body in said] == ["ada", "bob"]
    assert said[0]["proposal"] == said[1]["proposal"] == word.proposal.model_dump(mode="json")
    assert entry["epsilon"] == 12.0 and entry["reason"] == REASON
    assert not file(home).exists()
    with pytest.raises(NotFound):
        agree(home, persons["bob"])


def test_one_person_raises_nothing(home: Home, persons: Persons) -> None:
    with closing(Silo(home, SILO)) as silo:
        with pytest.raises(PolicyRefused, match="takes two persons") as caught:
            silo.capacities.set(ACCOUNT, 12.0, REASON)
        assert caught.value.exit_code == 3 and caught.value.allowed == ["ada", "bob"]
    propose(home, persons["ada"])
    with pytest.raises(BadInput, match="ada proposed this; a second person"):
        agree(home, persons["ada"])
    for stranger in (persons["eve"], SigningKey.load(home.silo(SILO).key)):
        with pytest.raises(BadInput, match="nobody is enrolled"):
            agree(home, stranger)
        with pytest.raises(BadInput, match="nobody is enrolled"):
            propose(home, stranger)
    assert entries(home) == []
    agree(home, persons["bob"])  # what was refused spoiled nothing


@pytest.mark.parametrize("enrolled", [(), ("ada",)])
def test_a_silo_without_two_persons_says_whom_it_lacks(
    home: Home, persons: Persons, enrolled: tuple[str, ...]
) -> None:
    write(home, approvers={name: persons[name].public for name in enrolled})
    with pytest.raises(PolicyRefused, match=f"enrolled: {' '.join(enrolled) or 'nobody'} "):
        propose(home, persons["ada"])


def test_a_party_of_the_federation_is_no_person(home: Home, persons: Persons) -> None:
    party = SigningKey.load(home.coordinator_key)
    write(home, approvers={"ada": persons["ada"].public, "bob": party.public})
    with pytest.raises(BadInput, match="has the key of a party"):
        propose(home, persons["ada"])


def test_lowering_takes_one_and_ends_a_proposal(home: Home, persons: Persons) -> None:
    propose(home, persons["ada"])
    with closing(Silo(home, SILO)) as silo:
        assert silo.capacities.set(ACCOUNT, 6.0, "enough") is None
    (entry,) = entries(home)
    assert entry["epsilon"] == 6.0 and entry["agreed"] == []
    with pytest.raises(NotFound):
        agree(home, persons["bob"])
    with closing(Silo(home, SILO)) as silo, pytest.raises(PolicyRefused):
        silo.capacities.set(ACCOUNT, CAPACITY, "back again")  # raised, if only to what it was


def test_a_policy_may_leave_it_to_one_and_the_entry_shows_it(home: Home) -> None:
    write(home, raised_by=1)
    with closing(Silo(home, SILO)) as silo:
        assert silo.capacities.set(ACCOUNT, 12.0, REASON) is None
    (entry,) = entries(home)
    assert entry["epsilon"] == 12.0 and entry["agreed"] == []


def _lower(home: Home, _: Persons, __: pytest.MonkeyPatch) -> None:
    with closing(Silo(home, SILO)) as silo:
        silo.ledger.set_capacity(ACCOUNT, 7.0, "in the meantime")


def _later(home: Home, _: Persons, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(capacities.clock, "now", lambda: datetime.now(UTC) + timedelta(days=8))


def _earlier(home: Home, _: Persons, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(capacities.clock, "now", lambda: datetime.now(UTC) - timedelta(hours=1))


def _dismissed(home: Home, persons: Persons, _: pytest.MonkeyPatch) -> None:
    write(home, approvers={"bob": persons["bob"].public, "eve": persons["eve"].public})


def _renamed(home: Home, persons: Persons, _: pytest.MonkeyPatch) -> None:
    write(home, approvers={"bob": persons["bob"].public, "eve": persons["ada"].public})


def _larger(home: Home, _: Persons, __: pytest.MonkeyPatch) -> None:
    said = json.loads(file(home).read_text())
    said["body"]["proposal"]["epsilon"] = 100.0
    file(home).write_text(json.dumps(said))


def _garbled(home: Home, _: Persons, __: pytest.MonkeyPatch) -> None:
    file(home).write_text("[" * 100_000)


def _listed(home: Home, _: Persons, __: pytest.MonkeyPatch) -> None:
    file(home).write_text('{"key": ["ada"]}')


def _signed_otherwise(field: str, value: Any) -> Callable[..., None]:
    """Ada's own signature, over a proposal that was made for something else."""

    def change(home: Home, persons: Persons, _: pytest.MonkeyPatch) -> None:
        body = json.loads(file(home).read_text())["body"]
        body["proposal"][field] = value
        file(home).write_text(json.dumps(statements.sign(body, persons["ada"])))

    change.__name__ = f"_other_{field}"
    return change


def _other_head(home: Home, persons: Persons, _: pytest.MonkeyPatch) -> None:
    body = json.loads(file(home).read_text())["body"]
    body["head"]["hash"] = "0" * 64
    file(home).write_text(json.dumps(statements.sign(body, persons["ada"])))


@pytest.mark.parametrize(
    "change",
    [
        _lower,
        _later,
        _earlier,
        _dismissed,
        _renamed,
        _larger,
        _garbled,
        _listed,
        _other_head,
        _signed_otherwise("silo", "silo-1"),
        _signed_otherwise("account", "breast-cancer/subject"),
        _signed_otherwise("federation", "another"),
        _signed_otherwise("membership", 2),
        _signed_otherwise("was", 7.5),
    ],
    ids=lambda change: change.__name__.strip("_"),
)
def test_a_proposal_that_does_not_hold_any_more_raises_nothing(
    home: Home, persons: Persons, monkeypatch: pytest.MonkeyPatch, change: Callable[..., None]
) -> None:
    propose(home, persons["ada"])
    assert Membership.load(home).terms.version == 1
    change(home, persons, monkeypatch)
    before = allows(home)
    with pytest.raises(NotFound, match="nobody has proposed"):
        agree(home, persons["bob"])
    assert allows(home) == before
    if change is not _other_head:  # which only the ledger knows
        assert waiting(home) == []


def test_a_proposal_serves_once(home: Home, persons: Persons, tmp_path: Path) -> None:
    propose(home, persons["ada"])
    shutil.copy(file(home), tmp_path / "kept")
    agree(home, persons["bob"])
    with closing(Silo(home, SILO)) as silo:
        silo.capacities.set(ACCOUNT, CAPACITY, "back to what it was")
    shutil.copy(tmp_path / "kept", file(home))
    with pytest.raises(NotFound):
        agree(home, persons["bob"])
    assert allows(home) == CAPACITY


def test_an_account_that_is_not_there_is_named(home: Home, persons: Persons) -> None:
    with closing(Silo(home, SILO)) as silo, pytest.raises(NotFound, match="has no account"):
        silo.capacities.set("heart/record", 12.0, REASON, persons["ada"])
