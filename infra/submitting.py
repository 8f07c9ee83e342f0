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

LOOK = 0.3
"""Seconds between two looks at a job that is followed."""

_FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def hand_over(home: Home, job: Job) -> None:
    """Ask the coordinator's worker to drive a job; `Missing` where there is no server to ask."""
    server = running_server(home.root)
    if server is None:
        raise Missing(
            "no stack is up, so nobody would drive this job: tacit up, or tacit run to drive it "
            "in this process",
            field="stack",
        )
    url, auth = server
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


def handed_over(home: Home, job: Job) -> bool:
    """Hand a job over where there is a worker to drive it; tell whether there is."""
    try:
        hand_over(home, job)
    except Missing:
        return False
    return True


def follow(home: Home, job: Job) -> dict[str, Any]:
    """Wait for the end of a job that was handed over; its result, or the error that ended it.

    Where its run has ended and left it undriven it can be resumed, and `JobFailed` says so.
    """
    while True:
        final = _final(home, job)  # looked at first: a run that ends now has written its last word
        now = Job(home, job.id)
        if now.status in ENDED and _free(now):
            if now.status != "completed":
                raise _error(now)
            return result_of(now)
        if final and now.status not in ENDED and _free(now):
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


def _final(home: Home, job: Job) -> bool:
    """Whether the job's run has ended; no answer is no end."""
    server, said = running_server(home.root), job.document("flow")
    if server is None or said is None:
        return server is None
    try:
        state = ask(server[0], f"/flow_runs/{said['run']}", auth=server[1])["state_type"]
    except Missing:
        return False
    return state in _FINAL


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
