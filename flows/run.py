"""The life of a job on Prefect: each step of `federation.lifecycle` as one task.

Prefect sees names, statuses and the published report; the steps' arguments are bound before the
task is made, so nothing of them is recorded, hashed or kept. No task is retried: a step that
releases must not run twice by somebody else's decision, and every step is safe to call again on
resume.

A job that waits for approvals leaves its flow run suspended, with what it waits for as the state's
message: `Suspended` where a deployment can start it again, `Paused` elsewhere. Whether it may go
on is for the silos to say, never for Prefect: a run that is resumed too early is suspended again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.states import Cancelled

from federation import engines, lifecycle
from federation.books import open_mirror
from federation.errors import JobFailed, TacitError
from federation.home import Home
from federation.progress import observer
from federation.record import ENDED, Job
from federation.report import publish, result_of
from flows import stopping, suspending
from flows.dispatch import dispatching
from flows.events import tell_budgets, tell_receipts
from privacy.ledger import Receipt


def step(name: str, verb: Callable[[], object]) -> None:
    """Run one step as a task; a fault that is not ours crosses as its type's name only."""

    def run() -> None:
        try:
            verb()
        except TacitError:
            raise
        except Exception as error:
            raise JobFailed(f"{name} stopped with {type(error).__name__}") from error

    task(name=name, retries=0, persist_result=False, cache_policy=NO_CACHE)(run)()


@flow(name="life-of-a-job", retries=0, persist_result=False, validate_parameters=False)
def run_job(home: str, job_id: str) -> Any:
    """Drive a recorded job to its end, in a flow run of its own."""
    return drive(home, job_id)


def drive(home: str, job_id: str) -> Any:
    """Drive a recorded job from wherever it stands, in the flow run that this is called in.

    Returns its result document. A person's request to cancel it ends it at every silo, and the run
    is then cancelled too; a job that waits for approvals leaves it suspended.
    """
    begun = time.monotonic()
    where = Home(Path(home))
    job = Job(where, job_id)
    with (
        job.working(),
        engines.opened(where, job.engine) as parties,
        open_mirror(where) as mirror,
    ):
        try:
            with stopping.heeded(job), dispatching(parties, job):
                step("reserve", partial(lifecycle.reserve, job, parties, mirror))
                if job.status == "waiting":
                    suspending.suspend(job)
                step("start", partial(lifecycle.start, job, parties, mirror))
                step("rounds", partial(lifecycle.coordinate, job, parties, progress=observer.get()))
                step("settle", partial(lifecycle.settle, job, parties, mirror))
                step("publish", partial(publish, job))
        except KeyboardInterrupt:
            if not stopping.requested(job):
                raise
            if job.status not in ENDED:
                lifecycle.cancel(job, parties, mirror)
        job.save("timing", {"total": time.monotonic() - begun})
        receipts = mirror.receipts(job.id)
    _tell(job, receipts)
    if job.status == "cancelled":
        return Cancelled(message="cancelled by a person's word")
    return result_of(job)


def run_here(home: str, job_id: str) -> dict[str, Any]:
    """Drive a job in this process; return its result, though the server should not hear of it.

    It goes on in the flow run that it was suspended in; one of a deployment is started once the job
    is over, and finds that.
    """
    where = Home(Path(home))
    job, parameters = Job(where, job_id), {"home": home, "job_id": job_id}
    try:
        with contextlib.suppress(Pause):
            run_flow(run_job, flow_run=suspending.paused(job), parameters=parameters)
    except Exception:
        if Job(where, job_id).status not in ("completed", "cancelled"):
            raise
    finally:
        if Job(where, job_id).status in ENDED:
            suspending.wake(job)
    return result_of(Job(where, job_id))


def _tell(job: Job, receipts: list[Receipt]) -> None:
    """Show the report and tell of the receipts; a server that is gone takes nothing from a job."""
    with contextlib.suppress(httpx.HTTPError):
        tell_receipts(receipts)
        tell_budgets(job.document("settlement") or {}, job.document("balances") or {})
        report = job.directory / "report.md"
        if report.exists():
            create_markdown_artifact(
                key="job-report", markdown=report.read_text(), description=f"Report of {job.id}"
            )
