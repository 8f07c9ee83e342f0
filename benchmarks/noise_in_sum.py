"""Accuracy with noise in the sum alone, beside noise of every silo's own, at the same price.

Eight silos of scikit-learn's digits train a logistic model, all rows in every step. Under
`aggregation: masked` the one job has every silo add Gaussian noise of its own, the other has all
together add Skellam noise of that multiplier in shares (`noise: distributed`, one colluding silo,
all eight in every sum). The first model's mean change carries sqrt(8) times the noise that one
silo's row is owed, the second's sqrt(8 / 7) times. The Skellam job's multiplier is raised until it
costs no more than the Gaussian's, by the quotes of both. Evaluation is exact, which the policies of
this home allow for this measurement only, and the settings were not searched. `--quick` runs one
level once.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from _common import Claims, main, say
from _federations import allow, run

from federation import engines, jobs, lifecycle
from federation.documents import parse
from federation.home import Home
from federation.init import init_example

SILOS, ROUNDS, RUNS = 8, 60, 5
MULTIPLIERS = (10.0, 40.0, 160.0)
SHARES = {"noise": "distributed", "colluding": 1}


def measure(claims: Claims, quick: bool) -> None:
    """Both kinds of noise at every level, in turn."""
    with tempfile.TemporaryDirectory(prefix="tacit-bench-") as directory:
        home = init_example(Path(directory) / "home", "digits", silos=SILOS, epsilon=1000.0)
        allow(home, exact_evaluation=True, protections=["dp", "masked", "unprotected"])
        for multiplier in MULTIPLIERS[:1] if quick else MULTIPLIERS:
            _level(claims, home, multiplier, 1 if quick else RUNS)


def _level(claims: Claims, home: Home, multiplier: float, runs: int) -> None:
    own = _document(multiplier, {})
    price = _price(home, own)
    shares = _document(multiplier, SHARES)
    while _price(home, shares) > price:
        multiplier *= 1.002
        shares = _document(multiplier, SHARES)
    found: dict[str, list[float]] = {"own": [], "shares": []}
    for seed in range(runs):
        for kind, document in (("own", own), ("shares", shares)):
            ran = run(home, document | {"seed": seed})
            silos = ran.metrics["silos"].values()
            found[kind].append(statistics.mean(silo["accuracy"] for silo in silos))
    level = f"epsilon {price:.2g} a silo"
    for kind, words in (("own", "noise of every silo's own"), ("shares", "noise in the sum alone")):
        say(f"  {level}, {words}: {', '.join(f'{a:.4f}' for a in found[kind])}")
        claims.report(f"{level}, {words}: accuracy", statistics.mean(found[kind]), "share")
    cost = _price(home, shares)
    claims.at_most(f"{level}: price of the noise in the sum", cost, "epsilon", price)


def _document(multiplier: float, aggregation: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "train",
        "name": "noise",
        "dataset": "digits",
        "model": {"name": "logistic"},
        "strategy": {
            "rounds": ROUNDS,
            "batch_size": 10_000,
            "learning_rate": 0.5,
            "weighting": "uniform",
            "average": 0.5,
        },
        "privacy": {"noise_multiplier": multiplier, "clip": 1.0},
        "aggregation": {"name": "masked"} | aggregation,
        "evaluation": {"split": "test", "release": "exact"},
        "quorum": SILOS,
    }


def _price(home: Home, document: dict[str, Any]) -> float:
    """The largest epsilon of the job at any silo."""
    spec = parse(document, jobs.kind("train").Spec, "benchmark job")
    with engines.opened(home, "embedded") as parties:
        lines = lifecycle.quote(spec, parties)["silos"].values()
    return max(line["epsilon"] for line in lines)


if __name__ == "__main__":
    main("noise_in_sum", measure, __doc__)
