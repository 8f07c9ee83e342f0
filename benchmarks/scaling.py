"""How the cost of a train job grows with silos, parameters and rounds.

Claims, for 2 to 64 silos, 1e3 to 1e7 parameters and 10 to 1,000 rounds, one varied at a time
around 4 silos, 1e4 parameters and 20 rounds:

- the rounds of a job take at most 1.3 times the bare loop of the same gradient steps, plus a
  constant start;
- peak memory does not grow with the rounds: at 1,000 it is at most 1.05 times that at 10.

The bare loop (`_bare.py`) takes the very same DP-SGD steps with the product's own mechanism on the
same rows, one silo after the other in one thread, and averages the models; nothing else. The job
is a whole life without Prefect: priced, reserved and settled in real ledgers, every release
through the gate, stored and logged durably, exchanged signed over the memory exchange. A round is
five passes over a silo's 128 or so rows in batches of ten, 64 steps: the E = 5, B = 10 of McMahan
et al. (2017). Governing a round costs the same however many steps it has, so the ratio depends on
that number; with twenty and with ten steps of batches of 32 it is shown and held to nothing: for
short rounds `rounds.py` holds the milliseconds. The two largest models take fewer steps, because
one of theirs takes long. Rows are synthetic and come from files.

The constant start is what a job takes before its first round and after its last, in two parts. One
lies outside the rounds (quote, reservations, settlement); it is left out of the ratio and shown,
cold, as `start`: it grows with the number of silos, each of which prices the job for itself. The
other lies inside (first read of the rows, self-test of the model, evaluation, model file) and is
measured as what the round of a job of one round of one step, of the same model at the same silos,
takes beyond its step; it is taken from the job's seconds before dividing. Job and loop alternate in
one process; the limit is held by the 95 % bound of the median ratio where there are six pairs, else
by the median.
`--quick` takes small counts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from _common import Claims, main, median_bounds, say
from _synthetic import BATCH, STEPS, job, synthetic_home

LIFE = Path(__file__).with_name("_life.py")
LIMIT = 1.3


@dataclass(frozen=True)
class Cell:
    """One size of job, and how many pairs of it are affordable."""

    axis: str
    silos: int = 4
    parameters: int = 10**4
    rounds: int = 20
    pairs: int = 5
    steps: int = STEPS
    batch: int = BATCH

    @property
    def name(self) -> str:
        """The cell in words."""
        few = "" if self.steps == STEPS else f" of {self.steps} steps of {self.batch}"
        return f"{self.silos} silos, {self.parameters:.0e} parameters, {self.rounds} rounds{few}"


CELLS = (
    Cell("silos", silos=2, pairs=12),
    Cell("silos", silos=4, pairs=12),
    Cell("silos", silos=16, rounds=5, pairs=12),
    Cell("silos", silos=64, rounds=5, pairs=3),
    Cell("parameters", parameters=10**3, pairs=12),
    Cell("parameters", parameters=10**5, rounds=5),
    Cell("parameters", parameters=10**6, rounds=3, steps=20, pairs=3),
    Cell("parameters", parameters=10**7, rounds=3, steps=4, pairs=1),
    Cell("rounds", rounds=10, pairs=12),
    Cell("rounds", rounds=100, pairs=3),
    Cell("rounds", rounds=1000, pairs=1),
    Cell("steps", steps=20, batch=32, pairs=12),
    Cell("steps", steps=10, batch=32, pairs=12),
)
QUICK = (
    Cell("silos", silos=2, rounds=10),
    Cell("rounds", silos=2, rounds=10, pairs=1),
    Cell("rounds", silos=2, rounds=40, pairs=1),
)


@dataclass
class Bench:
    """Homes by their number of silos, and the constant parts of rounds by silos and parameters."""

    place: Path
    inside: dict[tuple[int, int], float] = field(default_factory=dict)

    def home(self, silos: int) -> Path:
        """The federation of so many silos, made once."""
        directory = self.place / f"silos-{silos}"
        if not directory.exists():
            synthetic_home(directory, silos)
        return directory / "home"

    def life(self, cell: Cell) -> dict[str, Any]:
        """Run a cell in a process of its own."""
        document = json.dumps(job(cell.parameters, cell.rounds, cell.steps, cell.batch))
        command = [sys.executable, str(LIFE), str(self.home(cell.silos)), document, str(cell.pairs)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def constant(self, cell: Cell) -> float:
        """Seconds of the round of a job of one step beyond it, the median of some."""
        key = cell.silos, cell.parameters
        if key not in self.inside:
            few = 5 if cell.parameters < 10**6 else 2
            lives = self.life(replace(cell, rounds=1, steps=1, pairs=few))
            self.inside[key] = statistics.median(ours - bare for ours, bare in lives["pairs"])
        return self.inside[key]


def measure(claims: Claims, quick: bool) -> None:
    """Every cell, then the memory of the shortest beside the longest."""
    peaks: dict[int, float] = {}
    with tempfile.TemporaryDirectory(prefix="tacit-bench-") as place:
        bench = Bench(Path(place))
        for cell in QUICK if quick else CELLS:
            constant = bench.constant(cell)
            life = bench.life(cell)
            ratios = [(ours - constant) / bare for ours, bare in life["pairs"]]
            median = statistics.median(ratios)
            held = median_bounds(ratios)[2] if len(ratios) >= 6 else median
            bare = statistics.median(bare for _, bare in life["pairs"])
            over = (median - 1) * bare / cell.rounds / cell.silos * 1e3
            say(
                f"     {cell.name}: {life['parameters']:,} parameters, bare {bare:.2f} s, "
                f"median ratio {median:.3f}, {over:.1f} ms beyond per round and silo, "
                f"in-round constant {constant:.2f} s"
            )
            what = f"{cell.axis}: {cell.name}: rounds over bare loop"
            if cell.axis == "steps":
                claims.report(what, held, "x")
            else:
                claims.at_most(what, held, "x", LIMIT)
            claims.report(f"{cell.name}: start, cold", life["total"] - life["rounds"], "s")
            if cell.axis == "rounds":
                peaks[cell.rounds] = life["peak"]
    few, many = min(peaks), max(peaks)
    claims.report(f"peak memory at {many:,} rounds", peaks[many], "MiB")
    claims.at_most(
        f"peak memory at {many:,} rounds over {few}", peaks[many] / peaks[few], "x", 1.05
    )


if __name__ == "__main__":
    main("scaling", measure, __doc__)
