"""Accuracy under privacy on four real hospitals (FLamby's Fed-Heart-Disease split).

Mean test accuracy of the four hospitals over seeds 42 to 46: without privacy, at epsilon 1 and at
epsilon 0.1 in total per hospital (delta 1e-4, per record). The epsilon is the PLD price of the
whole job; the accounts' filter admits it or the job does not run. Evaluation is exact, which the
policies of these homes allow for this measurement only. A seed decides no noise: that is drawn
anew by every silo in every run, so the figures move from one run to the next. `--quick` runs one
seed and holds no mean to a limit.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from _common import Claims, main, say
from _federations import Ran, heart_home, job_document, run

SEEDS = range(42, 47)


def measure(claims: Claims, quick: bool) -> None:
    """Run every level at every seed."""
    seeds = SEEDS[:1] if quick else SEEDS
    with tempfile.TemporaryDirectory() as place:
        _level(claims, Path(place), "heart-none", seeds, at_least=0.82, published=0.789)
        _level(claims, Path(place), "heart-epsilon-1", seeds, at_least=0.79, published=0.781)
        _level(claims, Path(place), "heart-epsilon-0.1", seeds, at_least=0.72, published=0.664)


def _level(
    claims: Claims, place: Path, job: str, seeds: range, *, at_least: float, published: float
) -> None:
    document = job_document(job)
    home = heart_home(place / job, document["dataset"], open_policy=True)
    claim = f"{job}: mean accuracy of four hospitals, FLamby publishes {published}"
    if home is None:
        claims.absent(claim, "share", at_least, "the heart data are not there (TACIT_SHARED)")
        return
    runs = [run(home, document | {"seed": seed}) for seed in seeds]
    means = [_accuracy(ran) for ran in runs]
    say(f"  seeds {seeds[0]} to {seeds[-1]}: {', '.join(f'{mean:.4f}' for mean in means)}")
    if len(seeds) == len(SEEDS):
        claims.at_least(claim, statistics.mean(means), "share", at_least)
        claims.report(f"{job}: deviation between runs", statistics.stdev(means), "share")
    else:
        claims.report(claim, statistics.mean(means), "share")
    asked = document["privacy"].get("epsilon")
    if asked is not None:
        price = max(epsilon for ran in runs for epsilon in ran.epsilons.values())
        claims.at_most(f"{job}: largest price of a run at any hospital", price, "epsilon", asked)


def _accuracy(ran: Ran) -> float:
    return statistics.mean(silo["accuracy"] for silo in ran.metrics["silos"].values())


if __name__ == "__main__":
    main("heart", measure, __doc__)
