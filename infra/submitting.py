"""Jobs that the coordinator's worker drives: handed over as flow runs, followed by their record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from federation.errors import BadInput, JobFailed, Missing, TacitError
from federation.home import Home
from federation.record import ENDED, Job
from federation.report import result_of
from infra.prefect_server import running_server
from infra.prefect_site import ask

DRIVE = "life-of-a-job/drive"
"""The deployment that drives a recorded job."""

LOOK = 0.5
"""Seconds between two looks at a job that is followed."""

_OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED", "PAUSED")
"""The states in which nobody works on a run."""


def server_of(home: Home) -> tuple[str, str | None]:
    """The API and the password of the server that has the worker; `Missing` where none runs."""
    server = running_server(home.root)
    if server is None:
        raise Missing(
            "no stack is up, so nobody would drive this job: tacit up, or tacit run to drive it "
            "in this process",
            field="stack",
        )
    return server


def hand_over(home: Home, job: Job) -> None:
    """Ask the coordinator's worker to drive a job; `Missing` where there is no server to ask.

    A job that was suspended goes on in the same flow run.
    """
    url, auth = server_of(home)
    if wake(home, job):
        return
    deployment = ask(url, f"/deployments/name/{DRIVE}", auth=auth)
    run = ask(
        url,
        f"/deployments/{deployment['id']}/create_flow_run",
        {
            "name": job.id,
            "parameters": {"home": str(home.root), "job_id": job.id},
            "state": {"type": "SCHEDULED"},
            "tags": [job.id],
        },
        auth=auth,
    )
    job.save("flow", {"url": url, "run": run["id"]})


def wake(home: Home, job: Job) -> bool:
    """Start the deployment's run that a job was left suspended in; whether there was one here."""
    server, left = running_server(home.root), job.document("suspended")
    if server is None or left is None or not left["deployed"]:
        return False
    url, auth = server
    if _state(url, left["run"], auth) != "PAUSED":
        return False
    ask(url, f"/flow_runs/{left['run']}/resume", {}, auth=auth)
    job.save("flow", {"url": url, "run": left["run"]})
    return True


def handed_over(home: Home, job: Job) -> bool:
    """Hand a job over where there is a worker to drive it; tell whether there is."""
    try:
        hand_over(home, job)
    except Missing:
        return False
    return True


def follow(home: Home, job: Job) -> dict[str, Any]:
    """Wait for the end of a job that was handed over; its result, or the error that ended it.

    The result of a job that waits for approvals is `interrupted`. Where its run has ended and left
    it undriven otherwise it can be resumed, and `JobFailed` says so.
    """
    while True:
        now = Job(home, job.id)
        if _free(now):
            over = _over(home, job)  # asked before the record is read: what it says then is last
            now = Job(home, job.id)
            if now.status == "completed":
                return result_of(now)
            if now.status in ENDED:
                raise _error(now)
            if over and _free(now):
                if now.status == "waiting":
                    return result_of(now)
                raise JobFailed(
                    f"job {job.id} is interrupted: its run has ended before it; tacit job resume "
                    f"goes on, {home.coordinator / 'drivers.log'} says why",
                    field="job",
                    value=job.id,
                )
        time.sleep(LOOK)


def shown_status(job: Job) -> str:
    """The status for people: a job that waits for the worker is `submitted`."""
    shown = job.shown_status()
    waits = job.status == "created" and job.document("flow") is not None
    return "submitted" if waits and shown == "interrupted" else shown


def _over(home: Home, job: Job) -> bool:
    """Whether nobody works on the job's run any more; no answer is no end."""
    server, said = running_server(home.root), job.document("flow")
    if server is None or said is None:
        return server is None
    return _state(server[0], said["run"], server[1]) in _OVER


def _state(url: str, run: str, auth: str | None) -> str | None:
    """The type of a flow run's state, where the server answers."""
    try:
        state: str = ask(url, f"/flow_runs/{run}", auth=auth)["state_type"]
    except Missing:
        return None
    return state


def _free(job: Job) -> bool:
    """Whether nobody drives a job, whatever its status."""
    try:
        with job.working():
            return True
    except BadInput:
        return False


def _error(job: Job) -> Exception:
    """The error that ended a job, of its own class, so that it ends a command as it would have."""
    told = job.error or {"code": JobFailed.code, "message": f"job {job.id} is {job.status}"}
    kinds = {kind.code: kind for root in TacitError for kind in _kinds(root)}
    error: Exception = kinds.get(told["code"], JobFailed)(told["message"])
    return error


def _kinds(root: type[Exception]) -> Iterator[Any]:
    yield root
    for kind in root.__subclasses__():
        yield from _kinds(kind)
