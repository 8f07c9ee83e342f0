"""What may leave on a charge, and what may come back once something has left."""

from __future__ import annotations

import pytest

from privacy.errors import InvalidRequest, KeyConflict, WrongState
from privacy.events import Gaussian, Repeat
from privacy.ledger import Stop, replay
from privacy.ledger.operations import owner

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
        body["charges"] = []
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
