"""Dispatch of a job to its silos: one run of `participate` on each silo's pool, once per drive.

It is the first way to ask a silo to join, never the only one: a silo without a living worker, and
every silo where the server does not answer, is asked at its desk, and so is one whose session is
not heard of. What crosses is the job's id and the digest of its manifest.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, cast
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import DeploymentStatus, StateType
from prefect.states import Cancelled

from federation.parties import Parties
from federation.record import Job
from federation.spec import digest
from flows.pools import PARTICIPATE

if TYPE_CHECKING:
    from federation.remote import Remote

log = logging.getLogger("tacit.coordinator")


@contextlib.contextmanager
def dispatching(parties: Parties, job: Job) -> Iterator[None]:
    """Let the silos of a job be asked through Prefect, where they are apart.

    Runs that no worker has taken when the block ends are cancelled: nobody is to be asked later.
    """
    if job.engine != "exchange":
        yield
        return
    runs: list[UUID] = []

    def ask(job_id: str, silos: list[str]) -> Collection[str]:
        manifest = (job.document("manifest") or {})["body"]
        try:
            return _asked(job_id, digest(manifest), silos, runs)
        except Exception as error:
            log.warning("no dispatch by Prefect: %s", type(error).__name__)
            return ()

    cast("Remote", parties).dispatch = ask
    try:
        yield
    finally:
        if runs:
            with contextlib.suppress(Exception):
                _withdraw(runs)


def _asked(job: str, manifest: str, silos: list[str], runs: list[UUID]) -> set[str]:
    """Make a run for each silo whose worker lives; each that was made is in `runs`."""
    asked = set()
    drive = secrets.token_hex(4)
    with get_client(sync_client=True) as client:
        named = FlowFilter(name=FlowFilterName(any_=[PARTICIPATE]))
        deployments = {
            deployment.name: deployment.id
            for deployment in client.read_deployments(flow_filter=named)
            if deployment.status is DeploymentStatus.READY  # a worker has lately looked for work
        }
        for silo in silos:
            if silo in deployments:
                run = client.create_flow_run_from_deployment(
                    deployments[silo],
                    name=f"{job} at {silo}",
                    parameters={"job": job, "manifest": manifest},
                    idempotency_key=f"{job}/{silo}/{drive}",
                    tags=[job],
                )
                runs.append(run.id)
                asked.add(silo)
    return asked


def _withdraw(runs: list[UUID]) -> None:
    waiting = FlowRunFilter(
        id=FlowRunFilterId(any_=runs),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
    )
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=waiting):
            client.set_flow_run_state(run.id, Cancelled(message="the job has ended"))
