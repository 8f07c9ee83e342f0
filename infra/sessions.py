"""Sessions of a silo: one child process per job, warm before it is needed, dead with its parent.

    python -m infra.sessions HOME SILO

imports what a session needs, waits for one line that names a job, takes part in it, and ends. The
environment it gets is empty but for what finding Python and the machine's time takes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from federation.embedded import DEADLINE
from federation.errors import JobFailed
from federation.home import Home
from federation.manifest import JOB
from infra.process import start, stop

PATIENCE = 60.0
"""Seconds that a session which was told to stop has to end what it is at."""

_PASSED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")


class ChildSessions:
    """The sessions of one silo; a spare child is kept warm for the next job."""

    def __init__(self, home: Home, silo: str) -> None:
        self._home = home
        self._silo = silo
        self._spare = self._start()
        self._at_work: dict[str, subprocess.Popen[bytes]] = {}

    def join(self, job: str) -> None:
        """Give the job to the spare child, unless one is at work on it."""
        child = self._at_work.get(job)
        if child is not None and child.poll() is None:
            return
        if self._spare.poll() is not None:
            self._spare = self._start()
        child, self._spare = self._spare, self._start()
        if child.stdin is None:
            raise JobFailed("a session that cannot be spoken to", field="job", value=job)
        child.stdin.write(f"{job}\n".encode())
        child.stdin.close()
        self._at_work[job] = child

    def leave(self, job: str) -> None:
        """Wait until the job's session has ended; one that does not end is killed."""
        child = self._at_work.pop(job, None)
        if child is not None:
            try:
                child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                stop(child)

    def close(self) -> None:
        """End every child."""
        for child in (self._spare, *self._at_work.values()):
            stop(child)

    def _start(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "infra.sessions", str(self._home.root), self._silo]
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        log = self._home.silo(self._silo).directory / "sessions.log"
        return start(argv, environment=environment, log=log, speak=True)


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
