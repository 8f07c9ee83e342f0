"""The life of a charge, on both databases."""

from __future__ import annotations

import math
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from privacy.errors import (
    InvalidRequest,
    KeyConflict,
    LedgerMissing,
    LedgerTampered,
    Refused,
    UnsupportedEvent,
    WrongState,
)
from privacy.events import NOTHING, Approximate, Gaussian, Repeat
from privacy.ledger import AccountTerms, Ledger, Receipt, State, Stop
from secure.keys import SigningKey, verify

ACCOUNT = "heart/record"
JOB = Repeat(times=100, of=Gaussian(sigma=100.0))
HALF = Repeat(times=50, of=Gaussian(sigma=100.0))
MORE = Repeat(times=101, of=Gaussian(sigma=100.0))


def test_one_job_from_quote_to_settlement(place, ledger):
    quoted = ledger.would_admit(ACCOUNT, JOB)
    before = ledger.account("heart", "record")
    assert (before.spent_epsilon, before.used, before.remaining_epsilon) == (0.0, 0.0, 2.0)
    assert ledger.head().seq == 1  # a quote changes nothing

    receipt = place.reserve(ledger)
    receipt.check(place.key.public, verify)
    assert (receipt.kind, receipt.seq, receipt.job, receipt.silo) == (
        "reserve",
        2,
        "job-1",
        "north",
    )
    reserved = ledger.account("heart", "record")
    assert reserved.spent_epsilon == 0 and reserved.reserved_epsilon > 0
    assert reserved.used == quoted.used_after
    assert reserved.remaining_epsilon == pytest.approx(quoted.remaining_epsilon_after)

    ledger.start("job-1", go="g")
    ledger.mark_read("job-1")
    seq = ledger.record_egress(
        job="job-1",
        round=1,
        name="update",
        protection="dp",
        digest="a",
        request="b",
        size=9,
        event=Gaussian(sigma=100),
    )
    assert seq == 5
    ledger.settle("job-1", executed={ACCOUNT: JOB}, stop=Stop.COMPLETED)
    after = ledger.account("heart", "record")
    assert after.spent_epsilon == pytest.approx(quoted.spent_epsilon_after)
    assert after.reserved_epsilon == 0 and after.status == "healthy"
    assert ledger.charge("job-1").state is State.SETTLED
    assert [entry.kind for entry in ledger.entries()] == [
        "open",
        "reserve",
        "start",
        "read",
        "egress",
        "settle",
    ]
    checked = ledger.verify()
    assert (checked.ok, checked.entries) == (True, 6)


def test_the_same_call_again_appends_nothing(place, ledger):
    expires = place.clock.now + timedelta(minutes=5)
    first = place.reserve(ledger, expires=expires)
    assert place.reserve(ledger) == first  # a retry knows another expiry: the first one stands
    started = ledger.start("job-1", go="g")
    assert ledger.start("job-1", go="g") == started
    assert place.reserve(ledger) == first
    ledger.mark_read("job-1")
    ledger.mark_read("job-1")
    line = {
        "job": "job-1",
        "round": 1,
        "name": "update",
        "protection": "dp",
        "digest": "a",
        "request": "b",
        "size": 9,
        "event": None,
    }
    assert ledger.record_egress(**line) == ledger.record_egress(**line)
    settled = ledger.settle("job-1", executed={ACCOUNT: HALF}, stop=Stop.PUBLIC_LIMIT)
    assert ledger.settle("job-1", executed={ACCOUNT: HALF}, stop=Stop.PUBLIC_LIMIT) == settled
    assert ledger.head().seq == 6


def test_a_key_stands_for_one_request(place, ledger):
    place.reserve(ledger)
    with pytest.raises(KeyConflict):
        place.reserve(ledger, events={ACCOUNT: HALF})
    with pytest.raises(KeyConflict):
        place.reserve(ledger, refundable=False)
    with pytest.raises(KeyConflict):
        place.reserve(ledger, digest="e" * 64)
    ledger.start("job-1", go="g")
    with pytest.raises(KeyConflict):
        ledger.start("job-1", go="another")
    ledger.mark_read("job-1")
    ledger.settle("job-1", executed={ACCOUNT: JOB}, stop=Stop.COMPLETED)
    with pytest.raises(KeyConflict):
        ledger.settle("job-1", executed={ACCOUNT: HALF}, stop=Stop.COMPLETED)


