"""The infer flow: the typed form of the Prefect deployment, and what its schedule runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from federation.home import Home
from federation.inference.specs import Spec
from federation.record import Engine, Job
from flows.checking import check
from flows.run import drive


@flow(name="infer", retries=0, persist_result=False)
def infer(spec: Spec, home: str | None = None, engine: Engine = "embedded") -> Any:
    """Have one silo's rows predicted by another silo's model; predictions stay with the rows.

    `home` and `engine` are as in the train flow. A retry of the same flow run goes on with its job.
    """
    where = Home.find(Path(home) if home else None)
    check(where, spec, engine)
    job = Job.create(where, spec, mark=str(flow_run.id)[-8:], engine=engine)
    return drive(str(where.root), job.id)
