"""A small federation and a small job for tests of the life of a job, without Prefect."""

from __future__ import annotations

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
