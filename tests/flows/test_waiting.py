"""A job that waits for approval leaves its flow run suspended, and goes on in it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.init import init_example
from infra.prefect_site import ask
from infra.process import start, stop
from secure.keys import SigningKey

ROOT = Path(__file__).resolve().parents[2]
PREFECT = Path(sys.executable).with_name("prefect")
SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "waits",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 2, "local_steps": 1, "batch_size": 32, "learning_rate": 0.3},
    "privacy": {"epsilon": 0.5},
}
WAKE = """
import sys
from pathlib import Path
from federation.home import Home
from flows.suspending import wake_approved
print(wake_approved(Home(Path(sys.argv[1]))))
"""


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ada") / "key"
    SigningKey.generate().save(file)
    return file


@pytest.fixture
def fed(tmp_path: Path, key: Path) -> Path:
    """Two silos; the second wants a person's word for every job."""
    directory = tmp_path / "fed"
    init_example(directory, "breast-cancer", silos=2)
    settings = directory / "silos" / "silo-2" / "silo.yaml"
    said = yaml.safe_load(settings.read_text())
    public = SigningKey.load(key).public
    said["policy"] |= {"approval_above": 0.1, "approvers": {"ada": public}}
    settings.write_text(yaml.safe_dump(said, sort_keys=False))
    (directory / "job.yaml").write_text(yaml.safe_dump(SPEC))
    return directory


@pytest.fixture(scope="module")
def environment(prefect_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TACIT_"))}
    return clean | {
        "PREFECT_API_URL": prefect_url,
        "PREFECT_HOME": str(tmp_path_factory.mktemp("home")),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def run_of(url: str, job: str) -> dict[str, Any]:
    """The one flow run that names a job."""
    runs = ask(url, "/flow_runs/filter", {"sort": "START_TIME_DESC"})
    (mine,) = (r for r in runs if r["parameters"].get("job_id") == job)
    found: dict[str, Any] = mine
    return found


def test_the_command_reports_and_the_same_flow_run_goes_on(
    fed: Path, key: Path, tacit_json: Any, prefect_url: str
) -> None:
    result = tacit_json("run", fed / "job.yaml", "--home", fed, code=3)
    job = result["job_id"]
    assert result["status"] == "interrupted" and result["error"]["code"] == "FED-008"
    assert f"tacit job approve {job} --silo silo-2" in result["error"]["message"]
    paused = run_of(prefect_url, job)
    assert paused["state_type"] == "PAUSED"
    assert paused["state"]["message"] == result["error"]["message"]
    assert set(paused["parameters"]) == {"home", "job_id"}

    given = tacit_json("job", "approve", job, "--key", key, "--home", fed)
    assert given["state"] == "given" and given["by"] == "ada"
    done = tacit_json("job", "resume", job, "--home", fed)
    assert done["status"] == "completed" and done["error"] is None
    assert done["approvals"]["silo-2"]["approved"] == given["about"]
    after = run_of(prefect_url, job)
    assert (after["id"], after["state_type"]) == (paused["id"], "COMPLETED")


@pytest.fixture
def deployment(prefect_url: str, environment: dict[str, str], tmp_path: Path) -> Iterator[Any]:
    """The train deployment, and a worker that serves it."""
    for command in ("work-pool create waiting --type process", "--no-prompt deploy --name train"):
        done = subprocess.run(
            [PREFECT, *command.split(), *(["--pool", "waiting"] if "deploy" in command else [])],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    words = [str(PREFECT), "worker", "start", "--pool", "waiting"]
    child = start(words, environment=environment, log=tmp_path / "worker.log")
    try:
        yield ask(prefect_url, "/deployments/name/train/train")
    finally:
        stop(child)


def reached(url: str, run: dict[str, Any], state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while run["state"]["name"] != state:
        assert time.monotonic() < deadline and run["state"]["type"] != "FAILED", run["state"]
        time.sleep(0.3)
        run = ask(url, f"/flow_runs/{run['id']}")
    return run


@pytest.mark.large
def test_a_deployments_run_is_suspended_and_a_worker_goes_on_with_it(
    fed: Path,
    key: Path,
    tacit_json: Any,
    prefect_url: str,
    environment: dict[str, str],
    deployment: dict[str, Any],
) -> None:
    body = {"parameters": {"spec": SPEC, "home": str(fed)}}
    run = ask(prefect_url, f"/deployments/{deployment['id']}/create_flow_run", body)
    run = reached(prefect_url, run, "Suspended")
    assert "asks for approval" in run["state"]["message"]
    (line,) = tacit_json("job", "list", "--home", fed)["approvals"]

    # A person who resumes it in the UI too early changes nothing.
    ask(prefect_url, f"/flow_runs/{run['id']}/resume", {})
    time.sleep(1)
    run = reached(prefect_url, ask(prefect_url, f"/flow_runs/{run['id']}"), "Suspended")

    tacit_json("job", "approve", line["job_id"], "--key", key, "--home", fed)
    resumed = subprocess.run(
        [sys.executable, "-c", WAKE, str(fed)], env=environment, capture_output=True, text=True
    )
    assert resumed.stdout.strip() == str([line["job_id"]]), resumed.stderr
    run = reached(prefect_url, ask(prefect_url, f"/flow_runs/{run['id']}"), "Completed")
    (job,) = tacit_json("job", "list", "--home", fed)["jobs"]
    assert (job["job_id"], job["status"]) == (line["job_id"], "completed")
