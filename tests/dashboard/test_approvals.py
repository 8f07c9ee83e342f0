"""What waits for approval at each silo, what was approved, and what has lapsed."""

from datetime import UTC, datetime, timedelta

import pytest
import yaml

from dashboard import queries, strings, tables
from federation import plain_yaml, statements, waiting
from federation.approvals import Request
from federation.documents import parse
from federation.errors import ApprovalNeeded
from federation.jobfiles import JobFiles
from federation.jobs.train import Spec
from federation.record import Job
from secure.keys import SigningKey

NOW = datetime.now(UTC)
TRAIN = {
    "strategy": {"rounds": 2, "local_steps": 1, "batch_size": 8, "learning_rate": 0.1},
    "privacy": {"epsilon": 1.0},
}
HOSTILE = "**b** <img src=x onerror=alert(1)>"


@pytest.fixture
def ada():
    return SigningKey.generate()


@pytest.fixture
def asked(house, ada):
    """Two silos, the first of which was asked four times."""
    house.silo("north")
    house.silo("south")
    path = house.home.silo("north").config
    said = yaml.safe_load(path.read_text())
    said["policy"] = {"approval_above": 1.0, "approvers": {"ada": ada.public}}
    path.write_text(yaml.dump(said, Dumper=plain_yaml.Dumper))
    request(house, "job-1", ada, age=3)
    request(house, "job-2", ada, action="run", age=2)
    request(house, "job-3", ada, action="run", age=9)
    request(house, "job-4", ada, action="refuse", age=1)
    return house


def request(house, job, key, *, action=None, age=0, dataset="heart"):
    """A request at a silo that is `age` days old, with an answer of the same day."""
    files = JobFiles(house.home.silo("north").jobs / job)
    made = Request(
        federation="hearts",
        membership=1,
        silo="north",
        job=job,
        spec={"kind": "train", "dataset": dataset},
        code="c" * 64,
        quote={"delta": 1e-5},
        epsilon=None if job == "job-1" else 2.5,
        above=1.0,
        asked=NOW - timedelta(days=age),
        nonce="0" * 32,
    )
    files.keep_request(made.model_dump(mode="json"))
    if action:
        same = {n: getattr(made, n) for n in ("federation", "membership", "silo", "job", "nonce")}
        body = same | {
            "kind": "approval",
            "action": action,
            "about": made.about,
            "head": {"entry": 1, "hash": "d" * 64},
            "by": "ada",
            "at": made.asked.isoformat(),
            "until": (made.asked + timedelta(days=7)).isoformat(),
            "reason": None if action == "run" else "NOT-NOW",
        }
        files.keep_approval(statements.sign(body, key))
    return made


def test_each_request_says_where_it_stands(asked):
    lines = queries.overview(asked.home).approvals
    assert [(line.job, line.state) for line in lines] == [
        ("job-3", "expired"),
        ("job-1", "pending"),
        ("job-2", "given"),
        ("job-4", "refused"),
    ]
    assert {line.silo for line in lines} == {"north"}
    rows = tables.approvals(lines)
    assert [row["job"] for row in rows] == ["job-1", "job-3", "job-4", "job-2"]  # what waits first
    assert rows[0]["state"] == "? nobody has answered" and rows[0]["by"] == "ada"
    assert rows[0]["ε alone"] is None and rows[1]["ε alone"] == 2.5
    assert rows[2]["reason"] == "NOT-NOW"
    assert set(strings.APPROVAL) == {"pending", "given", "refused", "expired", "elsewhere"}


def test_a_coordinators_page_shows_what_its_jobs_wait_for_at_silos_elsewhere(asked):
    asked.keys["far"] = SigningKey.generate()
    asked.federate()
    seen = [queries.marks(asked.home)]
    spec = {"kind": "train", "name": "abroad", "dataset": "heart", "model": {"name": "logistic"}}
    job = Job.create(asked.home, parse(spec | TRAIN, Spec, "job"))
    # A silo elsewhere is asked by message; one here shows its own files, which say more.
    needed = {
        silo: ApprovalNeeded("ask ada", field="approval", value="e" * 64, allowed=["ada"])
        for silo in ("far", "north")
    }
    waiting.wait(job, needed)
    seen.append(queries.marks(asked.home))
    (line,) = [a for a in queries.overview(asked.home).approvals if a.job == job.id]
    assert (line.silo, line.state, line.epsilon) == ("far", "elsewhere", None)
    row = next(r for r in tables.approvals([line]))
    assert row["state"] == "? waits at the silo" and row["by"] == "ada" and row["at δ"] == ""
    job.update("created")
    seen.append(queries.marks(asked.home))
    assert len(set(seen)) == 3
    assert job.id not in {a.job for a in queries.overview(asked.home).approvals}


def test_an_approval_that_was_used_does_not_lapse(asked):
    (asked.home.silo("north").jobs / "job-3" / "manifest.json").write_text("{}")
    states = {line.job: line.state for line in queries.overview(asked.home).approvals}
    assert states["job-3"] == "given"


def test_an_answer_by_nobody_who_is_enrolled_is_none(asked):
    request(asked, "job-5", SigningKey.generate(), action="run")
    states = {line.job: line.state for line in queries.overview(asked.home).approvals}
    assert states["job-5"] == "pending"


def test_no_key_is_read_and_a_silo_that_cannot_be_read_shows_none(asked):
    for silo in ("north", "south"):
        asked.home.silo(silo).key.unlink()
    asked.home.silo("north").ledger.unlink()
    assert len(queries.overview(asked.home).approvals) == 4
    asked.home.silo("north").config.chmod(0o644)
    assert queries.overview(asked.home).approvals == ()


def test_the_page_is_drawn_again_when_a_request_or_an_answer_comes(asked, ada):
    seen = [queries.marks(asked.home)]
    request(asked, "job-6", ada)
    seen.append(queries.marks(asked.home))
    request(asked, "job-6", ada, action="run")
    seen.append(queries.marks(asked.home))
    assert len(set(seen)) == 3
    assert queries.marks(asked.home) == seen[-1]


def test_the_page_shows_what_waits_and_the_command_and_takes_no_markup(asked, ada, show):
    request(asked, "job-7", ada, dataset=HOSTILE)
    page = show(asked.root)
    assert strings.APPROVALS in [str(title.value) for title in page.subheader]
    assert strings.APPROVALS_COMMAND in [code.value for code in page.code]
    table = next(d.value for d in page.dataframe if "spec, code and quote" in d.value)
    assert table["job"].iloc[0] == "job-7" and HOSTILE in list(table["data set"])
    for kind in ("markdown", "caption", "code", "text"):
        assert not any("onerror" in str(element) for element in page.get(kind)), kind


def test_a_page_without_requests_says_nothing_of_them(house, show):
    house.silo("north")
    page = show(house.root)
    assert strings.APPROVALS not in [str(title.value) for title in page.subheader]
