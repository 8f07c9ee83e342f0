"""`tacit up`, `status`, `submit`, `down`: the stack comes up, runs a job, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.init import init_example
from infra import stack

SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "submitted",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 3, "local_steps": 2, "batch_size": 32, "learning_rate": 0.5},
    "privacy": {"noise_multiplier": 1.5},
}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    home = init_example(tmp_path / "fed", "breast-cancer", silos=2)
    yield home.root
    stack.down(home)


def of_home(home: Path) -> list[str]:
    """The command lines of all processes that name this home."""
    listed = subprocess.run(["ps", "-eo", "pid,args", "-ww"], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if str(home) in line]


def test_the_stack_comes_up_runs_a_job_mends_itself_and_leaves_nothing(
    here: Path, tacit_json: Any
) -> None:
    job = here / "job.yaml"
    job.write_text(yaml.safe_dump(SPEC))
    before = tacit_json("status", "--home", here)
    assert before["supervisor"] is None and not before["exchange"]

    up = tacit_json("up", "--home", here)
    assert up["exchange"] and all(line["serves"] for line in up["silos"].values())
    assert all(abs(line["clock_offset"]) < 5 for line in up["silos"].values())
    assert tacit_json("up", "--home", here)["supervisor"] == up["supervisor"]

    result = tacit_json("submit", job, "--wait", "--home", here)
    assert result["status"] == "completed" and set(result["silos"]) == {"silo-1", "silo-2"}

    children = stack.running(stack.Home(here))["children"]
    os.kill(children["silo silo-1"], signal.SIGKILL)
    os.kill(children["exchange"], signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        status = tacit_json("status", "--home", here)
        if all(line["serves"] for line in status["silos"].values()):
            break
    assert status["exchange"] and stack.running(stack.Home(here))["children"] != children

    asked = tacit_json("submit", job, "--home", here)
    while time.monotonic() < deadline + 60:
        shown = tacit_json("job", "show", asked["job_id"], "--home", here)
        if shown["status"] == "completed":
            break
        time.sleep(1)
    assert shown["status"] == "completed"

    assert tacit_json("down", "--home", here) == {"stopped": True}
    assert of_home(here) == [] and not (here / "stack.json").exists()
    assert tacit_json("down", "--home", here) == {"stopped": False}
