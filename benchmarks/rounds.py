"""What a federated job takes in time and memory, beside Flower and NVIDIA FLARE.

The heart job (`jobs/rounds.yaml`: logistic model, four hospitals, 20 rounds of 10 steps, batch 32)
runs on Tacit with differential privacy, reservations in four ledgers, signed and stored releases
and one noisy evaluation, by the real command `tacit run`, whose Prefect server it starts and stops;
and on the simulators of Flower and NVIDIA FLARE with the same rows, model, batch and steps, without
clip, noise, account or evaluation. Every side is one process tree, started the same way with one
thread for each library, one side after the other, Tacit and Flower alternating after one unmeasured
run of each; installing the peers is in no measured time. Claims:

- Tacit's rounds take at most a fifth of Flower's, and all of Tacit less than all of Flower. Rounds
  are what each system itself reports as its rounds: Tacit `seconds.rounds`, Flower the time of
  `strategy.start`. Flower's include the start of its workers, which Tacit's do not have. So that
  nothing hides there, the rounds of the peers are shown without the first one too ("alone");
- a further round costs at most 30 ms beyond its gradient steps: the whole lives of jobs of 20 and
  of 70 rounds, without Prefect, and the bare loop (`_bare.py`) of 50, side by side;
- the same, of 150 rounds, with every silo in a process of its own over NATS on loopback
  (`tacit up`): at most 50 ms beyond the work itself, which is the bare loop's time shared by as
  many cores as there are silos to use them. Flower's own deployment, a SuperLink and four
  SuperNodes without TLS, runs five rounds beside it;
- `tacit --help` takes under 0.3 s;
- running the demo stays under 1.2 GB: the sum of the resident memory of the command and its Prefect
  server, shared pages counted in both, sampled twenty times a second. The largest process is shown.

`--quick` leaves out the peers and takes fewer pairs.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _bare import Bare
from _common import Claims, main, median_bounds, say
from _federations import JOBS, heart_home, job_document, run
from _peers import FLARE, FLOWER, Peer
from _processes import Done, timed

from federation import jobs
from federation.documents import parse
from federation.home import Home
from federation.record import Engine
from federation.sources.rows import load_part
from infra import stack

TACIT = Path(sys.executable).with_name("tacit")
ROOT = Path(__file__).resolve().parents[1]
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
FIFTH = "Tacit's rounds over Flower's"
LESS = "all of Tacit over all of Flower"
FURTHER = "a further round beyond its gradient steps"
APART = "silos apart: a further round beyond its work"


def measure(claims: Claims, quick: bool) -> None:
    """Peers, further rounds, `--help`, memory."""
    with tempfile.TemporaryDirectory(prefix="tacit-bench-") as directory:
        place = Path(directory)
        home = heart_home(place / "heart", epsilon=1000.0)  # so that every repeat fits
        if home is None:
            why = "the heart data are not there (TACIT_SHARED)"
            claims.absent(FIFTH, "x", 0.2, why)
            claims.absent(LESS, "x", 1.0, why)
            claims.absent(FURTHER, "ms", 30.0, why)
            claims.absent(APART, "ms", 50.0, why)
        else:
            beside_peers(claims, home, place / "rows", quick=quick)
            further, pairs = 20 if quick else 50, 5 if quick else 30
            further_round(claims, FURTHER, 30.0, home, further=further, pairs=pairs)
            stack.up(home, prefect=False)  # whose workers' polling is no part of a round
            try:
                many = dict(further=3 * further, pairs=min(pairs, 8))  # a noisier difference
                further_round(claims, APART, 50.0, home, "exchange", **many)
            finally:
                stack.down(home)
            peer_apart(claims, place / "rows", quick=quick)
        helps(claims, runs=11 if quick else 31)
        memory(claims, place / "demo")


def beside_peers(claims: Claims, home: Home, data: Path, *, quick: bool) -> None:
    """Tacit and Flower alternating, then FLARE."""
    pairs = 1 if quick else 5
    flower, flare = (_prepared(peer, quick=quick) for peer in (FLOWER, FLARE))
    _export(home, data)
    ours, theirs = [], []
    if isinstance(flower, Path):  # once unmeasured: files are in memory, Prefect's tables are kept
        _tacit(home), _peer(FLOWER, flower, data)
    for number in range(pairs):
        if isinstance(flower, Path) and number % 2:
            theirs.append(_peer(FLOWER, flower, data))
        ours.append(_tacit(home))
        if isinstance(flower, Path) and not number % 2:
            theirs.append(_peer(FLOWER, flower, data))
    for key, what in (("total", "in all"), ("command", "its own seconds.total"), ("rounds", "")):
        name = f"Tacit: {what or 'rounds'}"
        claims.report(name, statistics.median(run[key] for run in ours), "s")
    if isinstance(flower, Path):
        _shown(claims, FLOWER, theirs)
        for claim, key, limit in ((FIFTH, "rounds", 0.2), (LESS, "total", 1.0)):
            ratios = [a[key] / b[key] for a, b in zip(ours, theirs, strict=True)]
            say(f"     {claim}: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")
            claims.at_most(claim, median_bounds(ratios)[2], "x", limit)
        alone = [a["rounds"] / b["alone"] for a, b in zip(ours, theirs, strict=True)]
        claims.report(
            "Tacit's rounds over Flower's alone, workers already running",
            statistics.median(alone),
            "x",
        )
    else:
        claims.absent(FIFTH, "x", 0.2, flower)
        claims.absent(LESS, "x", 1.0, flower)
    if isinstance(flare, Path):
        _shown(claims, FLARE, [_peer(FLARE, flare, data)])
    else:
        claims.absent("NVIDIA FLARE: in all", "s", None, flare)


def further_round(
    claims: Claims,
    claim: str,
    limit: float,
    home: Home,
    engine: Engine = "embedded",
    *,
    further: int,
    pairs: int,
) -> None:
    """Whole lives of few and of more rounds, and the bare loop of those between."""
    document = job_document("rounds")
    few: int = document["strategy"]["rounds"]
    long = document | {"strategy": document["strategy"] | {"rounds": few + further}}
    loop = Bare(home, parse(long, jobs.kind("train").Spec, "benchmark job"))
    run(home, document, engine), run(home, long, engine), loop(few)  # prices kept, imports done
    cores = min(os.cpu_count() or 1, len(home.silo_names())) if engine == "exchange" else 1
    costs, steps, beyond = [], [], []
    # Silos apart start the process of the next job when this one is over: let it be there.
    rest = 8.0 if engine == "exchange" else 0.0
    for number in range(pairs):
        bare = loop(further) if number % 2 else None
        lives = []
        for life in (long, document):
            time.sleep(rest)
            lives.append(run(home, life, engine).total)
        cost = lives[0] - lives[1]
        work = (loop(further) if bare is None else bare) / cores
        for kept, seconds in ((costs, cost), (steps, work), (beyond, cost - work)):
            kept.append(seconds / further * 1e3)
    where = "" if engine == "embedded" else "silos apart: "
    claims.report(f"{where}a further round of four silos", statistics.median(costs), "ms")
    claims.report(f"{where}its gradient steps in a bare loop", statistics.median(steps), "ms")
    low, median, high = median_bounds(beyond)
    say(f"     beyond: median {median:.1f} ms, bounds {low:.1f} to {high:.1f}")
    claims.at_most(claim, high, "ms", limit)


def peer_apart(claims: Claims, data: Path, *, quick: bool) -> None:
    """Five rounds of Flower's own processes: it starts one for every silo in every round."""
    claim = f"{FLOWER.name} with SuperLink and SuperNodes: a further round"
    flower = _prepared(FLOWER, quick=quick)
    if not isinstance(flower, Path):
        claims.absent(claim, "ms", None, flower)
        return
    job = job_document("rounds")["strategy"] | {"rounds": 5}
    ran = FLOWER.run(flower, data, job, THREADS, "flower_apart")
    claims.report(claim, ran["alone"] / job["rounds"] * 1e3, "ms")


