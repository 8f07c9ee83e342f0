"""`tacit up`, `status`, `submit`, `down`: it comes up, runs jobs, mends itself, leaves nothing.

One stack for the module: real Prefect, PostgreSQL where it is installed, NATS, proxy, two silos.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.books import open_ledger
from federation.errors import Missing
from federation.home import Home
from federation.init import init_example
from infra import postgres, stack
from infra.prefect_site import Site
from privacy.ledger import State
from secure.keys import SigningKey

SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "submitted",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 3, "local_steps": 2, "batch_size": 32, "learning_rate": 0.5},
    "privacy": {"noise_multiplier": 8.0},
}
LONG = {"local_steps": 1, "batch_size": 32, "learning_rate": 0.1}
SILOS = ["silo-1", "silo-2"]

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    directory = tmp_path_factory.mktemp("stack")
    home = init_example(directory / "fed", "breast-cancer", silos=2, epsilon=100.0)
    yield home
    stack.down(home)


@pytest.fixture(scope="module")
def ask(here: Home, tacit_json: Ask) -> Ask:
    """The command on this home, on its own stack's server."""

    def run(*args: object, code: int = 0) -> dict[str, Any]:
        return tacit_json(*args, "--home", here.root, code=code, TACIT_PREFECT_URL="")

    return run


@pytest.fixture(scope="module")
def up(ask: Ask) -> dict[str, Any]:
    before = ask("status")
    assert before["supervisor"] is None and not before["exchange"] and before["prefect"] is None
    return ask("up")


def spec_file(home: Home, **changes: Any) -> Path:
    path = home.root / "job.yaml"
    path.write_text(yaml.safe_dump(SPEC | changes))
    return path


def long_job(home: Home, ask: Ask, name: str, rounds: int = 300) -> str:
    """Submit a job that takes a while, and wait until its rounds run."""
    strategy = LONG | {"rounds": rounds}
    spec = spec_file(home, name=name, strategy=strategy, privacy={"noise_multiplier": 200.0})
    id: str = ask("submit", spec)["job_id"]
    until(lambda: (home.jobs / id / "checkpoint.safetensors").exists())
    return id


def until(true: Callable[[], Any], patience: float = 120.0) -> Any:
    deadline = time.monotonic() + patience
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def children(home: Home) -> dict[str, int]:
    said = stack.running(home)
    assert said is not None
    pids: dict[str, int] = said["children"]
    return pids