def test_refused_leaves_everything_as_it_was(place, ledger):
    big = Repeat(times=100_000, of=Gaussian(sigma=10))
    head, account = ledger.head(), ledger.account("heart", "record")
    with pytest.raises(Refused) as refused:
        place.reserve(ledger, events={ACCOUNT: big})
    assert refused.value.exit_code == 3
    assert refused.value.field == ACCOUNT
    asked = ledger.would_admit(ACCOUNT, big).spent_epsilon_after
    assert refused.value.value == pytest.approx(asked) and asked > account.capacity_epsilon
    left = {"remaining_epsilon": account.remaining_epsilon, "delta": account.delta}
    assert refused.value.allowed == left
    for said in (ACCOUNT, f"epsilon {asked:.2f} ", f"of {account.capacity_epsilon:g} is left"):
        assert said in refused.value.message
    assert not ledger.would_admit(ACCOUNT, big).admissible
    assert (ledger.head(), ledger.account("heart", "record")) == (head, account)
    assert ledger.charge("job-1") is None


def test_every_account_of_a_source_is_charged_or_none(place, ledger):
    ledger.open_account(place.terms(unit="subject", epsilon=1.0))
    with pytest.raises(InvalidRequest, match="heart/subject is missing"):
        place.reserve(ledger)
    costly = Repeat(times=1500, of=Gaussian(sigma=100.0))
    with pytest.raises(Refused) as refused:
        place.reserve(ledger, events={ACCOUNT: JOB, "heart/subject": costly})
    assert refused.value.field == "heart/subject"
    assert ledger.account("heart", "record").used == 0
    place.reserve(ledger, events={ACCOUNT: JOB, "heart/subject": JOB})
    assert ledger.account("heart", "record").used > 0
    assert ledger.account("heart", "subject").used > 0


def test_release_gives_all_back_and_only_before_the_start(place, ledger):
    place.reserve(ledger)
    released = ledger.release("job-1")
    assert ledger.account("heart", "record").used == 0
    assert ledger.release("job-1") == released
    with pytest.raises(WrongState):
        place.reserve(ledger)  # the key is used up
    place.reserve(ledger, "job-2")
    ledger.start("job-2", go="g")
    with pytest.raises(WrongState):
        ledger.release("job-2")
    with pytest.raises(WrongState, match="no such charge"):
        ledger.release("job-3")


def test_reservations_expire_by_the_silos_clock_and_started_ones_never(place, ledger):
    place.reserve(ledger, "job-1")
    place.reserve(ledger, "job-2")
    place.reserve(ledger, "job-3", expires=place.clock.now + timedelta(hours=1))
    ledger.start("job-1", go="g")
    place.clock.forward(601)
    with pytest.raises(WrongState, match="expired"):
        ledger.start("job-2", go="g")
    assert ledger.expire() == 1
    assert ledger.expire() == 0
    states = [ledger.charge(f"job-{i}").state for i in (1, 2, 3)]
    assert states == [State.STARTED, State.EXPIRED, State.RESERVED]
    place.clock.forward(1e7)
    ledger.expire()
    assert ledger.charge("job-1").state is State.STARTED


def test_a_new_reservation_takes_the_room_of_an_expired_one(place, ledger):
    room = ledger.repeats(ACCOUNT, JOB)
    for i in range(room):
        place.reserve(ledger, f"job-{i}")
    with pytest.raises(Refused):
        place.reserve(ledger, "late")
    place.clock.forward(601)
    place.reserve(ledger, "late")
    assert ledger.verify().ok


def test_repeats_is_what_the_filter_admits(place, ledger):
    room = ledger.repeats(ACCOUNT, JOB)
    assert room > 3
    for i in range(room):
        assert ledger.would_admit(ACCOUNT, JOB).admissible
        place.reserve(ledger, f"job-{i}")
    assert ledger.repeats(ACCOUNT, JOB) == 0
    assert not ledger.would_admit(ACCOUNT, JOB).admissible
    assert ledger.repeats(ACCOUNT, NOTHING) is None


