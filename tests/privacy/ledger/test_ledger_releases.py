"""What may leave on a charge, and what may come back once something has left."""

from __future__ import annotations

import pytest

from privacy.errors import InvalidRequest, KeyConflict, WrongState
from privacy.events import NOTHING, All, Exchanged, Gaussian, Poisson, Repeat, SampledRows
from privacy.ledger import Stop, replay
from privacy.ledger.operations import owner, run

ACCOUNT = "heart/record"
STEP = Gaussian(sigma=100.0)


def steps(times):
    return {ACCOUNT: Repeat(times=times, of=STEP)}


def egress(ledger, round_, **changes):
    line = {
        "job": "job-1",
        "round": round_,
        "name": "update",
        "protection": "dp",
        "digest": "a",
        "request": "b",
        "size": 1,
        "event": STEP,
    }
    return ledger.record_egress(**(line | changes))


@pytest.fixture
def running(place, ledger):
    """A charge for five updates and one report, read."""
    place.run(ledger, events=steps(5), releases={"update": 5, "report": 1})
    return ledger


def test_no_more_leaves_than_was_reserved(place, running):
    assert running.charge("job-1").releases == {"update": 5, "report": 1}
    lines = [egress(running, round_) for round_ in range(5)]
    for more in ({"round_": 5}, {"round_": 5, "protection": "unprotected"}):
        with pytest.raises(WrongState, match="5 releases") as refused:
            egress(running, **more)
        assert (refused.value.field, refused.value.allowed) == ("name", 5)
    with pytest.raises(WrongState) as unplanned:
        egress(running, 0, name="weights")
    assert unplanned.value.allowed == 0
    assert egress(running, 4) == lines[4]  # a repeat is no release
    egress(running, 0, name="report")
    egress(running, 9, name="schema", protection="public")
    assert running.released("job-1") == 7 and running.released("job-2") == 0
    assert running.verify().ok


def test_what_a_reservation_pays_for_is_part_of_the_request(place, ledger):
    place.reserve(ledger, releases={"update": 5})
    with pytest.raises(KeyConflict):
        place.reserve(ledger, releases={"update": 6})
    for bad in ({"update": -1}, {"update": 1.5}, {"a name": 1}):
        with pytest.raises(InvalidRequest):
            place.reserve(ledger, "job-2", releases=bad)


def test_a_forged_release_is_found(place, running, monkeypatch):
    for round_ in range(5):
        egress(running, round_)
    seq = running.head().seq + 1
    apply = replay._KINDS["egress"]

    def blind(books, body):
        body["charge"], body["number"] = "job-1", 6
        apply(books, {**body, "protection": "public"})

    with monkeypatch.context() as patch:
        patch.setattr(owner, "FREE", "dp")
        patch.setitem(replay._KINDS, "egress", blind)
        egress(running, 5)
    found = running.verify()
    assert not found.ok and found.first_bad["seq"] == seq
    assert "nothing was reserved" in found.first_bad["reason"]


def test_nothing_comes_back_unless_the_releases_were_counted(place, running):
    full = running.account("heart", "record").used
    egress(running, 0)
    running.settle("job-1", executed=steps(1), stop=Stop.OTHER_PARTY)
    assert running.account("heart", "record").used == full


def test_what_was_computed_before_another_release_is_computed_again(place, running):
    full = running.account("heart", "record").used
    egress(running, 0)
    counted = running.released("job-1")
    egress(running, 1)  # by another session of the silo
    with pytest.raises(WrongState) as stale:
        running.settle("job-1", executed=steps(1), stop=Stop.OTHER_PARTY, released=counted)
    assert (stale.value.field, stale.value.value, stale.value.allowed) == ("released", 1, 2)
    done = running.settle("job-1", executed=steps(2), stop=Stop.OTHER_PARTY, released=2)
    again = running.settle("job-1", executed=steps(2), stop=Stop.OTHER_PARTY, released=2)
    assert again == done
    assert running.account("heart", "record").used == pytest.approx(full * 2 / 5, rel=1e-6)
    assert running.verify().ok


