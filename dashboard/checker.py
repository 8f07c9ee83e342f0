"""One verification at a time for all viewers of a home, in a process of its own.

A finding stands for the state of the ledgers it was made on (`marks`). Another state, or age,
asks for a new one; the old one is kept until that is there, with the time it was made.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from dashboard.verification import Finding
from privacy.ledger import clock

RENEW = timedelta(minutes=5)
"""After this a check is made again, whether or not anything seems changed."""
STALE = timedelta(minutes=15)
"""After this a finding counts as none: the checks do not come to an end."""


@dataclass(frozen=True, slots=True)
class Check:
    """A finding, when its process began, and the state of the ledgers then.

    `failure`: why there is no finding, where the process ended without one.
    """

    at: datetime
    marks: Hashable
    finding: Finding | None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class _Running:
    process: subprocess.Popen[str]
    at: datetime
    marks: Hashable


class Checker:
    """The checks of one home; safe to share between viewers."""

    def __init__(self, root: Path, now: Callable[[], datetime] = clock.now) -> None:
        self._command = [sys.executable, "-P", "-m", "dashboard.verification", str(root)]
        self._now = now
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._last: Check | None = None

    @property
    def running(self) -> bool:
        """Whether a check is under way."""
        return self._running is not None

    def latest(self, marks: Hashable, patience: float, *, anew: bool = False) -> Check | None:
        """Return the latest check, and begin one where it is of another state, old, or `anew`.

        Waits up to `patience` seconds for a check under way. `None` before the first has ended.
        """
        with self._lock:
            if self._running is None and (anew or self._due(marks)):
                self._begin(marks)
            self._collect(patience)
            return self._last

    def _due(self, marks: Hashable) -> bool:
        last = self._last
        return last is None or last.marks != marks or self._now() - last.at > RENEW

    def _begin(self, marks: Hashable) -> None:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._running = _Running(process, self._now(), marks)

    def _collect(self, patience: float) -> None:
        running = self._running
        if running is None:
            return
        try:
            said, _ = running.process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            return
        self._running = None
        code = running.process.returncode
        try:
            finding, failure = Finding.read(said), ""
        except ValueError:
            finding, failure = None, f"the check ended with code {code} and no finding"
        self._last = Check(running.at, running.marks, finding, failure)
