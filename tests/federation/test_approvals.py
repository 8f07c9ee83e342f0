"""A silo that wants a person's word: what is asked, what counts as an answer, what voids it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests_jobs_here import allow, drive, spec

from federation import approvals, lifecycle, statements
from federation.admission import Admission
from federation.approvals import Answer, Request, lines, needed, standing
from federation.books import open_ledger, open_mirror, verification
from federation.embedded import Embedded
from federation.errors import (
    ApprovalNeeded,
    BadInput,
    IntegrityError,
    NotFound,
    PolicyRefused,
    retold,
    told,
)
from federation.home import Home
from federation.jobfiles import JobFiles
from federation.membership import Membership
from federation.policy import Policy
from federation.record import Job
from federation.report import result_of
from federation.silo import Silo
from federation.waiting import decided
from privacy.ledger import clock
from secure.keys import SigningKey

SILO = "silo-2"
DAY = timedelta(days=1)


@pytest.fixture
def ada() -> SigningKey:
    return SigningKey.generate()


def ask(home: Home, *persons: SigningKey, silos: tuple[str, ...] = (SILO,), **policy: Any) -> None:
    """Let some silos ask for approval by persons called ada, bob, ..."""
    names = dict(zip(("ada", "bob", "eve"), (p.public for p in persons), strict=False))
    for silo in silos:
        allow_one(home, silo, **{"approval_above": 0, "approvers": names} | policy)


def allow_one(home: Home, silo: str, **policy: Any) -> None:
    path = home.silo(silo).config
    said = yaml.safe_load(path.read_text())
    said["policy"] |= policy
    path.write_text(yaml.safe_dump(said, sort_keys=False))


def answer(
    home: Home, job: str, key: SigningKey, silo: str = SILO, refuse: str | None = None
) -> Answer:
    opened = Silo(home, silo)
    try:
        return opened.approvals.answer(job, key, refuse=refuse)
    finally:
        opened.close()


def files(home: Home, job: str, silo: str = SILO) -> JobFiles:
    return JobFiles(home.silo(silo).jobs / job)


def reserve(home: Home, job: Job) -> str:
    """Drive a job up to its reservation only; return its status."""
    with job.working(), Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.reserve(job, parties, mirror)
    return job.status


def shut() -> dict[str, Any]:
    """Hours that begin five hours from now, for a minute."""
    begin = datetime.now(UTC) + timedelta(hours=5)
    window = f"{begin:%a %H:%M}-{begin + timedelta(minutes=1):%H:%M}".lower()
    return {"zone": "UTC", "open": [window]}


def charges(home: Home, job: str) -> list[Any]:
    found = []
    for silo in home.silo_names():
        ledger = open_ledger(home, silo)
        found.append(ledger.charge(job))
        ledger.close()
    return found


def waiting(home: Home, **changes: Any) -> Job:
    job = Job.create(home, spec(**changes))
    assert reserve(home, job) == "waiting"
    return job


# The life of a job that waits


def test_a_job_waits_with_nothing_reserved_and_goes_on_once_approved(
    home: Home, ada: SigningKey
) -> None:
    ask(home, ada)
    job = waiting(home)
    assert result_of(job)["status"] == job.shown_status() == "interrupted"
    assert charges(home, job.id) == [None] * 3
    said = job.error["message"] if job.error else ""
    assert job.error and job.error["code"] == ApprovalNeeded.code
    for part in (SILO, "by ada", f"tacit job approve {job.id} --silo {SILO}", "tacit job resume"):
        assert part in said

    # Still nobody has answered: the job asks again, in another manifest, for the same approval.
    first = files(home, job.id).request()
    assert drive(home, job)["status"] == "interrupted"
    assert files(home, job.id).request() == first

    given = answer(home, job.id, ada)
    result = drive(home, job)
    assert result["status"] == "completed" and result["error"] is None
    assert result["approvals"] == {
        SILO: {"by": "ada", "at": given.at.isoformat(timespec="seconds"), "approved": given.about}
    }
    report = Path(result["report"]).read_text()
    assert "## Approvals" in report and given.about in report and "| ada |" in report


def test_the_approval_is_part_of_the_ledgers_entry_and_its_receipt(
    home: Home, ada: SigningKey
) -> None:
    ask(home, ada)
    job = waiting(home)
    answer(home, job.id, ada)
    reserve(home, job)
    ledger = open_ledger(home, SILO)
    (entry,) = (e for e in ledger.entries() if e.kind == "reserve")
    ledger.close()
    assert entry.data["approval"] == files(home, job.id).approval()
    body = statements.read(entry.data["approval"], ada.public, kind="approval")
    assert body["job"] == job.id and body["by"] == "ada"
    assert verification(home, None)["ok"]
    # Elsewhere nobody asked, and the entries are as they always were.
    other = open_ledger(home, "silo-1")
    assert all("approval" not in e.data for e in other.entries())
    other.close()


def test_every_silo_is_asked_at_once_and_one_refusal_withdraws_all(
    home: Home, ada: SigningKey
) -> None:
    ask(home, ada, silos=("silo-1", "silo-3"))
    job = waiting(home)
    assert job.error and "silo-1" in job.error["message"] and "silo-3" in job.error["message"]
    answer(home, job.id, ada, "silo-1")
    assert reserve(home, job) == "waiting"
    assert job.error and "silo silo-1" not in job.error["message"]
    answer(home, job.id, ada, "silo-3", refuse="NOT-THIS-YEAR")
    with pytest.raises(PolicyRefused, match=r"silo-3: ada refused job .*: NOT-THIS-YEAR") as caught:
        reserve(home, job)
    assert not isinstance(caught.value, ApprovalNeeded) and caught.value.exit_code == 3
    assert job.status == "refused" and charges(home, job.id) == [None] * 3
    assert lines(home, "silo-1", clock.now()) == ()


def test_a_refusal_elsewhere_asks_nobody_for_an_approval_in_vain(
    home: Home, ada: SigningKey
) -> None:
    ask(home, ada, silos=("silo-1",))
    allow_one(home, "silo-3", kinds=["infer"])
    with pytest.raises(PolicyRefused, match="silo-3"):
        reserve(home, Job.create(home, spec()))
    assert lines(home, "silo-1", clock.now()) == ()


def test_a_waiting_job_that_is_cancelled_needs_nobody_any_more(home: Home, ada: SigningKey) -> None:
    ask(home, ada)
    job = waiting(home)
    with Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.cancel(job, parties, mirror)
        with pytest.raises(NotFound):
            parties.standing(SILO, job.id)
    assert job.status == "cancelled" and lines(home, SILO, clock.now()) == ()
    with pytest.raises(NotFound):
        answer(home, job.id, ada)


def test_the_threshold_is_the_epsilon_of_the_quote_at_this_silo(
    home: Home, ada: SigningKey
) -> None:
    with Embedded(home) as parties:
        price = lifecycle.quote(spec(), parties)["silos"][SILO]["epsilon"]
    ask(home, ada, approval_above=price * 1.0001)
    assert reserve(home, Job.create(home, spec())) == "reserved"
    ask(home, ada, approval_above=price * 0.9999)
    assert waiting(home).error


def test_what_no_epsilon_bounds_needs_approval_above_any_threshold(
    home: Home, ada: SigningKey
) -> None:
    allow(home, no_privacy=True)
    ask(home, ada, approval_above=1000)
    job = waiting(home, privacy={"none": True}, evaluation={"release": "none"})
    assert job.error and "no epsilon bounds" in job.error["message"]
    assert needed(0, 0.0) and needed(5, None) and needed(5, 5.1) and not needed(5, 5.0)


def test_the_coordinator_learns_when_all_have_answered(home: Home, ada: SigningKey) -> None:
    ask(home, ada, silos=("silo-1", SILO))
    job = waiting(home)
    with Embedded(home) as parties:
        assert not decided(job, parties)
        answer(home, job.id, ada, "silo-1")
        assert not decided(job, parties)
        answer(home, job.id, ada)
        assert decided(job, parties)
        ask(home, ada, hours=shut())
        assert not decided(job, parties)


def test_outside_its_hours_a_silo_refuses_but_an_approved_job_keeps_waiting(
    home: Home, ada: SigningKey
) -> None:
    ask(home, ada)
    job = waiting(home)
    answer(home, job.id, ada)
    ask(home, ada, hours=shut())
    with pytest.raises(PolicyRefused, match="next from"):
        reserve(home, Job.create(home, spec()))
    with pytest.raises(PolicyRefused, match="next from"):
        reserve(home, job)
    assert job.status == "waiting"
    ask(home, ada, hours={"zone": "UTC", "open": ["mon-sun 00:00-24:00"]})
    assert reserve(home, job) == "reserved"


def test_a_job_that_has_begun_goes_on_when_the_hours_are_over(home: Home) -> None:
    job = Job.create(home, spec())
    with Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.reserve(job, parties, mirror)
        lifecycle.start(job, parties, mirror)
    allow(home, hours=shut())
    assert drive(home, job)["status"] == "completed"


def test_hours_that_end_before_the_start_give_everything_back(home: Home) -> None:
    job = Job.create(home, spec())
    with Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.reserve(job, parties, mirror)
    allow(home, hours=shut())
    with pytest.raises(PolicyRefused, match="next from"):
        drive(home, job)
    assert job.status == "refused"
    assert [c.state.value for c in charges(home, job.id)] == ["released"] * 3


def test_declared_units_of_all_silos_of_a_job_count(home: Home) -> None:
    federation = home.federation()
    total = sum(f.sizes["breast-cancer"].train for f in federation.silos.values())
    allow(home, minimum_units=total)
    assert reserve(home, Job.create(home, spec())) == "reserved"
    allow(home, minimum_units=total + 1)
    with pytest.raises(PolicyRefused, match=f"this one has {total}"):
        reserve(home, Job.create(home, spec()))


# What voids an approval


def hold(name: str, value: Any) -> Callable[[pytest.MonkeyPatch, Home], None]:
    return lambda patch, home: patch.setattr(name, value)


def resize(home: Home) -> None:
    said = yaml.safe_load(home.federation_file.read_text())
    said["silos"][SILO]["sizes"]["breast-cancer"]["train"] += 10
    home.federation_file.write_text(yaml.safe_dump(said, sort_keys=False))
    for name in home.silo_names():
        Membership.countersign(home, name)


def other_code(patch: pytest.MonkeyPatch) -> None:
    for module in ("federation.manifest", "federation.lifecycle"):
        patch.setattr(f"{module}.code_version", lambda: "c" * 64)


@pytest.mark.parametrize("change", ["spec", "quote", "code", "expiry", "approver", "ledger"])
def test_any_change_voids_an_approval_and_a_new_one_is_asked_for(
    home: Home, ada: SigningKey, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    ask(home, ada)
    job = waiting(home)
    answer(home, job.id, ada)
    before = files(home, job.id).request()
    if change == "spec":
        record = json.loads((job.directory / "job.json").read_text())
        record["spec"]["strategy"]["learning_rate"] = 0.4
        (job.directory / "job.json").write_text(json.dumps(record))
        job = Job(home, job.id)
    elif change == "quote":
        resize(home)
    elif change == "code":
        other_code(monkeypatch)
    elif change == "expiry":
        monkeypatch.setattr(approvals.clock, "now", lambda: datetime.now(UTC) + 8 * DAY)
    elif change == "approver":
        ask(home, SigningKey.generate())
    else:
        monkeypatch.setattr("privacy.ledger.Ledger.knows", lambda self, head: False)
        job.update("waiting")  # the coordinator's own check of the head would come first
        monkeypatch.setattr(Admission, "_check_head", lambda self, asked: None)
    assert reserve(home, job) == "waiting"
    assert charges(home, job.id) == [None] * 3
    after = files(home, job.id).request()
    assert before and after
    anew = change in ("spec", "quote", "code")
    assert (after["nonce"] != before["nonce"]) == anew
    if change in ("spec", "quote", "code", "expiry"):
        answer(home, job.id, ada)
        assert reserve(home, job) == "reserved"


def test_an_approval_serves_one_job_only(home: Home, ada: SigningKey) -> None:
    ask(home, ada)
    first = waiting(home)
    answer(home, first.id, ada)
    reserve(home, first)
    second = waiting(home)
    statement = files(home, first.id).approval()
    assert statement
    files(home, second.id).keep_approval(statement)
    assert reserve(home, second) == "waiting"


def test_an_approval_is_not_burnt_by_asking_too_early_nor_by_a_crash(
    home: Home, ada: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator dies between two reservations; the job goes on with the same manifest."""
    ask(home, ada)
    job = waiting(home)
    answer(home, job.id, ada)
    honest = Embedded.call

    def dies(self: Embedded, silo: str, verb: str, **said: Any) -> Any:
        if (silo, verb) == ("silo-3", "reserve"):
            raise KeyboardInterrupt
        return honest(self, silo, verb, **said)

    monkeypatch.setattr(Embedded, "call", dies)
    with pytest.raises(KeyboardInterrupt):
        reserve(home, job)
    monkeypatch.setattr(Embedded, "call", honest)
    assert reserve(home, Job(home, job.id)) == "reserved"


