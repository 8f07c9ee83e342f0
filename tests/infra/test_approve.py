"""`tacit job approve` as a person at a silo types it, on a host that holds that silo only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from federation import lifecycle
from federation.books import open_mirror
from federation.documents import parse
from federation.embedded import Embedded
from federation.home import Home
from federation.init import init_example
from federation.record import Job
from federation.training.specs import Spec
from infra.cli.app import app
from secure.keys import SigningKey

SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "asked",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 2, "local_steps": 1, "batch_size": 32, "learning_rate": 0.3},
    "privacy": {"epsilon": 0.5},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str, Path]:
    """A job that waits for ada at both silos, and her key."""
    home = init_example(tmp_path_factory.mktemp("asked") / "fed", "breast-cancer", silos=2)
    key = home.root / "ada.key"
    ada = SigningKey.generate()
    ada.save(key)
    for silo in home.silo_names():
        path = home.silo(silo).config
        said = yaml.safe_load(path.read_text())
        said["policy"] |= {"approval_above": 0.1, "approvers": {"ada": ada.public}}
        path.write_text(yaml.safe_dump(said, sort_keys=False))
    job = Job.create(home, parse(SPEC, Spec, "job"))
    with job.working(), Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.reserve(job, parties, mirror)
    assert job.status == "waiting"
    return home, job.id, key


@pytest.fixture
def alone(made: tuple[Home, str, Path], tmp_path: Path) -> tuple[Path, str, Path]:
    """What lies on the host of one silo."""
    home, job, key = made
    host = tmp_path / "host"
    host.mkdir()
    for file in (home.federation_file, home.membership_file):
        shutil.copy(file, host)
    shutil.copytree(home.silo("silo-2").directory, host / "silos" / "silo-2")
    return host, job, key


def typed(*words: object, code: int = 0) -> str:
    """What the command prints, in this process."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.stdout


def told(*words: object, code: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(typed(*words, "--json", code=code))
    return document


def test_a_person_looks_signs_and_is_shown(alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host, job, key = alone
    (line,) = told("job", "list", "--home", host)["approvals"]
    assert (line["job_id"], line["silo"], line["state"]) == (job, "silo-2", "pending")
    assert line["approvers"] == ["ada"] and line["epsilon"] == pytest.approx(0.5, rel=0.01)

    monkeypatch.setenv("TACIT_APPROVER_KEY", str(key))  # who only looks signs nothing
    seen = told("job", "approve", job, "--home", host)
    assert seen["state"] == "pending" and seen["admissible"] and 0 < seen["charge"] < 1
    assert seen["about"] == line["about"] and seen["spec"]["strategy"]["rounds"] == 2
    assert seen["leaving"] == ["dp"] and seen["asked_by"] == "coordinator"

    given = told("job", "approve", job, "--key", key, "--home", host)
    assert (given["state"], given["by"], given["about"]) == ("given", "ada", line["about"])
    text = typed("job", "show", job, "--home", host)
    assert "approved" in text and job in text
    text = typed("job", "approve", job, "--home", host)
    assert "approved by ada until" in text and "rounds: 2" in text and line["about"] in text

    refused = told("job", "approve", job, "--key", key, "--deny", "NOT-NOW", "--home", host)
    assert (refused["state"], refused["reason"]) == ("refused", "NOT-NOW")


def test_what_cannot_be_approved_is_said(alone: Any, tmp_path: Path) -> None:
    host, job, key = alone
    no_job = told("job", "approve", "other", "--home", host, code=2)["error"]
    assert no_job["field"] == "job" and no_job["allowed"] == [job]
    stranger = told("job", "key", tmp_path / "eve.key")
    assert (tmp_path / "eve.key").stat().st_mode & 0o777 == 0o600
    error = told("job", "approve", job, "--key", tmp_path / "eve.key", "--home", host, code=2)[
        "error"
    ]
    assert (error["field"], error["value"]) == ("key", stranger["public"])
    for deny in ("because", "ROW 7"):
        words = ("job", "approve", job, "--key", key, "--deny", deny, "--home", host)
        assert told(*words, code=2)["error"]["field"] == "deny"
    assert told("job", "approve", job, "--deny", "NO", "--home", host, code=2)["error"]
    assert told("job", "key", tmp_path / "eve.key", code=2)["error"]["field"] == "file"


def test_where_several_silos_were_asked_one_is_named(made: tuple[Home, str, Path]) -> None:
    home, job, key = made
    error = told("job", "approve", job, "--home", home.root, code=2)["error"]
    assert error["field"] == "silo" and error["allowed"] == ["silo-1", "silo-2"]
    words = ("job", "approve", job, "--silo", "silo-1", "--key", key, "--home", home.root)
    assert told(*words)["silo"] == "silo-1"
    states = [line["state"] for line in told("job", "show", job, "--home", home.root)["requests"]]
    assert states == ["given", "pending"]
