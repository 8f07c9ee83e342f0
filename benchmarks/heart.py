"""Accuracy under privacy on four real hospitals (FLamby's Fed-Heart-Disease split).

Mean test accuracy of the four hospitals over seeds 42 to 46: without privacy, at epsilon 1 and at
epsilon 0.1 in total per hospital (delta 1e-4, per record). The epsilon is the PLD price of the
whole job; the accounts' filter admits it or the job does not run. Evaluation is exact, which the
policies of these homes allow for this measurement only.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from _common import Claims, main, say
from _federations import heart_home, job_document, run

SEEDS = range(42, 47)
LEVELS: tuple[tuple[float | None, float, float], ...] = (
    (None, 0.82, 0.789),
    (1.0, 0.79, 0.781),
    (0.1, 0.72, 0.664),
)
"""Epsilon, the accuracy to reach, and the one that FLamby publishes."""


def measure(claims: Claims, quick: bool) -> None:
    """Run every level at every seed; `--quick` changes nothing, it takes seconds."""
    with tempfile.TemporaryDirectory() as place:
        home = heart_home(Path(place), epsilon=10.0, open_policy=True)
        for epsilon, limit, published in LEVELS:
            name = "no privacy" if epsilon is None else f"epsilon {epsilon:g}"
            if home is None:
                claims.absent(f"accuracy, {name}", "share", limit, "no heart data (TACIT_SHARED)")
                continue
            document = job_document("heart-utility")
            privacy = {"none": True} if epsilon is None else {"epsilon": epsilon, "delta": 1e-4}
            document["privacy"] = privacy | {"unit": "record", "clip": document["privacy"]["clip"]}
            runs = [run(home, document | {"seed": seed}) for seed in SEEDS]
            means = [
                statistics.mean(s["accuracy"] for s in r.metrics["silos"].values()) for r in runs
            ]
            say(f"{name}: {', '.join(f'{mean:.3f}' for mean in means)}")
            claims.at_least(f"accuracy, {name}", statistics.mean(means), "share", limit)
            claims.report(f"accuracy, {name}, published by FLamby", published, "share")
            if epsilon is not None:
                spent = max(max(r.epsilons.values()) for r in runs)
                claims.at_most(f"largest price paid, {name}", spent, "epsilon", epsilon)


if __name__ == "__main__":
    main("heart", measure, __doc__)
