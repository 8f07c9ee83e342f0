"""Silos as processes of their own over a real NATS server: the same job, the same books."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation import engines, lifecycle, waiting
from federation.books import open_ledger, open_mirror, verification
from federation.documents import parse
from federation.errors import BudgetRefused, Missing, PolicyRefused
from federation.home import Home
from federation.inference.specs import Spec as InferSpec
from federation.init import init_example
from federation.record import Job
from federation.remote import Remote
from federation.report import publish, result_of
from federation.silo import Silo
from federation.sources.rows import load_part
from federation.training.specs import Spec
from infra.exchange import make_exchange
from infra.nats import Server
from infra.process import start, stop
from privacy.ledger import State
from secure.keys import SigningKey

SILOS = 3
SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "apart",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 4, "local_steps": 2, "batch_size": 32, "learning_rate": 0.5},
    "privacy": {"noise_multiplier": 8.0},
}


def spec(**changes: Any) -> Spec:
    return parse(SPEC | changes, Spec, "job")


class Apart:
    """A home whose silos serve in processes of their own, beside a NATS server."""

    def __init__(self, home: Home) -> None:
        self.home = home
        make_exchange(home)
        directory = home.coordinator / "exchange"
        self.nats = Server(directory / "nats.json", directory / "nats.log")
        self.silos = {name: self.serve(name) for name in home.silo_names()}

    def serve(self, name: str) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("tacit")), "silo", "serve", name]
        return start(
            [*command, "--home", str(self.home.root)],
            environment=dict(os.environ),
            log=self.home.root / f"{name}.out",
        )

    def parties(self) -> AbstractContextManager[Remote]:
        return engines.over_exchange(self.home)

    def drive(
        self, job: Job, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> dict[str, Any]:
        with job.working(), self.parties() as parties, open_mirror(self.home) as mirror:
            lifecycle.reserve(job, parties, mirror)
            lifecycle.start(job, parties, mirror)
            lifecycle.coordinate(job, parties, progress=progress)
            lifecycle.settle(job, parties, mirror)
            publish(job)
        return result_of(job)

    def stop(self) -> None:
        for child in self.silos.values():
            stop(child)
        self.nats.stop()


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    home = init_example(tmp_path_factory.mktemp("apart") / "fed", "breast-cancer", silos=SILOS)
    stack = Apart(home)
    yield stack
    stack.stop()


def states(home: Home, job: str) -> list[State]:
    found = []
    for name in home.silo_names():
        ledger = open_ledger(home, name)
        charge = ledger.charge(job)
        assert charge is not None
        found.append(charge.state)
        ledger.close()
    return found


@pytest.mark.parametrize("aggregation", ["plain", "masked", "ckks"])
def test_a_job_runs_with_every_silo_in_a_process_of_its_own(apart: Apart, aggregation: str) -> None:
    job = Job.create(apart.home, spec(aggregation={"name": aggregation}))
    with apart.parties() as parties:
        quoted = lifecycle.quote(job.spec, parties)
    result = apart.drive(job)
    assert result["status"] == "completed"
    assert set(result["silos"]) == set(apart.home.silo_names())
    for name, line in result["silos"].items():
        assert line["epsilon"] == pytest.approx(quoted["silos"][name]["epsilon"], rel=1e-9)
    assert states(apart.home, job.id) == [State.SETTLED] * SILOS
    assert Path(result["model"]).exists()


ASK: dict[str, Any] = {
    "kind": "infer",
    "name": "ask",
    "dataset": "breast-cancer",
    "mode": "ckks",
    "roles": {"data": "silo-1", "model": "silo-3"},
    "rows": 12,
    "batch_size": 4,
}


def asking(apart: Apart, **changes: Any) -> Job:
    trained = apart.drive(Job.create(apart.home, spec(name="asked")))
    asked = ASK | {"model": {"job": trained["job_id"]}} | changes
    return Job.create(apart.home, parse(asked, InferSpec, "job"))


def test_rows_are_predicted_on_ciphertexts_between_two_processes(apart: Apart) -> None:
    job = asking(apart)
    result = apart.drive(job)
    assert result["status"] == "completed" and set(result["silos"]) == {"silo-1", "silo-3"}
    predictions = list((apart.home.root / "silos").rglob("predictions.csv"))
    assert predictions == [apart.home.silo("silo-1").jobs / job.id / "predictions.csv"]
    assert len(predictions[0].read_text().splitlines()) == 13


@pytest.mark.large
@pytest.mark.parametrize("victim", ["silo-1", "silo-3"])
def test_a_killed_session_of_either_silo_leaves_no_row_out(apart: Apart, victim: str) -> None:
    job = asking(apart, rows=32)
    killed = []

    def blow(done: int, total: int) -> None:
        if done == 3 and not killed:
            killed.append(victim)
            for pid in children(apart.silos[victim].pid):
                os.kill(pid, signal.SIGKILL)

    result = apart.drive(job, progress=blow)
    assert killed and result["status"] == "completed"
    lines = (apart.home.silo("silo-1").jobs / job.id / "predictions.csv").read_text().splitlines()
    dataset = apart.home.federation().dataset(job.spec.dataset)
    asked = load_part(apart.home.silo_config("silo-1"), dataset, "test").numbers[:32]
    assert [line.split(",")[0] for line in lines[1:]] == [str(row) for row in asked]


@pytest.mark.large
@pytest.mark.parametrize("aggregation", ["plain", "masked"])
def test_the_same_samples_and_noise_give_the_same_model_here_and_apart(
    tmp_path: Path, aggregation: str
) -> None:
    """Two copies of one federation, one job id, and one secret of samples and noise per silo."""
    here = init_example(tmp_path / "here", "breast-cancer", silos=SILOS)
    there = Home(Path(shutil.copytree(here.root, tmp_path / "there")))
    stack = Apart(there)
    models = []
    try:
        for home, engine in ((here, "embedded"), (there, "exchange")):
            job = Job.create(home, spec(aggregation={"name": aggregation}), mark="aaaaaa")
            with engines.opened(home, engine) as parties, open_mirror(home) as mirror:
                lifecycle.reserve(job, parties, mirror)
                lifecycle.start(job, parties, mirror)
                for number, name in enumerate(home.silo_names()):
                    (home.silo(name).jobs / job.id / "secret").write_bytes(bytes([number]) * 32)
                lifecycle.coordinate(job, parties)
            outcome = job.document("outcome")
            assert outcome is not None
            models.append(Path(outcome["model"]).read_bytes())
    finally:
        stack.stop()
    assert models[0] == models[1]


def test_a_refusal_comes_back_whole_and_charges_nothing(apart: Apart) -> None:
    job = Job.create(apart.home, spec(privacy={"epsilon": 500.0}))
    with pytest.raises(BudgetRefused, match="what would fit"):
        apart.drive(job)
    assert job.status == "refused"
    with pytest.raises(PolicyRefused):
        apart.drive(
            Job.create(apart.home, spec(privacy={"none": True}, evaluation={"release": "none"}))
        )


def test_a_job_waits_for_a_person_at_a_silo_and_goes_on_once_it_is_approved(apart: Apart) -> None:
    name, ada = apart.home.silo_names()[1], SigningKey.generate()
    path = apart.home.silo(name).config
    before = path.read_text()
    said = yaml.safe_load(before)
    said["policy"] |= {"approval_above": 0, "approvers": {"ada": ada.public}}
    path.write_text(yaml.safe_dump(said, sort_keys=False))
    try:
        job = Job.create(apart.home, spec())
        assert apart.drive(job)["status"] == "interrupted"
        assert job.error and f"silo {name} asks for approval" in job.error["message"]
        with apart.parties() as parties:
            assert not waiting.decided(job, parties)
        there = Silo(apart.home, name)  # beside the silo's own process, as the command opens it
        there.approvals.answer(job.id, ada)
        there.close()
        with apart.parties() as parties:
            assert waiting.decided(job, parties)
        result = apart.drive(job)
        assert result["status"] == "completed" and result["approvals"][name]["by"] == "ada"
    finally:
        path.write_text(before)


def test_a_silo_that_does_not_answer_is_named(apart: Apart, monkeypatch: Any) -> None:
    from federation import remote

    name = apart.home.silo_names()[1]
    stop(apart.silos[name])
    monkeypatch.setattr(remote, "PATIENCE", 1.0)
    try:
        with (
            pytest.raises(Missing, match=f"silo {name} does not answer"),
            apart.parties() as parties,
        ):
            parties.facts("breast-cancer")
    finally:
        apart.silos[name] = apart.serve(name)


@pytest.mark.parametrize(
    "victim", ["session", pytest.param("silo", marks=pytest.mark.large), "nats"]
)
def test_a_killed_process_stops_no_job_and_costs_nothing_twice(apart: Apart, victim: str) -> None:
    name = apart.home.silo_names()[0]
    long = SPEC["strategy"] | {"rounds": 30, "local_steps": 10}
    job = Job.create(
        apart.home, spec(strategy=long, privacy={"noise_multiplier": 30.0}, deadline=60.0)
    )
    killed = []

    def blow(done: int, total: int) -> None:
        if done == 5 and not killed:
            killed.append(victim)
            if victim == "nats":
                apart.nats.child.send_signal(signal.SIGKILL)
                apart.nats.child.wait()
                apart.nats.restart()
            else:
                child = apart.silos[name]
                pids = children(child.pid) if victim == "session" else [child.pid]
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                if victim == "silo":
                    child.wait()
                    apart.silos[name] = apart.serve(name)

    result = apart.drive(job, progress=blow)
    assert killed and result["status"] == "completed"
    assert states(apart.home, job.id) == [State.SETTLED] * SILOS
    ledger = open_ledger(apart.home, name)
    rounds = [e.data["round"] for e in ledger.entries() if e.kind == "egress" and e.job == job.id]
    ledger.close()
    assert sorted(rounds) == sorted([*range(30), 30])  # thirty updates and one evaluation, once


@pytest.mark.large
def test_a_silo_that_vanishes_is_waited_for_then_the_quorum_goes_on(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    from federation import remote

    monkeypatch.setattr(remote, "PATIENCE", 10.0)
    name = apart.home.silo_names()[2]
    long = SPEC["strategy"] | {"rounds": 12}
    job = Job.create(apart.home, spec(strategy=long, quorum=2, deadline=8.0))

    def vanish(done: int, total: int) -> None:
        if done == 4 and apart.silos[name].poll() is None:
            apart.silos[name].kill()
            apart.silos[name].wait()

    with job.working(), apart.parties() as parties, open_mirror(apart.home) as mirror:
        lifecycle.reserve(job, parties, mirror)
        lifecycle.start(job, parties, mirror)
        lifecycle.coordinate(job, parties, progress=vanish)
        lifecycle.settle(job, parties, mirror)
        publish(job)
    result = result_of(job)
    assert result["status"] == "completed" and result["rounds"] == 12
    assert [silo for silo, line in result["silos"].items() if not line["settled"]] == [name]
    assert states(apart.home, job.id)[2] is State.READ  # and so the whole charge stands
    apart.silos[name] = apart.serve(name)
    again = apart.drive(Job(apart.home, job.id))
    assert again["status"] == "completed"
    assert all(line["settled"] for line in again["silos"].values())
    assert states(apart.home, job.id) == [State.SETTLED] * SILOS


def children(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return [int(line) for line in listed.stdout.split()]


def test_the_silos_own_directory_is_all_that_its_process_needs(
    apart: Apart, tmp_path: Path
) -> None:
    name = apart.home.silo_names()[2]
    alone = Home(tmp_path / "elsewhere")
    alone.root.mkdir()
    for file in ("federation.yaml", "membership.json", "exchange.yaml", "ca.pem"):
        shutil.copy(apart.home.root / file, alone.root / file)
    stop(apart.silos[name])
    shutil.copytree(apart.home.silo(name).directory, alone.silo(name).directory)
    elsewhere = Apart.__new__(Apart)
    elsewhere.home = alone
    child = elsewhere.serve(name)
    try:
        with apart.parties() as parties:
            facts = parties.facts("breast-cancer")
        assert set(facts) == set(apart.home.silo_names())
        assert verification(alone, None)["ok"] and not alone.coordinator.exists()
    finally:
        stop(child)
        apart.silos[name] = apart.serve(name)
