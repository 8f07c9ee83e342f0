"""The life of a job on a real Prefect server: what the server learns, and what it does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.prefect_site import ask

SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "flowing",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 3, "local_steps": 2, "batch_size": 32, "learning_rate": 0.3},
    "privacy": {"epsilon": 1.5},
}


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory, tacit_json: Any) -> Path:
    directory = tmp_path_factory.mktemp("flows") / "fed"
    tacit_json("init", directory, "--example", "breast-cancer", "--silos", "2")
    (directory / "job.yaml").write_text(yaml.safe_dump(SPEC))
    return directory


def begun(url: str, spec: Path, home: Path) -> subprocess.Popen[str]:
    """A run that is going on in a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TACIT_"))}
    return subprocess.Popen(
        [Path(sys.executable).with_name("tacit"), "run", spec, "--home", home, "--json"],
        env=clean | {"TACIT_PREFECT_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts tests in its background has them, and their children, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_the_server_sees_steps_and_the_report_and_no_arguments(
    fed: Path, tacit_json: Any, prefect_url: str
) -> None:
    result = tacit_json("run", fed / "job.yaml", "--home", fed)
    assert result["status"] == "completed"
    runs = ask(prefect_url, "/flow_runs/filter", {"sort": "START_TIME_DESC"})
    mine = next(r for r in runs if r["parameters"].get("job_id") == result["job_id"])
    assert mine["state_type"] == "COMPLETED"
    assert set(mine["parameters"]) == {"home", "job_id"}
    only = {"flow_runs": {"id": {"any_": [mine["id"]]}}}
    tasks = ask(prefect_url, "/task_runs/filter", only | {"sort": "EXPECTED_START_TIME_ASC"})
    names = [t["name"].rpartition("-")[0] for t in tasks]
    assert names == ["reserve", "start", "rounds", "settle", "publish"]
    assert all(t["task_inputs"] == {} and t["empirical_policy"]["retries"] == 0 for t in tasks)
    artifacts = ask(prefect_url, "/artifacts/filter", only)
    report = Path(result["report"]).read_text()
    assert [a["data"] for a in artifacts if a["key"] == "job-report"] == [report]
    logs = {"logs": {"flow_run_id": {"any_": [mine["id"]]}}}
    assert ask(prefect_url, "/logs/filter", logs) == []


def test_a_refusal_crosses_as_public_facts(
    fed: Path, tacit_json: Any, prefect_url: str, tmp_path: Path
) -> None:
    (tmp_path / "big.yaml").write_text(yaml.safe_dump(SPEC | {"privacy": {"epsilon": 90.0}}))
    error = tacit_json("run", tmp_path / "big.yaml", "--home", fed, code=3)["error"]
    runs = ask(prefect_url, "/flow_runs/filter", {"sort": "START_TIME_DESC"})
    assert runs[0]["state_type"] == "FAILED"
    assert error["code"] == "FED-007"
    assert tacit_json("job", "list", "--home", fed)["jobs"][-1]["status"] == "refused"


@pytest.mark.parametrize(
    "blow", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.large)]
)
def test_a_stopped_run_is_interrupted_and_resumes_on_the_same_charge(
    fed: Path, tacit_json: Any, prefect_url: str, tmp_path: Path, blow: signal.Signals
) -> None:
    strategy = SPEC["strategy"] | {"rounds": 200, "local_steps": 1}
    privacy = {"noise_multiplier": 30.0}
    spec = SPEC | {"name": f"long-{blow.value}", "strategy": strategy, "privacy": privacy}
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(spec))
    child = begun(prefect_url, tmp_path / "long.yaml", fed)
    deadline = time.monotonic() + 120
    jobs = fed / "coordinator" / "jobs"
    while not list(jobs.glob(f"long-{blow.value}-*/checkpoint.safetensors")):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    child.send_signal(blow)
    out, err = child.communicate(timeout=60)
    assert "Traceback" not in err
    if blow is signal.SIGINT:
        assert child.returncode == 130 and json.loads(out)["error"]["code"] == "INTERRUPTED"
    (job,) = (p.name for p in jobs.glob(f"long-{blow.value}-*"))
    assert tacit_json("job", "show", job, "--home", fed)["status"] == "interrupted"
    reserved = tacit_json("budget", "show", "--home", fed)["accounts"]
    result = tacit_json("job", "resume", job, "--home", fed)
    assert result["status"] == "completed" and result["rounds"] == 200
    after = tacit_json("budget", "show", "--home", fed)["accounts"]
    assert [a["used"] for a in after] == pytest.approx([a["used"] for a in reserved])
    assert tacit_json("ledger", "verify", "--home", fed)["ok"]


def test_a_killed_run_can_be_cancelled_once(
    fed: Path, tacit_json: Any, prefect_url: str, tmp_path: Path
) -> None:
    (tmp_path / "gone.yaml").write_text(yaml.safe_dump(SPEC | {"name": "gone"}))
    child = begun(prefect_url, tmp_path / "gone.yaml", fed)
    deadline = time.monotonic() + 120
    jobs = fed / "coordinator" / "jobs"
    while not list(jobs.glob("gone-*/manifest.json")):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    (job,) = (p.name for p in jobs.glob("gone-*"))
    assert tacit_json("job", "show", job, "--home", fed)["status"] == "interrupted"
    assert tacit_json("job", "cancel", job, "--home", fed) == {"job_id": job, "status": "cancelled"}
    accounts = tacit_json("budget", "show", "--home", fed)["accounts"]
    assert all(account["reserved"]["epsilon"] == 0 for account in accounts)
    for command in ("cancel", "resume"):
        again = tacit_json("job", command, job, "--home", fed, code=2 if command == "cancel" else 1)
        assert "cancelled" in str(again)
    assert tacit_json("ledger", "verify", "--home", fed)["ok"]