# What counts as an answer


def request_and(key: SigningKey, **changes: Any) -> tuple[Request, dict[str, Any], Policy]:
    request = Request(
        federation="f",
        membership=1,
        silo="north",
        job="j",
        spec={"kind": "train"},
        code="c" * 64,
        quote={"delta": 1e-5},
        epsilon=1.0,
        above=0.5,
        asked=datetime(2026, 1, 1, tzinfo=UTC),
        nonce="0" * 32,
    )
    body = {
        "kind": "approval",
        "action": "run",
        "federation": "f",
        "membership": 1,
        "silo": "north",
        "job": "j",
        "about": request.about,
        "nonce": "0" * 32,
        "head": {"entry": 1, "hash": "d" * 64},
        "by": "ada",
        "at": "2026-01-02T00:00:00+00:00",
        "until": "2026-01-09T00:00:00+00:00",
        "reason": None,
    } | changes
    policy = Policy(approval_above=0.5, approvers={"ada": key.public})
    return request, statements.sign(body, key), policy


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_an_answer_counts_and_ends(ada: SigningKey) -> None:
    request, statement, policy = request_and(ada)
    assert standing(request, statement, policy, NOON).state == "given"
    assert standing(request, statement, policy, NOON + 7 * DAY).state == "expired"
    assert standing(request, statement, policy, NOON + 7 * DAY, used=True).state == "given"
    shorter = policy.model_copy(update={"approval_days": 1})
    assert standing(request, statement, shorter, NOON + DAY).state == "expired"
    longer = request_and(ada, until="2036-01-09T00:00:00+00:00")[1]
    assert standing(request, longer, policy, NOON + 7 * DAY).state == "expired"
    refused = request_and(ada, action="refuse", reason="NO")[1]
    assert standing(request, refused, policy, NOON + 99 * DAY).state == "refused"