def helps(claims: Claims, *, runs: int) -> None:
    """`tacit --help`, many times."""
    seconds = [timed([TACIT, "--help"]).seconds for _ in range(runs)]
    claims.at_most("tacit --help", statistics.median(seconds), "s", 0.3)


def memory(claims: Claims, home: Path) -> None:
    """The demo's own commands, the run watched."""
    timed([TACIT, "init", home, "--example", "breast-cancer", "--silos", "4"])
    done = timed([TACIT, "run", ROOT / "examples/breast-cancer.yaml", "--home", home], watch=True)
    claims.report("demo: peak memory of the largest process", done.largest / 1e9, "GB")
    claims.at_most("demo: peak memory of all its processes", done.tree / 1e9, "GB", 1.2)


def _prepared(peer: Peer, *, quick: bool) -> Path | str:
    return "--quick leaves peers out" if quick else peer.python()


def _export(home: Home, data: Path) -> None:
    """Write every silo's training rows as Tacit maps them."""
    data.mkdir()
    dataset = home.federation().dataset("heart")
    for silo in home.silo_names():
        part = load_part(home.silo_config(silo), dataset, "train")
        np.savez(data / f"{silo}.npz", features=part.features, labels=part.labels)


def _tacit(home: Home) -> dict[str, float]:
    command = [TACIT, "run", JOBS / "rounds.yaml", "--home", home.root, "--json"]
    done: Done = timed(command, environment=THREADS)
    result: dict[str, Any] = json.loads(done.out)
    if result["status"] != "completed":
        raise RuntimeError(f"the job is {result['status']}: {result['error']}")
    own = result["seconds"]
    say(f"     Tacit {done.seconds:.1f} s, rounds {own['rounds']:.2f} s")
    return {"total": done.seconds, "command": own["total"], "rounds": own["rounds"]}


def _peer(peer: Peer, python: Path, data: Path) -> dict[str, Any]:
    ran = peer.run(python, data, job_document("rounds")["strategy"], THREADS)
    say(f"     {peer.name} {ran['total']:.1f} s, rounds {ran['rounds']:.2f} s")
    return ran


def _shown(claims: Claims, peer: Peer, runs: list[dict[str, Any]]) -> None:
    name = f"{peer.name} {runs[0]['version']}"
    for key, what in (("total", "in all"), ("rounds", "rounds"), ("alone", "rounds alone")):
        claims.report(f"{name}: {what}", statistics.median(run[key] for run in runs), "s")


if __name__ == "__main__":
    main("rounds", measure, __doc__)
