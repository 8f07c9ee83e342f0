"""`prefect.yaml` on a real server: a typed form, a paused schedule, a worker that runs a job."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.errors import Missing
from infra.prefect_site import ask
from infra.process import start, stop

ROOT = Path(__file__).resolve().parents[2]
PREFECT = Path(sys.executable).with_name("prefect")
SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "deployed",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 2, "local_steps": 1, "batch_size": 32, "learning_rate": 0.3},
    "privacy": {"epsilon": 1.0},
}


@pytest.fixture(scope="module")
def environment(prefect_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TACIT_"))}
    return clean | {
        "PREFECT_API_URL": prefect_url,
        "PREFECT_HOME": str(tmp_path_factory.mktemp("worker")),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_LOGGING_COLORS": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


@pytest.fixture(scope="module")
def deployment(prefect_url: str, environment: dict[str, str]) -> dict[str, Any]:
    """The commands at the top of prefect.yaml, on a server that somebody else started."""
    for command in (
        "work-pool create tacit-coordinator --type process",
        "deploy --all --no-prompt",
    ):
        done = subprocess.run(
            [PREFECT, *command.split()], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = ask(prefect_url, "/deployments/name/train/train")
    return found


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory, tacit_json: Any) -> Path:
    directory = tmp_path_factory.mktemp("deployment") / "fed"
    tacit_json("init", directory, "--example", "breast-cancer", "--silos", "2")
    return directory


@pytest.fixture(scope="module")
def worker(
    deployment: dict[str, Any],
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    log = tmp_path_factory.mktemp("log") / "worker.log"
    words = [str(PREFECT), "worker", "start", "--pool", "tacit-coordinator"]
    child = start(words, environment=environment, log=log)
    try:
        yield log
    finally:
        stop(child)


def heads(home: Path) -> list[str]:
    return [path.read_text() for path in sorted(home.glob("silos/*/ledger.head"))]


def ran(url: str, deployment: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """Run the deployment as its form does, and wait for the end."""
    path = f"/deployments/{deployment['id']}/create_flow_run"
    return ended(url, ask(url, path, {"parameters": parameters}))


def ended(url: str, run: dict[str, Any], count: int = 1) -> dict[str, Any]:
    """Wait for a flow run's end, for the `count`-th time."""
    over = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    deadline = time.monotonic() + 120
    while run["state"]["type"] not in over or run["run_count"] < count:
        assert time.monotonic() < deadline, run
        time.sleep(0.3)
        run = ask(url, f"/flow_runs/{run['id']}")
    return run


def test_the_form_is_the_job_spec(deployment: dict[str, Any]) -> None:
    form = deployment["parameter_openapi_schema"]
    assert deployment["enforce_parameter_schema"] is True
    assert form["required"] == ["spec"]
    assert set(form["properties"]) == {"spec", "home", "engine"}
    assert form["properties"]["spec"]["$ref"] == "#/definitions/Spec"
    spec, privacy = form["definitions"]["Spec"], form["definitions"]["PrivacySpec"]
    assert {"model", "strategy", "privacy"} <= set(spec["required"])
    assert spec["additionalProperties"] is False and privacy["additionalProperties"] is False
    number = next(a for a in privacy["properties"]["epsilon"]["anyOf"] if a["type"] == "number")
    assert 0 < number["minimum"] < number["maximum"]


def test_every_default_of_the_form_is_a_job(deployment: dict[str, Any]) -> None:
    from federation.documents import parse
    from federation.training.specs import Spec

    assert parse(deployment["parameters"]["spec"], Spec, "prefect.yaml").privacy.epsilon == 0.5


def test_the_schedule_waits_for_a_person_and_runs_queue_up(deployment: dict[str, Any]) -> None:
    (schedule,) = deployment["schedules"]
    assert schedule["active"] is False and schedule["slug"] == "weekly-retraining"
    assert schedule["schedule"]["cron"] == "0 3 * * 1"
    assert schedule["schedule"]["timezone"] == "Europe/Berlin"
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert deployment["work_pool_name"] == "tacit-coordinator"


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": {"epsilonn": 1.0}},
        {"privacy": {"epsilon": -1.0}},
        {"modell": {"name": "logistic"}},
        {"strategy": SPEC["strategy"] | {"rounds": "many"}},
    ],
)
def test_the_server_refuses_a_wrong_form(
    prefect_url: str, deployment: dict[str, Any], fed: Path, changes: dict[str, Any]
) -> None:
    before = heads(fed)
    body = {"parameters": {"spec": SPEC | changes, "home": str(fed)}}
    with pytest.raises(Missing) as refused:
        ask(prefect_url, f"/deployments/{deployment['id']}/create_flow_run", body)
    assert refused.value.value in (409, 422)
    assert heads(fed) == before and not (fed / "coordinator" / "jobs").exists()


def test_a_worker_runs_the_deployment_and_the_ledgers_are_charged(
    prefect_url: str, deployment: dict[str, Any], worker: Path, fed: Path, tacit_json: Any
) -> None:
    run = ran(prefect_url, deployment, {"spec": SPEC, "home": str(fed)})
    assert run["state"]["type"] == "COMPLETED", worker.read_text()
    (job,) = tacit_json("job", "list", "--home", fed)["jobs"]
    assert job["status"] == "completed" and job["job_id"].startswith("deployed-")
    for account in tacit_json("budget", "show", "--home", fed)["accounts"]:
        assert account["spent"]["epsilon"] > 0 and account["reserved"]["epsilon"] == 0
    assert tacit_json("ledger", "verify", "--home", fed)["ok"]
    # The worker says that it works; what the job says stays on its machine.
    only = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
    names = {log["name"] for log in ask(prefect_url, "/logs/filter", only)}
    assert names and names <= {"prefect.flow_runs.worker", "prefect.flow_runs.runner"}


@pytest.mark.large
def test_retry_in_the_ui_goes_on_with_the_same_job(
    prefect_url: str, deployment: dict[str, Any], worker: Path, fed: Path, tacit_json: Any
) -> None:
    run = ran(prefect_url, deployment, {"spec": SPEC | {"name": "again"}, "home": str(fed)})
    before = heads(fed)
    retry = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    ask(prefect_url, f"/flow_runs/{run['id']}/set_state", retry)
    run = ended(prefect_url, ask(prefect_url, f"/flow_runs/{run['id']}"), run["run_count"] + 1)
    assert run["state"]["type"] == "COMPLETED", worker.read_text()
    jobs = tacit_json("job", "list", "--home", fed)["jobs"]
    assert len([job for job in jobs if job["job_id"].startswith("again-")]) == 1
    assert heads(fed) == before


def test_what_only_the_silos_can_know_fails_before_anything_is_charged(
    prefect_url: str, deployment: dict[str, Any], worker: Path, fed: Path, tacit_json: Any
) -> None:
    before = heads(fed)
    spec = SPEC | {"name": "other", "privacy": {"epsilon": 1.0, "delta": 1e-4}}
    run = ran(prefect_url, deployment, {"spec": spec, "home": str(fed)})
    assert run["state"]["type"] == "FAILED" and "privacy.delta" in run["state"]["message"]
    assert heads(fed) == before
    jobs = tacit_json("job", "list", "--home", fed)["jobs"]
    assert not [job for job in jobs if job["job_id"].startswith("other-")]


def test_the_file_says_what_to_type() -> None:
    head = (ROOT / "prefect.yaml").read_text().partition("name:")[0]
    pool = "tacit-coordinator"
    for command in (f"work-pool create {pool}", "deploy --all", f"worker start --pool {pool}"):
        assert f"prefect {command}" in head
