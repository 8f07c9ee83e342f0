"""Run a job here: a Prefect server beside it, the flow in this process, a progress bar.

The server is started first and comes up while this process loads what it needs and checks the
job, so that a mistake in a spec costs no waiting and a start costs no more than the server's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from federation.home import Home
from federation.record import Job
from infra.prefect_server import client_environment, prefect_server


def drive(home: Home, job_of: Callable[[], Job], *, quiet: bool) -> dict[str, Any]:
    """Drive a new or interrupted job to its end and return its result document.

    Raises what the job raises; the Prefect server is stopped in any case.
    """
    begun = time.monotonic()
    with prefect_server(home.root) as server:
        with _waiting(quiet):
            job = job_of()
            _check(home, job)
            os.environ.update(client_environment(server.wait(), home.root, server.auth))
            from federation.progress import observer
            from federation.report import result_of
            from flows.run import run_here

        with _progress(quiet) as tell:
            token = observer.set(tell)
            try:
                run_here(str(home.root), job.id)
            finally:
                observer.reset(token)
                job = Job(home, job.id)
                spent = time.monotonic() - begun
                job.save("timing", {"total": spent})
    return result_of(job)


def _check(home: Home, job: Job) -> None:
    """Find bad input before anything is reserved; then the job is over.

    What the rounds will need is loaded here too, while the server comes up on the other core.
    """
    import federation.training.trainer  # noqa: F401
    from flows.checking import check

    if job.status != "created":
        return
    try:
        check(home, job.spec, job.engine)
    except Exception as error:
        job.update("failed", error=error)
        raise


@contextmanager
def _waiting(quiet: bool) -> Iterator[None]:
    """Say on a terminal what the first seconds are for."""
    from infra.cli.reporting import console

    screen = console(stderr=True)
    if quiet or not screen.is_terminal:
        yield
        return
    with screen.status("starting Prefect, checking the job"):
        yield


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    if quiet:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from infra.cli.reporting import console

    columns = (
        TextColumn("rounds"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True)) as bar:
        line = bar.add_task("rounds", total=None)
        yield lambda done, total: bar.update(line, completed=done, total=total)