@pytest.mark.parametrize(
    "changes",
    [
        {"federation": "g"},
        {"membership": 2},
        {"silo": "south"},
        {"job": "k"},
        {"about": "e" * 64},
        {"nonce": "1" * 32},
        {"by": "bob"},
        {"by": "<b>"},
        {"at": "2026-01-03T00:00:00+00:00"},
        {"at": "yesterday"},
        {"action": "raise"},
        {"kind": "manifest"},
        {"more": 1},
        {"membership": True},
        {"reason": "age 43, ward 7"},
        {"head": None},
    ],
)
def test_another_statement_is_no_answer(ada: SigningKey, changes: dict[str, Any]) -> None:
    request, statement, policy = request_and(ada, **changes)
    assert standing(request, statement, policy, NOON).state == "pending"


def test_whoever_else_signs_answers_nothing(ada: SigningKey) -> None:
    request, statement, policy = request_and(ada)
    forged = statements.sign(statement["body"], SigningKey.generate())
    claimed = forged | {"key": ada.public}
    changed = statement | {"body": statement["body"] | {"about": "e" * 64}}
    for other in (forged, claimed, changed, None, {}, [], {"key": ada.public}, {"key": 7}):
        assert standing(request, other, policy, NOON).state == "pending"


def test_only_an_enrolled_person_answers_and_no_party_is_one(home: Home, ada: SigningKey) -> None:
    ask(home, ada)
    job = waiting(home)
    with pytest.raises(BadInput, match="nobody is enrolled by this key") as caught:
        answer(home, job.id, SigningKey.generate())
    assert caught.value.allowed == ["ada"]
    for party in (home.coordinator_key, home.silo(SILO).key, home.silo("silo-1").key):
        key = SigningKey.load(party)
        ask(home, key)
        with pytest.raises(BadInput, match="who submits a job does not approve it"):
            answer(home, job.id, key)
        with pytest.raises(BadInput, match="who submits"):
            reserve(home, Job.create(home, spec()))


