"""A small federation and a small job for tests of the life of a job, without Prefect."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from federation import lifecycle
from federation.books import open_mirror
from federation.documents import parse
from federation.embedded import Embedded
from federation.home import Home
from federation.record import Job
from federation.report import publish, result_of
from federation.training.specs import Spec

KILLED = Path(__file__).with_name("killed.py")
SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "small",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 4, "local_steps": 2, "batch_size": 32, "learning_rate": 0.5},
    "privacy": {"noise_multiplier": 1.5},
}


def spec(**changes: Any) -> Spec:
    return parse(SPEC | changes, Spec, "job")


def drive(home: Home, job: Job) -> dict[str, Any]:
    """Drive a job to its end, from wherever it stands."""
    with job.working(), Embedded(home) as parties, open_mirror(home) as mirror:
        lifecycle.reserve(job, parties, mirror)
        lifecycle.start(job, parties, mirror)
        lifecycle.coordinate(job, parties)
        lifecycle.settle(job, parties, mirror)
        publish(job)
    return result_of(job)


def run(home: Home, **changes: Any) -> dict[str, Any]:
    return drive(home, Job.create(home, spec(**changes)))


def allow(home: Home, **policy: Any) -> None:
    """Every owner opens the policy of their silo."""
    for silo in home.silo_names():
        path = home.silo(silo).directory / "silo.yaml"
        said = yaml.safe_load(path.read_text())
        said["policy"] = said.get("policy", {}) | policy
        path.write_text(yaml.safe_dump(said, sort_keys=False))


def kill(home: Home, job: Job, point: str, times: int) -> None:
    """Drive a job in a process that dies by SIGKILL the n-th time that a point is reached."""
    asked = [sys.executable, KILLED, home.root, job.id, point, str(times)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
