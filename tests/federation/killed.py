"""Run a job and die by SIGKILL the n-th time that a named point is reached.

    python killed.py HOME JOB POINT N

A point is `module:Class.method:before` or `...:after`.
"""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def arm(point: str, times: int) -> None:
    """Make the n-th call at the point the last thing that this process does."""
    module_name, path, when = point.split(":")
    holder: Any = importlib.import_module(module_name)
    *inside, name = path.split(".")
    for part in inside:
        holder = getattr(holder, part)
    original = getattr(holder, name)
    calls = itertools.count(1)  # silos are threads; next() of a count is atomic

    def deadly(*args: Any, **kwargs: Any) -> Any:
        call = next(calls)
        if when == "before" and call == times:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if when == "after" and call == times:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(holder, name, deadly)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    from jobs_here import drive

    from federation.home import Home
    from federation.record import Job

    place = Home(Path(sys.argv[1]))
    arm(sys.argv[3], int(sys.argv[4]))
    drive(place, Job(place, sys.argv[2]))
    sys.exit("the point was never reached")