def test_settling_on_less_than_what_was_released_is_refused(place, running):
    """The event of each release is in the log: what it cost cannot be said to be nothing."""
    for round_ in range(3):
        egress(running, round_)
    for stop in (Stop.OTHER_PARTY, Stop.COMPLETED):
        for less in (NOTHING, Repeat(times=2, of=STEP), Repeat(times=9, of=Gaussian(sigma=900.0))):
            with pytest.raises(WrongState, match="cost more") as refused:
                running.settle("job-1", executed={ACCOUNT: less}, stop=stop, released=3)
            assert refused.value.field == "executed"
    running.settle("job-1", executed=steps(3), stop=Stop.OTHER_PARTY, released=3)
    assert running.verify().ok


def test_a_release_that_costs_what_was_not_reserved_does_not_leave(place, ledger):
    place.run(ledger, events=steps(5), releases={"update": 5})
    for event in (Gaussian(sigma=1.0), Repeat(times=6, of=STEP)):
        with pytest.raises(WrongState) as refused:
            egress(ledger, 0, event=event)
        assert refused.value.field == "event"
    for round_ in range(3):  # each is in what was reserved, all together are not
        egress(ledger, round_, event=Repeat(times=2, of=STEP))
    with pytest.raises(WrongState, match="cost more"):
        ledger.settle("job-1", executed=None, stop=Stop.COMPLETED)
    ledger.settle("job-1", executed=steps(6), stop=Stop.COMPLETED)
    assert ledger.account("heart", "record").status == "breached"
    assert ledger.verify().ok


def test_releases_are_held_against_accounts_in_other_units(place, ledger):
    """A job per record: subjects face mixtures, records perhaps exchanges; each as often."""
    ledger.open_account(place.terms(unit="subject"))
    rows = SampledRows(sigma=100.0, rate=0.5, rows=2)
    step = Poisson(rate=0.5, of=STEP)

    def events(times):
        return {
            ACCOUNT: Exchanged(of=Repeat(times=times, of=step)),
            "heart/subject": Repeat(times=times, of=rows),
        }

    place.run(ledger, events=events(5), releases={"update": 5})
    egress(ledger, 0, event=All(of=(Repeat(times=2, of=step),)))
    for less in ({}, {"heart/subject": Repeat(times=1, of=rows)}):
        executed = events(1 if not less else 2) | less
        with pytest.raises(WrongState, match="cost more"):
            ledger.settle("job-1", executed=executed, stop=Stop.OTHER_PARTY, released=1)
    ledger.settle("job-1", executed=events(2), stop=Stop.OTHER_PARTY, released=1)
    assert ledger.verify().ok


def test_each_release_is_paid_by_one_charge_of_its_job(place, ledger):
    for key in ("first", "second"):
        place.run(ledger, key, job="job-1", events=steps(2), releases={"update": 2})
    for round_ in range(4):
        egress(ledger, round_)
    with pytest.raises(WrongState, match="4 releases"):
        egress(ledger, 4)
    for key in ("first", "second"):
        with pytest.raises(WrongState, match="cost more"):
            ledger.settle(key, executed=steps(1), stop=Stop.OTHER_PARTY, released=4)
        ledger.settle(key, executed=steps(2), stop=Stop.OTHER_PARTY, released=4)
    assert ledger.account("heart", "record").status == "healthy"
    assert ledger.verify().ok


def test_a_forged_settlement_on_less_is_found(place, running, monkeypatch):
    egress(running, 0)
    with monkeypatch.context() as patch:
        for module in (replay, run):
            patch.setattr(module, "covers_logged", lambda *_: True)
        running.settle("job-1", executed={ACCOUNT: NOTHING}, stop=Stop.OTHER_PARTY, released=1)
        assert running.verify().ok
    found = running.verify()
    assert not found.ok and "less than it had released" in found.first_bad["reason"]
