"""The train flow: the typed form of the Prefect deployment, and what its schedule runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from federation.home import Home
from federation.record import Engine, Job
from federation.training.specs import Spec
from flows.checking import check
from flows.run import drive


@flow(name="train", retries=0, persist_result=False)
def train(spec: Spec, home: str | None = None, engine: Engine = "embedded") -> Any:
    """Train one model across the silos of `home` under their privacy budgets.

    `home` is a directory on the machine that serves the deployment; left out, it is found as the
    command finds it (TACIT_HOME, the nearest federation.yaml, ./.tacit). `engine` is `exchange`
    where every silo is a process of its own. A retry of the same flow run goes on with its job: no
    second charge.
    """
    where = Home.find(Path(home) if home else None)
    check(where, spec, engine)
    job = Job.create(where, spec, mark=str(flow_run.id)[-8:], engine=engine)
    return drive(str(where.root), job.id)