@pytest.mark.parametrize("stop", [Stop.PUBLIC_LIMIT, Stop.RELEASED_RESULT, Stop.OTHER_PARTY])
def test_what_was_never_run_comes_back(place, ledger, stop):
    place.run(ledger)
    full = ledger.account("heart", "record").used
    ledger.settle("job-1", executed={ACCOUNT: HALF}, stop=stop, released=0)
    assert ledger.account("heart", "record").used == pytest.approx(full / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("refundable", "executed", "stop"),
    [
        (True, HALF, Stop.OWN_FAULT),
        (True, HALF, Stop.COMPLETED),
        (False, HALF, Stop.PUBLIC_LIMIT),
        (True, None, Stop.OTHER_PARTY),
    ],
)
def test_else_the_charge_stands_whole(place, ledger, refundable, executed, stop):
    place.run(ledger, refundable=refundable)
    full = ledger.account("heart", "record").used
    executed = executed and {ACCOUNT: executed}
    ledger.settle("job-1", executed=executed, stop=stop, released=0)
    assert ledger.account("heart", "record").used == full


def test_forfeit_keeps_the_charge(place, ledger):
    place.run(ledger)
    full = ledger.account("heart", "record").used
    receipt = ledger.forfeit("job-1")
    assert ledger.forfeit("job-1") == receipt
    assert ledger.account("heart", "record").used == full
    with pytest.raises(WrongState):
        ledger.settle("job-1", executed=None, stop=Stop.COMPLETED)


@pytest.mark.parametrize("refundable", [True, False])
def test_started_but_never_read_gets_everything_back(place, ledger, refundable):
    place.reserve(ledger, refundable=refundable)
    ledger.start("job-1", go="g")
    with pytest.raises(WrongState, match="no read"):
        ledger.settle("job-1", executed={ACCOUNT: HALF}, stop=Stop.OTHER_PARTY)
    ledger.settle("job-1", executed=None, stop=Stop.OWN_FAULT)
    after = ledger.account("heart", "record")
    assert after.used == 0 and after.spent_epsilon == 0


def test_reading_needs_a_start_and_settling_needs_it_too(place, ledger):
    place.reserve(ledger)
    with pytest.raises(WrongState):
        ledger.mark_read("job-1")
    with pytest.raises(WrongState):
        ledger.settle("job-1", executed=None, stop=Stop.COMPLETED)
    with pytest.raises(WrongState):
        ledger.forfeit("job-1")


def test_an_overspend_is_charged_truly_and_closes_the_account(place, ledger):
    room = ledger.repeats(ACCOUNT, JOB)
    place.run(ledger)
    share = ledger.would_admit(ACCOUNT, JOB).charge_share
    beyond = Repeat(times=100 * (room + 5), of=Gaussian(sigma=100.0))
    ledger.settle("job-1", executed={ACCOUNT: beyond}, stop=Stop.COMPLETED)
    after = ledger.account("heart", "record")
    assert after.status == "breached" and after.remaining_epsilon == 0
    assert after.used == pytest.approx(share * (room + 5), rel=1e-3)  # not clamped
    assert after.used > 1 and after.spent_epsilon > after.capacity_epsilon
    with pytest.raises(Refused, match="breached"):
        place.reserve(ledger, "job-2", events={ACCOUNT: NOTHING})
    assert ledger.verify().ok


def test_one_step_too_many_is_an_overspend(place, ledger):
    place.run(ledger)
    ledger.settle("job-1", executed={ACCOUNT: MORE}, stop=Stop.COMPLETED)
    assert ledger.account("heart", "record").status == "breached"


def test_settling_other_accounts_than_reserved_is_refused(place, ledger):
    place.run(ledger)
    with pytest.raises(InvalidRequest):
        ledger.settle("job-1", executed={"heart/subject": JOB}, stop=Stop.COMPLETED)


