"""What the coordinator tells automations: of whom, by which receipt, and once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from federation.errors import IntegrityError
from flows import events, passes
from privacy.ledger import Receipt
from secure.keys import SigningKey


def receipt(silo: str, kind: str, seq: int) -> Receipt:
    body = json.dumps({"job": "j1", "kind": kind, "ledger": "l", "seq": seq}, separators=(",", ":"))
    return Receipt(silo=silo, public="00" * 32, body=body, hash=f"{seq:064x}", signature="00" * 64)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    heard: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(events, "emit_event", lambda event, **more: heard.append((event, more)))
    return heard


def test_every_receipt_is_told_with_its_number_and_hash_and_the_same_one_twice_is_one_event(
    told: list[tuple[str, dict[str, Any]]],
) -> None:
    receipts = [receipt("north", "reserve", 3), receipt("south", "settle", 9)]
    events.tell_receipts(receipts)
    events.tell_receipts(receipts)
    assert [name for name, _ in told[:2]] == ["tacit.charge.reserve", "tacit.charge.settle"]
    assert told[:2] == told[2:] and told[0][1]["id"] != told[1][1]["id"]
    assert told[1][1]["payload"] == {"entry": 9, "hash": f"{9:064x}"}
    assert told[1][1]["resource"]["prefect.resource.id"] == "tacit.silo.south"


@pytest.mark.parametrize(("used", "low"), [(0.79, []), (0.8, ["tacit.budget.low"])])
def test_a_budget_is_low_from_four_fifths(
    told: list[tuple[str, dict[str, Any]]], used: float, low: list[str]
) -> None:
    settlement = {"north": {"receipt": receipt("north", "settle", 5).document()}}
    events.tell_budgets(settlement, {"north": {"after": {"used": used}}})
    events.tell_budgets(settlement, {"north": {"before": {"used": 1.0}}})  # not known after
    assert [name for name, _ in told] == low


def test_a_pass_is_good_for_its_silo_its_federation_and_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    word = passes.make("study", "north", key)
    assert passes.read(word, "study", {"north": key.public}) == "north"
    for federation, keys in (
        ("other", {"north": key.public}),
        ("study", {"north": other.public}),
        ("study", {"south": key.public}),
        ("study", {}),
    ):
        with pytest.raises(IntegrityError):
            passes.read(word, federation, keys)
    for bad in ("", "a", "bm90aGluZw==", word[:-8], word + "AAAA", "e30=", "W10=", "ä"):
        with pytest.raises(IntegrityError):
            passes.read(bad, "study", {"north": key.public})
    now = passes.time.time()
    for moment in (now + passes.LIFE + 1, now - 2 * passes.LIFE):  # ended; of a clock far ahead
        monkeypatch.setattr(passes.time, "time", lambda moment=moment: moment)
        with pytest.raises(IntegrityError):
            passes.read(word, "study", {"north": key.public})
