"""`kill -9` of any part of the stack at a random moment of a job, fifty times over.

Every job ends: completed by itself or after `tacit job resume`, or failed with a reason. No ledger
is charged twice or too little, and no release is made twice.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.books import open_ledger
from federation.errors import TacitError
from federation.home import Home
from federation.init import init_example
from federation.record import ENDED, Job
from infra import postgres, stack
from privacy.ledger import State

SILOS = ("silo-1", "silo-2", "silo-3")
ROUNDS = 20
KILLS = 50
SPEC: dict[str, Any] = {
    "kind": "train",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": ROUNDS, "local_steps": 10, "batch_size": 32, "learning_rate": 0.1},
    "privacy": {"noise_multiplier": 30.0},
    "deadline": 120.0,
}
PARTS = ("coordinator", "exchange", "prefect", "proxy", "silo silo-1", "silo silo-3")
VICTIMS = (*PARTS, "session", "driver", *(("postgresql",) if postgres.installed() else ()))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    directory = tmp_path_factory.mktemp("faults")
    made = init_example(directory / "fed", "breast-cancer", silos=len(SILOS), epsilon=900.0)
    stack.up(made)
    yield made
    stack.down(made)


def until(true: Callable[[], Any], patience: float) -> Any:
    deadline = time.monotonic() + patience
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)
    return found


def kill(home: Home, victim: str) -> None:
    """Kill a part, or what a part has started: a session of a silo, a driver of the coordinator."""
    pids: dict[str, int] = (stack.running(home) or {})["children"]
    parent = {"session": "silo silo-2", "driver": "coordinator"}.get(victim)
    if parent is None:
        targets = [pids[victim]]
    else:
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(pids[parent])], capture_output=True, text=True
        )
        targets = [int(pid) for pid in listed.stdout.split()]
    for pid in targets:
        os.kill(pid, signal.SIGKILL)


def whole(home: Home) -> bool:
    document = stack.examine(home)
    return bool(
        document["exchange"]
        and (document["prefect"] or {}).get("worker")
        and all(line["serves"] and line["worker"] for line in document["silos"].values())
    )


def settled(home: Home, ask: Callable[..., Any], id: str) -> Job:
    """Wait for a job's end; where nobody drives it any more, resume it as a person would."""
    deadline = time.monotonic() + 300
    while (job := Job(home, id)).status not in ENDED:
        assert time.monotonic() < deadline, (job.status, job.shown_status())
        if job.shown_status() == "interrupted":
            until(lambda: whole(home), 120)
            if Job(home, id).shown_status() == "interrupted":
                ask("job", "resume", id, "--home", home.root, TACIT_PREFECT_URL="")
        time.sleep(0.3)
    return job


@pytest.mark.large
@pytest.mark.timeout(3600)
def test_fifty_kills(
    home: Home, tacit: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    chance = random.Random(20)
    ends: Counter[str] = Counter()
    for number in range(KILLS):
        victim = VICTIMS[number % len(VICTIMS)]
        spec = tmp_path / "job.yaml"
        spec.write_text(yaml.safe_dump(SPEC | {"name": f"kill-{number}"}))
        until(lambda: whole(home), 120)
        said = tacit("submit", spec, "--home", home.root, "--json", TACIT_PREFECT_URL="")
        assert said.returncode == 0, said.stdout
        id = yaml.safe_load(said.stdout)["job_id"]
        until(lambda id=id: Job(home, id).status != "created", 120)
        time.sleep(chance.uniform(0, 4))
        kill(home, victim)
        job = settled(home, tacit, id)
        ends[f"{victim}: {job.status}"] += 1
        if job.status == "failed":
            assert job.error and job.error["message"], victim
        for silo in SILOS:
            check(home, silo, job)
    print(dict(ends))
    assert sum(n for end, n in ends.items() if "completed" in end) >= 0.9 * KILLS, ends
    for silo in SILOS:
        ledger = open_ledger(home, silo)
        assert ledger.verify().ok
        ledger.close()


def check(home: Home, silo: str, job: Job) -> None:
    """One charge, whole; each release once; the rounds of a completed job all there."""
    ledger = open_ledger(home, silo)
    try:
        entries = [entry for entry in ledger.entries() if entry.job == job.id]
        charge = ledger.charge(job.id)
    except TacitError:
        ledger.close()
        raise
    ledger.close()
    kinds = Counter(entry.kind for entry in entries)
    assert kinds["reserve"] == 1 and kinds["start"] <= 1, kinds
    logged = [(e.data["name"], e.data["round"]) for e in entries if e.kind == "egress"]
    assert len(logged) == len(set(logged))
    if job.status == "completed":
        assert charge is not None and charge.state is State.SETTLED
        assert sorted(logged) == [
            ("evaluate", ROUNDS),
            *(("update", number) for number in range(ROUNDS)),
        ]
    else:
        assert charge is None or charge.state not in (State.STARTED, State.READ)