def test_egress_is_written_once_and_counted_where_unprotected(place, ledger):
    place.run(ledger)
    line = {
        "job": "job-1",
        "round": 0,
        "name": "report",
        "digest": "a",
        "request": "b",
        "size": 3,
        "event": None,
    }
    ledger.record_egress(protection="unprotected", **line)
    ledger.record_egress(protection="unprotected", **line)
    assert ledger.account("heart", "record").unprotected == 1
    with pytest.raises(KeyConflict):
        ledger.record_egress(protection="unprotected", **(line | {"request": "c"}))
    with pytest.raises(KeyConflict):
        ledger.record_egress(protection="dp", **line)
    with pytest.raises(InvalidRequest, match="protection"):
        ledger.record_egress(protection="safe", **line)
    with pytest.raises(InvalidRequest):
        ledger.record_egress(protection="dp", **(line | {"size": -1}))
    with pytest.raises(WrongState, match="no running charge"):
        ledger.record_egress(protection="dp", **(line | {"job": "job-9"}))
    ledger.record_egress(protection="public", **(line | {"job": "job-9"}))


def test_capacity_changes_and_the_claim_is_the_largest(place, ledger):
    place.run(ledger)
    raised = ledger.set_capacity(ACCOUNT, 4.0, "two people agreed")
    assert (raised.capacity_epsilon, raised.largest_capacity_epsilon) == (4.0, 4.0)
    lowered = ledger.set_capacity(ACCOUNT, 0.3, "enough")
    assert (lowered.capacity_epsilon, lowered.largest_capacity_epsilon) == (0.3, 4.0)
    assert lowered.status == "exhausted"
    with pytest.raises(Refused):
        place.reserve(ledger, "job-2")
    for bad in (0, -1, math.inf, math.nan, 1e9, True):
        with pytest.raises(InvalidRequest):
            ledger.set_capacity(ACCOUNT, bad, "no")
    with pytest.raises(WrongState, match=r"allows 0\.3 now and not 4"):
        ledger.set_capacity(ACCOUNT, 5.0, "agreed before it was lowered", was=4.0)
    assert ledger.verify().ok


def test_repricing_only_raises(place, ledger, monkeypatch):
    place.run(ledger)
    before, head = ledger.account("heart", "record"), ledger.head()
    assert ledger.reprice(ACCOUNT).used == before.used
    assert ledger.head() == head  # nothing rose, nothing is written

    from privacy.accounting import rdp as accountant

    true_rdp = accountant.rdp
    for factor, expected in ((0.97, 1.0), (2.0, 2.0), (1.0, 2.0)):
        monkeypatch.setattr(accountant, "rdp", lambda *a, f=factor, **k: f * true_rdp(*a, **k))
        fresh = place.open()
        assert fresh.reprice(ACCOUNT).used == pytest.approx(expected * before.used, rel=1e-6)
        fresh.close()
    monkeypatch.setattr(accountant, "rdp", lambda *a, **k: 1000 * true_rdp(*a, **k))
    fresh = place.open()
    assert fresh.reprice(ACCOUNT).status == "breached"
    assert fresh.verify().ok
    fresh.close()


def test_delta_set_aside_pays_for_events_with_a_delta(place, ledger):
    ledger.open_account(place.terms(source="panel", delta0=4e-6))
    some = Approximate(epsilon=0.05, delta=1e-6)
    with pytest.raises(UnsupportedEvent, match="delta0"):
        place.reserve(ledger, events={ACCOUNT: some})
    for i in range(4):
        place.reserve(ledger, f"panel-{i}", events={"panel/record": some})
    with pytest.raises(Refused):
        place.reserve(ledger, "panel-4", events={"panel/record": some})
    place.reserve(ledger, "plain", events={"panel/record": Gaussian(sigma=100)})
    ledger.start("panel-0", go="g")
    with pytest.raises(WrongState, match="one after the other"):
        ledger.start("panel-1", go="g")
    ledger.settle("panel-0", executed=None, stop=Stop.COMPLETED)
    ledger.start("panel-1", go="g")


