"""Rules that a shortcut would break: refunds, re-pricing, prices, and checks beside a writer."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from privacy.accounting import rdp as accountant
from privacy.errors import WrongState
from privacy.events import All, Gaussian, Repeat
from privacy.ledger import Stop, canonical, pricing, replay
from privacy.ledger.operations import run

ACCOUNT = "heart/record"
HALF = Repeat(times=50, of=Gaussian(sigma=100.0))


def egress(ledger, **changes):
    line = {
        "job": "job-1",
        "round": 1,
        "name": "update",
        "protection": "dp",
        "digest": "a",
        "request": "b",
        "size": 1,
        "event": None,
    }
    return ledger.record_egress(**(line | changes))


@pytest.mark.parametrize("protection", ["dp", "masked", "encrypted", "unprotected"])
def test_nothing_leaves_on_a_charge_that_could_come_back_whole(place, ledger, protection):
    place.reserve(ledger)
    ledger.start("job-1", go="g")
    with pytest.raises(WrongState, match="first read"):
        egress(ledger, protection=protection)
    egress(ledger, name="schema", protection="public")
    ledger.mark_read("job-1")
    egress(ledger, protection=protection)
    ledger.settle("job-1", executed=None, stop=Stop.OTHER_PARTY)
    assert ledger.account("heart", "record").used > 0


@pytest.mark.parametrize("stop", [Stop.OWN_FAULT, Stop.COMPLETED])
def test_a_forged_refund_is_found(place, ledger, monkeypatch, stop):
    """Sealed with the right key, returning what a stop on private data must not return."""
    place.run(ledger)
    with monkeypatch.context() as patch:
        patch.setattr(run, "RETURNING", tuple(Stop))
        patch.setattr(replay, "RETURNING", tuple(Stop))
        ledger.settle("job-1", executed={ACCOUNT: HALF}, stop=stop, released=0)
        assert ledger.verify().ok
    found = ledger.verify()
    assert not found.ok and found.first_bad["seq"] == 5
    assert "cannot have got this back" in found.first_bad["reason"]


def test_a_forged_refund_of_a_charge_that_returns_nothing_is_found(place, ledger, monkeypatch):
    place.run(ledger, refundable=False)

    def refundable(record):  # in the place of a cached reading: no other test has it or gets it
        return replay.ChargeState.read({**canonical.decode(record), "refundable": True})

    with monkeypatch.context() as patch:
        patch.setattr("privacy.ledger.rows._charge_of", refundable)
        patch.setattr("privacy.ledger.rows.charge_row", lambda *_: {})
        ledger.settle("job-1", executed={ACCOUNT: HALF}, stop=Stop.OTHER_PARTY, released=0)
    found = ledger.verify()
    assert not found.ok and found.first_bad["seq"] == 5


def test_a_forged_price_is_found(place, ledger, monkeypatch):
    """A re-pricing that lowers a charge."""
    place.run(ledger)
    true_rdp = accountant.rdp
    with monkeypatch.context() as patch:
        patch.setattr(accountant, "rdp", lambda *a, **k: 0.5 * true_rdp(*a, **k))
        patch.setattr("privacy.ledger.filters.renyi.Renyi.confront", lambda *_: None)
        patch.setattr("privacy.ledger.operations.owner._raised", lambda old, new: new)
        patch.setattr("privacy.ledger.filters.amounts.Charge.less_than", lambda *_: False)
        cheaper = place.open()
        cheaper.reprice(ACCOUNT)
        cheaper.close()
    found = ledger.verify()
    assert not found.ok and found.first_bad["seq"] == 5
    assert "lowered" in found.first_bad["reason"]


def test_repricing_breaches_against_the_claim_and_not_against_a_lowered_capacity(
    place, ledger, monkeypatch
):
    place.run(ledger)
    ledger.set_capacity(ACCOUNT, 0.3, "careful")
    assert ledger.account("heart", "record").status == "exhausted"
    true_rdp = accountant.rdp
    for factor, status in ((1.25, "exhausted"), (1000, "breached")):
        monkeypatch.setattr(accountant, "rdp", lambda *a, f=factor, **k: f * true_rdp(*a, **k))
        dearer = place.open()
        head = dearer.head().seq
        assert dearer.reprice(ACCOUNT).status == status
        assert dearer.head().seq == head + 1
        dearer.close()
    assert ledger.verify().ok


def test_verify_beside_a_writer_raises_no_false_alarm(place, ledger):
    checker = place.open()

    def write():
        for i in range(40):
            place.reserve(ledger, f"job-{i}", events={ACCOUNT: HALF.of})

    writer = threading.Thread(target=write)
    writer.start()
    looks = []
    while writer.is_alive() or not looks:
        looks.append(checker.verify())
    writer.join()
    assert all(look.ok for look in looks), [look.first_bad for look in looks if not look.ok]
    assert len({look.entries for look in looks}) > 1
    checker.close()


def test_a_price_that_takes_long_holds_nobody_up(place, ledger, monkeypatch):
    place.reserve(ledger, "known")
    asked, answer = threading.Event(), threading.Event()
    true_rdp = accountant.rdp

    def slow(*args, **kwargs):
        asked.set()
        assert answer.wait(30)
        return true_rdp(*args, **kwargs)

    monkeypatch.setattr(accountant, "rdp", slow)
    waits = threading.Thread(target=lambda: place.reserve(ledger, "slow", events={ACCOUNT: HALF}))
    waits.start()
    assert asked.wait(30)
    place.reserve(ledger, "quick")  # its price is in memory
    ledger.release("known")
    answer.set()
    waits.join(30)
    assert [entry.kind for entry in ledger.entries()][2:] == ["reserve", "release", "reserve"]


def test_more_events_than_prices_are_kept_can_be_priced_again(place, ledger, monkeypatch):
    for i in range(8):
        event = Repeat(times=i + 1, of=Gaussian(sigma=500.0))
        place.reserve(ledger, f"job-{i}", events={ACCOUNT: event})
    monkeypatch.setattr(pricing, "_KEPT", 3)
    fresh = place.open()
    fresh.reprice(ACCOUNT)  # ends
    assert fresh.head() == ledger.head()
    fresh.close()


def test_no_account_is_opened_beside_a_charge_that_would_miss_it(place, ledger):
    place.reserve(ledger, "kept", expires=place.clock.now + timedelta(hours=1))
    place.reserve(ledger, "late")
    ledger.open_account(place.terms())  # it is there
    ledger.open_account(place.terms(source="lungs"))  # of other rows
    place.clock.forward(1800)  # the other has expired
    for step in (
        lambda: None,
        lambda: ledger.start("kept", go="g"),
        lambda: ledger.mark_read("kept"),
    ):
        step()
        with pytest.raises(WrongState) as refused:
            ledger.open_account(place.terms(unit="subject"))
        assert (refused.value.field, refused.value.value) == ("source", ["kept"])
    # Settled it would be left out of what the account claims; what was given back is nothing.
    ledger.settle("kept", executed=None, stop=Stop.COMPLETED)
    with pytest.raises(WrongState, match="used already, as heart/record counts"):
        ledger.open_account(place.terms(unit="subject"))
    place.reserve(ledger, "other", events={"lungs/record": HALF})
    ledger.release("other")
    ledger.open_account(place.terms(source="lungs", unit="subject"))
    assert ledger.verify().ok


def test_no_account_is_opened_on_rows_that_left_unprotected(place, ledger):
    place.reserve(ledger, events={ACCOUNT: All(of=())})
    ledger.start("job-1", go="g")
    ledger.mark_read("job-1")
    egress(ledger, protection="unprotected")
    ledger.settle("job-1", executed=None, stop=Stop.COMPLETED)
    with pytest.raises(WrongState, match="used already"):
        ledger.open_account(place.terms(unit="subject"))


def test_a_changed_capacity_changes_no_charge(place):
    """Under `basic` a price depends on the capacity: on that of the time it was reserved."""
    ledger = place.create()
    ledger.open_account(place.terms(filter="basic", epsilon=10.0))
    for n in range(3):
        place.run(ledger, f"job-{n}", events={ACCOUNT: Gaussian(sigma=8.0)})
        ledger.settle(f"job-{n}", executed=None, stop=Stop.COMPLETED)
    place.run(ledger, "job-3", events={ACCOUNT: Repeat(times=2, of=Gaussian(sigma=8.0))})
    before = [spend.charge for spend in ledger.history(ACCOUNT)]
    for epsilon in (8.0, 12.0):
        ledger.set_capacity(ACCOUNT, epsilon, "agreed")
        head = ledger.head()
        ledger.reprice(ACCOUNT)  # the same accountant
        assert ledger.head() == head
        assert [spend.charge for spend in ledger.history(ACCOUNT)] == before
    over = {ACCOUNT: Repeat(times=3, of=Gaussian(sigma=8.0))}
    ledger.settle("job-3", executed=over, stop=Stop.COMPLETED)
    assert ledger.account("heart", "record").status == "breached"
    assert ledger.verify().ok
    ledger.close()
