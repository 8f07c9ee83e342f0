"""Asking the process that drives a job to end it: a file in the job's record. Imports no Prefect.

The file works where the driver is a command, a worker's child or a worker of somebody else's, and
whether the Prefect server lives or not: whoever can read the job's record can see it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from federation.errors import JobFailed
from federation.record import ENDED, Job

PATIENCE = 120.0
"""Seconds that a driver has to let go: its silos' sessions may have to be ended first."""

_LOOK = 0.3


def request(job: Job) -> None:
    """Ask whoever drives the job to end it."""
    _file(job).touch(mode=0o600)


def requested(job: Job) -> bool:
    """Whether somebody has asked."""
    return _file(job).exists()


def withdraw(job: Job) -> None:
    """Forget what was asked."""
    _file(job).unlink(missing_ok=True)


def wait(job: Job, patience: float = PATIENCE) -> None:
    """Wait until nobody drives the job; `JobFailed` where somebody still does."""
    until = time.monotonic() + patience
    while job.status not in ENDED and job.shown_status() == "running":
        if time.monotonic() > until:
            raise JobFailed(
                f"whoever drives job {job.id} did not let go of it within {patience:g} s; "
                "it may be resumed or cancelled once that process is gone",
                field="job",
                value=job.id,
            )
        time.sleep(_LOOK)


@contextlib.contextmanager
def heeded(job: Job) -> Iterator[None]:
    """Interrupt the block, once, when somebody asks: as Ctrl-C would, in the main thread."""
    over = threading.Event()
    main = threading.main_thread().ident or 0

    def watch() -> None:
        while not over.wait(_LOOK):
            if requested(job):
                signal.pthread_kill(main, signal.SIGINT)
                return

    thread = threading.Thread(target=watch, name="stopping", daemon=True)
    if threading.current_thread() is threading.main_thread():
        thread.start()
    try:
        yield
    finally:
        over.set()


def _file(job: Job) -> Path:
    return job.directory / "cancel"