def test_requests_that_make_no_sense_are_refused(place, ledger):
    with pytest.raises(InvalidRequest):
        place.reserve(ledger, events={})
    with pytest.raises(InvalidRequest, match="no account"):
        place.reserve(ledger, events={"lungs/record": JOB})
    with pytest.raises(InvalidRequest):
        place.reserve(ledger, "a key with blanks")
    with pytest.raises(InvalidRequest, match="expired already"):
        place.reserve(ledger, expires=place.clock.now)
    with pytest.raises(InvalidRequest, match="zone"):
        place.reserve(ledger, expires=place.clock.now.replace(tzinfo=None))
    assert ledger.head().seq == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": 0},
        {"epsilon": -1},
        {"epsilon": math.nan},
        {"epsilon": math.inf},
        {"epsilon": "2"},
        {"delta": 0},
        {"delta": 1},
        {"delta": math.nan},
        {"delta0": 1e-5},
        {"delta0": 1e-6, "filter": "basic"},
        {"unit": "patient"},
        {"relation": "swap"},
        {"source": "a/b"},
        {"source": ""},
    ],
)
def test_terms_that_make_no_sense_are_refused(changes):
    good = {
        "source": "heart",
        "unit": "record",
        "relation": "add_remove",
        "epsilon": 2.0,
        "delta": 1e-5,
    }
    AccountTerms(**good)
    with pytest.raises(InvalidRequest):
        AccountTerms(**(good | changes))


def test_an_account_is_opened_once(place, ledger):
    assert ledger.open_account(place.terms()).seq == 1
    with pytest.raises(KeyConflict):
        ledger.open_account(place.terms(epsilon=3.0))
    with pytest.raises(InvalidRequest, match="filter"):
        ledger.open_account(place.terms(source="lungs", filter="natural"))
    assert len(ledger.accounts()) == 1


def test_a_ledger_is_made_once_and_opened_with_its_own_key(place, ledger, make):
    with pytest.raises(InvalidRequest, match="already"):
        place.create()
    again = place.open()
    assert again.accounts() == ledger.accounts()
    again.close()
    with pytest.raises(LedgerMissing):
        make().open()
    stranger = SigningKey.generate()
    with pytest.raises(LedgerTampered):
        Ledger.open(place.url, silo="north", head=place.head, signer=stranger, verify=verify)
    with pytest.raises(LedgerTampered, match="not of south"):
        Ledger.open(place.url, silo="south", head=place.head, signer=place.key, verify=verify)


def test_files_are_the_owners_only(place, ledger):
    files = [place.head, place.head.with_name(place.head.name + ".lock")]
    if place.sqlite:
        database = Path(place.url.removeprefix("sqlite:///"))
        files += [database, database.with_name(database.name + "-wal")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_receipts_travel_as_plain_data(place, ledger):
    receipt = place.reserve(ledger)
    again = Receipt.read(receipt.document())
    again.check(place.key.public, verify)
    for bad in (
        {**receipt.document(), "body": receipt.body.replace("job-1", "job-2")},
        {**receipt.document(), "signature": "00" * 64},
        {**receipt.document(), "hash": "00" * 32},
    ):
        with pytest.raises(LedgerTampered):
            Receipt.read(bad).check(place.key.public, verify)
    with pytest.raises(LedgerTampered):
        receipt.check(SigningKey.generate().public, verify)
    for bad in (None, {}, {**receipt.document(), "more": 1}, {**receipt.document(), "body": "{}"}):
        with pytest.raises(LedgerTampered, match="not a receipt"):
            Receipt.read(bad)


def test_an_approval_is_part_of_the_entry_and_an_entry_without_one_is_as_it_was(place, ledger):
    statement = {"body": {"by": "ada", "about": "d" * 64}, "key": "k", "signature": "s"}
    approved = place.reserve(ledger, approval=statement)
    assert approved.data["approval"] == statement
    assert place.reserve(ledger, approval=statement) == approved  # asked again
    plain = place.reserve(ledger, "job-2")
    assert set(approved.data) - set(plain.data) == {"approval"}
    assert ledger.verify().ok