def family(*pids: int) -> set[int]:
    """These processes and all that they have started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = set(pids)
    while new := {pid for pid, parent in pairs if parent in found} - found:
        found |= new
    return found


def runs_of(home: Home, job: str) -> dict[str, dict[str, Any]]:
    """The flow runs of a job, by the pool that they were on."""
    site = Site.of(home)
    assert site is not None
    runs = site.ask("/flow_runs/filter", {"flow_runs": {"tags": {"all_": [job]}}})
    return {run["work_pool_name"]: run for run in runs}


def states(home: Home, job: str) -> list[State]:
    found = []
    for name in SILOS:
        ledger = open_ledger(home, name)
        charge = ledger.charge(job)
        assert charge is not None
        found.append(charge.state)
        ledger.close()
    return found


def policy(home: Home, **changes: Any) -> None:
    path = home.silo("silo-2").config
    said = yaml.safe_load(path.read_text())
    said["policy"] |= changes
    path.write_text(yaml.safe_dump(said, sort_keys=False))


def charges(home: Home, job: str) -> list[Any]:
    found = []
    for name in SILOS:
        ledger = open_ledger(home, name)
        found.append(ledger.charge(job))
        ledger.close()
    return found


def test_every_part_comes_up_and_is_shown(here: Home, ask: Ask, up: dict[str, Any]) -> None:
    assert up["exchange"] and all(line["serves"] for line in up["silos"].values())
    assert all(line["worker"] for line in up["silos"].values())
    assert all(abs(line["clock_offset"]) < 5 for line in up["silos"].values())
    wanted = "postgresql" if postgres.installed() else "sqlite"
    assert up["prefect"] | {"url": ""} == {
        "url": "",
        "database": wanted,
        "answers": True,
        "worker": True,
    }
    parts = {"prefect", "exchange", "proxy", "coordinator", *(f"silo {name}" for name in SILOS)}
    assert set(children(here)) == parts | ({"postgresql"} if wanted == "postgresql" else set())
    assert ask("up")["supervisor"] == up["supervisor"]


@pytest.mark.large
def test_a_job_that_waits_for_approval_goes_on_by_itself_once_it_has_it(
    here: Home, ask: Ask, up: dict[str, Any]
) -> None:
    key, ada = here.root / "ada.key", SigningKey.generate()
    ada.save(key)
    policy(here, approval_above=0, approvers={"ada": ada.public})
    try:
        result = ask("submit", spec_file(here, name="asked"), "--wait", code=3)
        job = result["job_id"]
        assert result["status"] == "interrupted" and result["error"]["code"] == "FED-008"
        run = runs_of(here, job)["tacit-coordinator"]
        assert run["state_name"] == "Suspended" and "tacit job approve" in run["state"]["message"]
        assert all(kind is None for kind in charges(here, job))
        assert ask("job", "resume", job, code=3)["status"] == "interrupted"  # too early

        given = ask("job", "approve", job, "--key", key)
        assert given["silo"] == "silo-2" and given["state"] == "given"
        until(lambda: ask("job", "show", job)["status"] == "completed")
        done = ask("job", "show", job)
        assert done["approvals"]["silo-2"]["approved"] == given["about"]
        after = until(lambda: _ended(runs_of(here, job)["tacit-coordinator"]))
        assert (after["id"], after["state_type"]) == (run["id"], "COMPLETED")
        assert states(here, job) == [State.SETTLED] * 2

        other = ask("submit", spec_file(here, name="given-up"), "--wait", code=3)["job_id"]
        assert ask("job", "cancel", other)["status"] == "cancelled"
        until(lambda: runs_of(here, other)["tacit-coordinator"]["state_type"] == "CANCELLED")
        assert ask("job", "list")["approvals"][-1]["job_id"] == job  # nobody is asked any more
    finally:
        policy(here, approval_above=None)


def test_a_submitted_job_runs_at_the_silos_by_dispatch_through_prefect(
    here: Home, ask: Ask, up: dict[str, Any]
) -> None:
    result = ask("submit", spec_file(here), "--wait")
    assert result["status"] == "completed" and set(result["silos"]) == set(SILOS)
    runs = runs_of(here, result["job_id"])
    assert set(runs) == {"tacit-coordinator", *(f"tacit-{name}" for name in SILOS)}
    for name in SILOS:
        run = runs[f"tacit-{name}"]
        assert (run["state_type"], run["state"]["message"]) == ("COMPLETED", "completed")
        assert set(run["parameters"]) == {"job", "manifest"}
        assert (
            f"flow run {run['id']}: a session"
            in (here.silo(name).directory / "silo.log").read_text()
        )
    assert until(lambda: runs_of(here, result["job_id"])["tacit-coordinator"]["state_type"])
    site = Site.of(here)
    assert site is not None
    told = {"filter": {"event": {"prefix": ["tacit."]}}, "limit": 50}
    heard = until(lambda: site.ask("/events/filter", told)["events"])
    assert {event["event"] for event in heard} >= {"tacit.charge.reserve", "tacit.charge.settle"}
    assert {e["resource"]["prefect.resource.id"] for e in heard} <= {
        f"tacit.silo.{name}" for name in SILOS
    }


@pytest.mark.large
def test_the_train_deployment_runs_its_form_at_the_silos(
    here: Home, ask: Ask, up: dict[str, Any]
) -> None:
    site = Site.of(here)
    assert site is not None
    train = site.ask("/deployments/name/train/train")
    body = {"parameters": {"spec": SPEC | {"name": "formed"}}, "state": {"type": "SCHEDULED"}}
    run = site.ask(f"/deployments/{train['id']}/create_flow_run", body)
    ended = until(lambda: _ended(site.ask(f"/flow_runs/{run['id']}")))
    assert ended["state_type"] == "COMPLETED", ended["state"]
    (job,) = (j["job_id"] for j in ask("job", "list")["jobs"] if j["job_id"].startswith("formed-"))
    assert job.endswith(run["id"][-8:]) and ask("job", "show", job)["status"] == "completed"
    assert {f"tacit-{name}" for name in SILOS} <= set(runs_of(here, job))


@pytest.mark.large
def test_a_run_that_is_cancelled_in_prefect_stops_and_its_job_can_be_cancelled(
    here: Home, ask: Ask, up: dict[str, Any]
) -> None:
    id = long_job(here, ask, "stopped", rounds=2000)
    site = Site.of(here)
    assert site is not None
    run = runs_of(here, id)["tacit-coordinator"]["id"]
    site.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: ask("job", "show", id)["status"] == "interrupted")
    until(lambda: site.ask(f"/flow_runs/{run}")["state_type"] == "CANCELLED")
    assert State.SETTLED not in states(here, id)  # a state on a server ends no charge
    assert ask("job", "cancel", id)["status"] == "cancelled"
    assert states(here, id) == [State.SETTLED] * 2


def test_what_a_job_stumbles_over_ends_the_command_as_it_would_here(
    here: Home, ask: Ask, up: dict[str, Any]
) -> None:
    big = spec_file(here, name="big", privacy={"epsilon": 900.0})
    assert ask("submit", big, "--wait", code=3)["error"]["code"] == "FED-007"
    wrong = spec_file(here, name="wrong", dataset="nowhere")
    assert ask("submit", wrong, code=2)["error"]["field"] == "dataset"


def test_a_job_at_work_is_cancelled_at_every_silo(here: Home, ask: Ask, up: dict[str, Any]) -> None:
    id = long_job(here, ask, "cancelled", rounds=2000)
    assert ask("job", "show", id)["status"] == "running"
    assert ask("job", "cancel", id) == {"job_id": id, "status": "cancelled"}
    assert ask("job", "show", id)["status"] == "cancelled"
    assert states(here, id) == [State.SETTLED] * 2
    run = until(lambda: _ended(runs_of(here, id)["tacit-coordinator"]))
    assert run["state_type"] == "CANCELLED"
    assert "already cancelled" in ask("job", "cancel", id, code=2)["error"]["message"]


def _ended(run: dict[str, Any]) -> dict[str, Any] | None:
    return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


@pytest.mark.large
def test_prefect_is_killed_and_the_job_completes(here: Home, ask: Ask, up: dict[str, Any]) -> None:
    id = long_job(here, ask, "without-prefect")
    pid = children(here)["prefect"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: ask("job", "show", id)["status"] == "completed", 240)
    assert states(here, id) == [State.SETTLED] * 2
    assert children(here)["prefect"] != pid


@pytest.mark.large
def test_a_driver_is_killed_and_the_job_is_resumed(
    here: Home, ask: Ask, up: dict[str, Any]
) -> None:
    until(lambda: ask("status")["prefect"]["worker"])
    id = long_job(here, ask, "resumed")
    os.kill(children(here)["coordinator"], signal.SIGKILL)  # its drivers die with it
    until(lambda: ask("job", "show", id)["status"] == "interrupted")
    until(lambda: ask("status")["prefect"]["worker"])
    result = ask("job", "resume", id)
    assert result["status"] == "completed" and result["rounds"] == 300
    assert states(here, id) == [State.SETTLED] * 2


@pytest.mark.large
def test_the_stack_mends_itself(here: Home, ask: Ask, up: dict[str, Any]) -> None:
    before = children(here)
    for part in ("silo silo-1", "exchange", "proxy"):
        os.kill(before[part], signal.SIGKILL)
    until(lambda: _all_serve(ask("status")))
    assert ask("submit", spec_file(here, name="mended"), "--wait")["status"] == "completed"


def _all_serve(status: dict[str, Any]) -> bool:
    return status["exchange"] and all(
        line["serves"] and line["worker"] for line in status["silos"].values()
    )


def test_a_silo_whose_desk_does_not_answer_is_silent(here: Home, up: dict[str, Any]) -> None:
    from flows.coordinator import silent

    assert silent(here) == []
    silo = children(here)["silo silo-2"]
    os.kill(silo, signal.SIGSTOP)
    try:
        assert silent(here) == ["silo-2"]
    finally:
        os.kill(silo, signal.SIGCONT)


def test_down_leaves_nothing(here: Home, ask: Ask, up: dict[str, Any]) -> None:
    said = stack.running(here)
    assert said is not None
    alive = family(said["pid"])
    assert len(alive) > len(children(here))  # sessions, drivers, PostgreSQL's own
    assert ask("down") == {"stopped": True}
    listed = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True).stdout
    lines = [line.split() for line in listed.splitlines()]
    # What nobody has waited for yet is no process any more: the supervisor's parent is long gone.
    left = alive & {int(pid) for pid, state in lines if not state.startswith("Z")}
    assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
    assert not (here.root / "stack.json").exists()
    assert ask("down") == {"stopped": False}
    message = ask("submit", spec_file(here, name="nowhere"), code=5)
    assert "tacit up" in message["error"]["message"]


def test_a_stack_that_has_only_begun_is_stopped_too(here: Home) -> None:
    with subprocess.Popen([sys.executable, "-m", "infra.stack", str(here.root)]) as supervisor:
        until(lambda: stack.running(here) is not None)
        assert stack.down(here)
        assert supervisor.poll() == 0  # gone, and not only its lock: no wait is needed
    assert not stack.down(here)


def test_a_port_that_is_taken_is_named(here: Home, ask: Ask) -> None:
    site = Site.make(here)
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # it served a moment ago
        holder.bind(("127.0.0.1", site.server))
        holder.listen()
        error = ask("up", code=5)["error"]
    assert str(site.server) in error["message"] and "site.json" in error["message"]
    assert stack.running(here) is None


@pytest.mark.large
def test_a_database_of_another_prefect_is_named(tmp_path: Path, ask: Ask) -> None:
    import sqlite3
    from contextlib import closing

    from infra.prefect_server import migrated

    home = init_example(tmp_path / "fed", "breast-cancer", silos=1)
    Site.make(home, "sqlite")
    database = migrated(home.coordinator / "prefect" / "prefect.db")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)")
        connection.execute("DELETE FROM alembic_version")
        connection.execute("INSERT INTO alembic_version VALUES ('beefbeefbeef')")
    try:
        with pytest.raises(Missing, match="migration beefbeefbeef"):
            stack.up(home)
        assert stack.running(home) is None
    finally:
        stack.down(home)


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, database: Any) -> None:
    if database == "postgresql" and not postgres.installed():
        pytest.skip("Debian's postgresql is not installed")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("no file system of a size can be mounted here")
    try:
        home = init_example(place / "fed", "breast-cancer", silos=1)
        Site.make(home, database)
        if database == "sqlite":  # PostgreSQL's first files alone are more than there is room for
            filler = (place / "filler").open("wb", buffering=0)
            with filler, contextlib.suppress(OSError):
                while True:
                    filler.write(b"0" * 4096)
        with pytest.raises(Missing, match=r"disk that holds .* is full"):
            stack.up(home)
        assert stack.running(home) is None
        stack.down(home)
    finally:
        subprocess.run(["umount", "-l", place], check=True)
