"""Who takes part in the steps of a job: quorum, faults, and what a resumed job may ask again."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from tests_jobs_here import allow, drive, spec

from federation.attendance import Attendance
from federation.errors import BadInput, JobFailed
from federation.home import Home
from federation.lifecycle import quotes_of
from federation.record import Job
from federation.training.trainer import Trainer

SILOS = ("east", "north", "west")
WHY = JobFailed("no answer from west")


def test_all_are_asked_and_none_may_be_missing_unless_a_quorum_says_so(tmp_path: Path) -> None:
    whole = Attendance(tmp_path / "whole", SILOS)
    assert whole.asked("update 0") == list(SILOS)
    whole.close("update 0", SILOS)
    assert not (tmp_path / "whole").exists()
    with pytest.raises(JobFailed, match="no answer from west"):
        whole.lose(["west"], WHY)
    two = Attendance(tmp_path / "two", SILOS, quorum=2)
    two.lose(["west"], WHY)
    assert two.present() == two.asked("update 1") == ["east", "north"]
    with pytest.raises(JobFailed):
        two.lose(["east"], WHY)


def test_a_step_that_closed_without_a_silo_is_made_with_the_same_again(tmp_path: Path) -> None:
    path = tmp_path / "attendance"
    first = Attendance(path, SILOS, quorum=2)
    first.close("update 0", SILOS)
    first.lose(["west"], WHY)
    first.close("update 1", ["north", "east"])
    with path.open("ab") as file:
        file.write(b'["update 2", ["no')  # as a crash leaves it
    again = Attendance(path, SILOS, quorum=2)
    assert again.asked("update 0") == list(SILOS)
    assert again.asked("update 1") == ["east", "north"]
    assert again.asked("update 2") == list(SILOS)  # it is back, or will be missed again
    again.close("update 1", ["east", "north"])
    with pytest.raises(JobFailed, match="update 1 was made with east, north"):
        again.close("update 1", ["east"])
    again.close("update 2", ["east", "west"])
    assert Attendance(path, SILOS, quorum=2).asked("update 2") == ["east", "west"]


def test_a_quorum_is_between_what_the_aggregation_needs_and_all(home: Home) -> None:
    from federation.embedded import Embedded

    with Embedded(home) as parties:
        facts = parties.facts("breast-cancer")
    assert len(quotes_of(spec(quorum=2), facts)) == 3
    for asked in (
        {"quorum": 4},
        {"quorum": 2, "aggregation": {"name": "masked"}},
        {"quorum": 2, "aggregation": {"name": "plain", "rule": "median"}},
    ):
        with pytest.raises(BadInput, match="quorum"):
            quotes_of(spec(**asked), facts)
    for wrong in ({"quorum": 0}, {"deadline": 0}, {"deadline": "soon"}):
        with pytest.raises(BadInput):
            spec(**wrong)


def failing(monkeypatch: pytest.MonkeyPatch, silo: str, round: int) -> None:
    """One silo's steps of one round end in a fault of its own."""
    train = Trainer.train

    def train_or_fail(self: Trainer, at: int, *rest: Any) -> bytes:
        if self._context.facts.silo == silo and at == round:
            raise MemoryError("row 7")
        return train(self, at, *rest)

    monkeypatch.setattr(Trainer, "train", train_or_fail)


def test_without_a_quorum_a_fault_stops_the_job(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "silo-2", 1)
    result = drive(home, Job.create(home, spec()))
    assert result["status"] == "failed"
    assert "silo-2 stopped with SILO-FAULT" in result["error"]["message"]


def test_with_a_quorum_the_others_go_on_and_the_fault_is_charged_whole(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "silo-2", 1)
    result = drive(home, Job.create(home, spec(quorum=2)))
    assert result["status"] == "completed" and result["rounds"] == 4
    assert set(result["metrics"]["silos"]) == {"silo-1", "silo-3"}
    lines = result["silos"]
    assert all(line["settled"] for line in lines.values())
    assert lines["silo-2"]["epsilon"] >= lines["silo-1"]["epsilon"] * 0.5
    job = Job(home, result["job_id"])
    settlement = job.document("settlement") or {}
    assert settlement["silo-2"]["epsilon"] == settlement["silo-2"]["planned_epsilon"]


def test_a_resumed_job_closes_its_rounds_as_before(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator dies after a round without a silo; resumed, the silos see no other model."""
    from federation.training.checkpoint import Checkpoint

    allow(home, no_privacy=True)
    failing(monkeypatch, "silo-2", 1)
    job = Job.create(home, spec(quorum=2, privacy={"none": True}, evaluation={"release": "none"}))
    aggregate, calls = Checkpoint.aggregate, itertools.count()
    dying = monkeypatch.context()
    with dying as patched:

        def die(self: Checkpoint, *rest: Any) -> None:
            aggregate(self, *rest)
            if next(calls) == 2:
                raise KeyboardInterrupt

        patched.setattr(Checkpoint, "aggregate", die)
        patched.setattr(Checkpoint, "save", lambda self, directory, **_: None)
        with pytest.raises(KeyboardInterrupt):
            drive(home, job)
    result = drive(home, Job(home, job.id))
    assert result["status"] == "completed" and result["rounds"] == 4
