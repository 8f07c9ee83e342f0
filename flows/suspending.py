"""A flow run whose job waits for approvals: suspended, and started again once they are given.

It is `Suspended` where a deployment can start it again, `Paused` elsewhere, with what the job waits
for as the state's message. Whether the job may go on is for the silos to say, never for Prefect: a
run that is resumed too early is suspended again.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import Any, NoReturn
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import NotPausedError, ObjectNotFound, Pause
from prefect.flow_runs import resume_flow_run
from prefect.states import Paused, Suspended

from federation import engines, waiting
from federation.errors import JobFailed, TacitError
from federation.home import Home
from federation.record import Job


def suspend(job: Job) -> NoReturn:
    """Suspend the flow run that drives a job, and leave it; its reason is made of public facts."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise JobFailed("no flow run to suspend", field="job", value=job.id)
    run = context.flow_run
    reason = str(job.error["message"]) if job.error else "waiting for approval"
    # A key of its own each time: the server takes the same one for a suspension that is over.
    make = Suspended if run.deployment_id else Paused
    state: State[Any] = make(message=reason, pause_key=secrets.token_hex(8))
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, state)
    job.save("suspended", {"run": str(run.id), "deployed": run.deployment_id is not None})
    raise Pause(state=state)


def paused(job: Job) -> FlowRun | None:
    """The flow run, not of a deployment, in which a job was suspended, if its server is here."""
    left = job.document("suspended")
    if left is None or left["deployed"]:
        return None
    with get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(UUID(left["run"]))
        except ObjectNotFound:
            return None
    return run if run.state is not None and run.state.is_paused() else None


def wake(job: Job) -> bool:
    """Have a deployment's suspended flow run start again; whether there was one."""
    left = job.document("suspended")
    if left is None or not left["deployed"]:
        return False
    try:
        resume_flow_run(UUID(left["run"]))
    except (NotPausedError, ObjectNotFound):
        return False
    return True


def wake_approved(home: Home) -> list[str]:
    """Start the runs of jobs that have all the approvals they waited for; returns the jobs' ids.

    A job that nobody suspended in a deployment's run is for `tacit job resume`.
    """
    woken = []
    for path in sorted(home.jobs.glob("*/suspended.json")):
        job = Job(home, path.parent.name)
        if job.status != "waiting":
            continue
        with contextlib.suppress(*TacitError):  # one whose silos do not answer keeps no other
            with engines.opened(home, job.engine) as parties:
                ready = waiting.decided(job, parties)
            if ready and wake(job):
                woken.append(job.id)
    return woken
