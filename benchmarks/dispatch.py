"""How long a job takes to reach four warm silos through Prefect.

`tacit up` on this machine: Prefect's server, the proxy before it, NATS, a process for each of four
silos with its worker and a warm session, and the coordinator's worker. After one warm-up job, jobs
of two rounds are submitted one after the other. The dispatch of one is the time from the start of
its step `rounds` until the last silo has said that its run is running, which it says after it has
handed the job to its session; both times are the server's. Claim:

- on PostgreSQL, where it is installed, at most 3 s: the upper 95 % bound of the median, and the
  largest is shown.

The same on SQLite is shown and not held to a limit. `--quick` takes five jobs on one database.
"""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from _common import Claims, main, median_bounds, say

from federation.documents import parse
from federation.init import init_example
from federation.record import Job
from federation.training.specs import Spec
from infra import postgres, stack
from infra.prefect_site import Database, Site
from infra.submitting import follow, hand_over

SILOS = 4
CLAIM = "dispatch of a job to four warm silos, Prefect on PostgreSQL"
ASIDE = "jobs with a silo that Prefect did not reach in time"
JOB: dict[str, Any] = {
    "kind": "train",
    "name": "dispatch",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 2, "local_steps": 1, "batch_size": 32, "learning_rate": 0.3},
    "privacy": {"noise_multiplier": 8.0},
}


def measure(claims: Claims, quick: bool) -> None:
    """Dispatch on PostgreSQL, then on SQLite."""
    jobs = 5 if quick else 20
    if postgres.installed():
        seconds, whole = dispatched(jobs, "postgresql")
        claims.at_most(CLAIM, median_bounds(seconds)[2], "s", 3.0)
        claims.at_most(ASIDE, jobs - len(seconds), "jobs", 0)
        claims.report("the slowest of them", max(seconds), "s")
        claims.report("a whole job of two rounds, submitted", sorted(whole)[len(whole) // 2], "s")
    else:
        claims.absent(CLAIM, "s", 3.0, "Debian's postgresql is not installed")
    if not quick or not postgres.installed():
        seconds, _ = dispatched(jobs, "sqlite")
        claims.report("the same on SQLite: median", median_bounds(seconds)[1], "s")
        claims.report("the same on SQLite: the slowest", max(seconds), "s")
        claims.report(f"on SQLite: {ASIDE}", jobs - len(seconds), "jobs")


def dispatched(jobs: int, database: Database) -> tuple[list[float], list[float]]:
    """Seconds of dispatch, and from submission to the result, of the jobs after the first.

    A job with a silo that Prefect did not bring it to in time, and that was then asked at its desk,
    has no seconds of dispatch.
    """
    with tempfile.TemporaryDirectory(prefix="tacit-bench-") as directory:
        home = init_example(Path(directory) / "fed", "breast-cancer", silos=SILOS, epsilon=1000.0)
        site = Site.make(home, database)
        stack.up(home)
        try:
            seconds, whole = [], []
            for number in range(jobs + 1):
                job = Job.create(home, parse(JOB, Spec, "benchmark job"), engine="exchange")
                hand_over(home, job)
                result = follow(home, job)
                spent = dispatch_of(site, job)
                told = "not through Prefect" if spent is None else f"{spent:.2f} s"
                say(f"     {'warm-up' if number == 0 else number}: {told}")
                if number:
                    if spent is not None:
                        seconds.append(spent)
                    whole.append(result["seconds"]["total"])
            return seconds, whole
        finally:
            stack.down(home)


def dispatch_of(site: Site, job: Job) -> float | None:
    """Seconds from the start of a job's rounds until the last silo's run is running."""
    of_job = {"flow_runs": {"tags": {"all_": [job.id]}}}
    runs = site.ask("/flow_runs/filter", of_job)
    asked = [run for run in runs if run["work_pool_name"] != "tacit-coordinator"]
    tasks = site.ask("/task_runs/filter", of_job | {"sort": "EXPECTED_START_TIME_ASC"})
    begun = next(task for task in tasks if task["name"].startswith("rounds"))
    if len(asked) != SILOS or not all(run["start_time"] for run in asked):
        return None
    return (max(_time(run) for run in asked) - _time(begun)).total_seconds()


def _time(run: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(run["start_time"])


if __name__ == "__main__":
    main("dispatch", measure, __doc__)