def test_a_request_that_somebody_changed_is_none(home: Home, ada: SigningKey) -> None:
    ask(home, ada)
    job = waiting(home)
    path = home.silo(SILO).jobs / job.id / "request.json"
    said = json.loads(path.read_text())
    said["spec"]["strategy"]["rounds"] = 1
    path.write_text(json.dumps(said))  # what ada is shown is what she signs
    answer(home, job.id, ada)
    assert reserve(home, job) == "waiting"
    path.write_text("{")
    assert lines(home, SILO, clock.now()) == ()
    with pytest.raises(IntegrityError):
        answer(home, job.id, ada)


# What people see


def test_the_requests_of_a_silo_are_read_without_a_key(home: Home, ada: SigningKey) -> None:
    bob = SigningKey.generate()
    ask(home, ada, bob)
    jobs = [waiting(home, name=name) for name in ("one", "two", "three", "four")]
    answer(home, jobs[0].id, bob)
    reserve(home, jobs[0])
    answer(home, jobs[1].id, ada)
    answer(home, jobs[2].id, ada, refuse="NO")
    home.silo(SILO).key.unlink()
    home.silo(SILO).ledger.unlink()
    found = lines(home, SILO, clock.now())
    assert [line.job for line in found] == [job.id for job in jobs]
    assert [line.state for line in found] == ["given", "given", "refused", "pending"]
    assert [line.by for line in found] == ["bob", "ada", "ada", ""]
    assert found[3].approvers == ("ada", "bob") and found[2].reason == "NO"
    later = lines(home, SILO, clock.now() + 8 * DAY)
    assert [line.state for line in later] == ["given", "expired", "refused", "pending"]


def test_the_error_crosses_whole(home: Home, ada: SigningKey) -> None:
    error = ApprovalNeeded("silo x asks", field="approval", value="a" * 64, allowed=["ada"])
    again = retold(json.loads(json.dumps(told(error))), "x")
    assert type(again) is ApprovalNeeded and vars(again) == vars(error)
