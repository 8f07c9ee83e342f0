"""`kill -9` at each step of a job, then resume: charged once and whole, the same bytes again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests_jobs_here import drive, kill, spec

from federation import lifecycle
from federation.books import open_ledger, open_mirror, verification
from federation.embedded import Embedded
from federation.home import Home
from federation.record import Job
from privacy.events import Unit
from privacy.ledger import State, Stop

POINTS = [
    ("federation.silo:Silo.reserve:before", 2),
    ("federation.silo:Silo.reserve:after", 3),
    ("federation.silo:Silo.start:before", 2),
    ("federation.silo:Silo.start:after", 3),
    ("privacy.ledger:Ledger.mark_read:after", 1),
    ("federation.training.trainer:Trainer.train:after", 5),  # made, not stored
    ("privacy.ledger:Ledger.record_egress:before", 6),  # stored, not logged
    ("privacy.ledger:Ledger.record_egress:after", 8),  # logged, not sent
    ("federation.training.checkpoint:Checkpoint.save:before", 3),
    ("federation.training.checkpoint:Checkpoint.save:after", 4),
    ("federation.silo:Silo.settle:before", 2),
    ("federation.silo:Silo.settle:after", 2),
    ("federation.lifecycle:settle:after", 1),
    ("federation.report:draw:before", 1),
    ("privacy.ledger:Ledger.see_nonce:after", 2),  # seen, not reserved and not refused
    ("privacy.ledger:Ledger.settle:before", 2),  # found out what was run, not settled
    ("privacy.ledger:Ledger.settle:after", 2),  # settled, the secret still there
]
SMALL = {"privacy": {"noise_multiplier": 4.0}}
QUICK = {1, 3, 6, 11, 13, 14}


def ledger_state(home: Home, job: str) -> dict[str, Any]:
    """Per silo: used share, spent epsilon, the charge's state, and egress lines by digest."""
    state = {}
    for silo in home.silo_names():
        ledger = open_ledger(home, silo)
        account = ledger.account("breast-cancer", Unit.RECORD)
        egress = [json.loads(e.body) for e in ledger.entries() if e.kind == "egress"]
        state[silo] = {
            "used": account.used,
            "spent": account.spent_epsilon,
            "state": ledger.charge(job).state,
            "charges": len(ledger.history(account.id)),
            "egress": egress,
        }
        ledger.close()
    return state


@pytest.fixture(scope="module")
def price() -> dict[str, Any]:
    """What an undisturbed run leaves; filled by the first test that needs it."""
    return {}


@pytest.mark.parametrize(
    ("point", "times"),
    [
        pytest.param(*p, marks=() if i in QUICK else pytest.mark.large, id=f"{p[0]}-{p[1]}")
        for i, p in enumerate(POINTS)
    ],
)
def test_killed_and_resumed(home: Home, price: dict[str, Any], point: str, times: int) -> None:
    if not price:
        undisturbed = Job.create(home, spec(**SMALL))
        drive(home, undisturbed)
        for silo, line in ledger_state(home, undisturbed.id).items():
            price[silo] = line["used"]
    base = {silo: line["used"] for silo, line in _used(home).items()}
    job = Job.create(home, spec(**SMALL))
    kill(home, job, point, times)
    assert Job(home, job.id).shown_status() in ("interrupted", "completed")
    result = drive(home, Job(home, job.id))
    assert result["status"] == "completed"
    assert Path(result["model"]).exists() and Path(result["report"]).exists()
    for silo, line in ledger_state(home, job.id).items():
        assert line["state"] is State.SETTLED
        assert line["used"] - base[silo] == pytest.approx(price[silo], rel=1e-9)
        # Every release left once, and never with other bytes.
        lines = [e for e in line["egress"] if e["job"] == job.id]
        times_left = Counter((e["round"], e["name"]) for e in lines)
        digests = {(e["round"], e["name"], e["digest"]) for e in lines}
        assert len(digests) == len(times_left) == 5
        assert set(times_left.values()) == {1}
    assert verification(home, None)["ok"]


def _used(home: Home) -> dict[str, dict[str, float]]:
    lines = {}
    for silo in home.silo_names():
        ledger = open_ledger(home, silo)
        lines[silo] = {"used": ledger.account("breast-cancer", Unit.RECORD).used}
        ledger.close()
    return lines


def cancel(home: Home, job: Job) -> None:
    with Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.cancel(job, parties, mirror)


def test_a_silo_that_died_at_its_work_gets_nothing_back_when_the_job_is_cancelled(
    home: Home,
) -> None:
    """What killed it may have been what it read; only a stop by somebody else refunds."""
    with Embedded(home) as parties:
        quoted = lifecycle.quote(spec(**SMALL), parties)["silos"]
    job = Job.create(home, spec(**SMALL))
    kill(home, job, "federation.training.trainer:Trainer.train:after", 2)
    cancel(home, Job(home, job.id))
    after = ledger_state(home, job.id)
    assert all(line["state"] is State.SETTLED for line in after.values())
    whole = [s for s, line in after.items() if line["used"] == pytest.approx(quoted[s]["charge"])]
    nothing = [s for s, line in after.items() if line["used"] == 0]  # had not read a row yet
    assert sorted(whole + nothing) == sorted(after) and len(whole) >= 2


def test_a_job_that_was_half_cancelled_and_then_resumed_is_charged_for_all_it_ran(
    home: Home,
) -> None:
    with Embedded(home) as parties:
        quoted = lifecycle.quote(spec(**SMALL), parties)["silos"]
    job = Job.create(home, spec(**SMALL))
    kill(home, job, "federation.training.checkpoint:Checkpoint.save:after", 1)
    with Embedded(home) as parties:  # a cancellation that dies after it found out what was run
        silo = parties._silos["silo-1"]
        silo._files(job.id).keep_stop(Stop.OTHER_PARTY)
        silo._settling(job.id).executed(silo.ledger.charge(job.id))
    assert drive(home, Job(home, job.id))["status"] == "completed"
    for name, line in ledger_state(home, job.id).items():
        assert line["used"] == pytest.approx(quoted[name]["charge"], rel=1e-6)
