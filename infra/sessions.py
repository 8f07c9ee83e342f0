"""Sessions of a silo: one child process per job, warm before it is needed, dead with its parent.

    python -m infra.sessions HOME SILO

imports what a session needs, waits for one line that names a job, takes part in it, and ends. The
environment it gets is empty but for what finding Python and the machine's time takes.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from federation.embedded import DEADLINE
from federation.home import Home
from federation.manifest import JOB
from infra.warm import WarmChildren

PATIENCE = 60.0
"""Seconds that a session which was told to stop has to end what it is at."""

_PASSED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")


class ChildSessions:
    """The sessions of one silo; a spare child is kept warm for the next job."""

    def __init__(self, home: Home, silo: str) -> None:
        self._children = WarmChildren(
            [sys.executable, "-m", "infra.sessions", str(home.root), silo],
            {name: os.environ[name] for name in _PASSED if name in os.environ},
            home.silo(silo).directory / "sessions.log",
        )

    def join(self, job: str) -> None:
        """Give the job to the spare child, unless one is at work on it."""
        self._children.give(job, job)

    def at_work(self, job: str) -> bool:
        """Whether a session of the job is at work."""
        return self._children.at_work(job)

    def leave(self, job: str) -> None:
        """Wait until the job's session has ended; one that does not end is killed."""
        self._children.leave(job, PATIENCE)

    def close(self) -> None:
        """End every child."""
        self._children.close()


def main() -> None:
    """Wait for a job's name on the standard input, then take part in it."""
    import federation.training.trainer  # noqa: F401  # warm before it is needed
    from federation.access import connect
    from federation.serving import Session
    from federation.silo import Silo

    root, name = sys.argv[1:]
    home = Home(Path(root))
    job = sys.stdin.readline().strip()
    if not re.fullmatch(JOB, job):
        return
    silo = Silo(home, name)
    with connect(home, name, silo.key) as connection:
        silo.participate(job, Session(connection.endpoint(job)), deadline=DEADLINE)
    silo.close()


if __name__ == "__main__":
    main()
