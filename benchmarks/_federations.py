"""Federations of real data for benchmarks, and one job run through the product's own life.

Homes are made by `federation.init` from files, as a person would make them: keys, ledgers on
disk, schemas, declared sizes. A job runs through every step of `federation.lifecycle` (reserve in
real ledgers, start, rounds over the memory exchange, settle), only Prefect is left out.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from _common import shared

from federation import engines, jobs, lifecycle
from federation.books import open_mirror
from federation.documents import parse
from federation.home import Home
from federation.init import init_dataset
from federation.record import Engine, Job
from federation.report import result_of

JOBS = Path(__file__).parent / "jobs"

HEART_SIZES = {
    "cleveland": "199/104",
    "hungarian": "172/89",
    "switzerland": "30/16",
    "va": "85/45",
}
"""FLamby's split; the sizes that the owners declare are the published ones."""


@dataclass(frozen=True)
class Ran:
    """What one job cost and gave; `rounds` and `total` in seconds."""

    epsilons: dict[str, float]
    metrics: dict[str, Any]
    rounds: float
    total: float


def heart_home(
    directory: Path, schema: str = "heart", *, epsilon: float = 10.0, open_policy: bool = False
) -> Home | None:
    """The four hospitals as a federation with delta 1e-4, or None where the data are absent.

    `schema` is one of benchmarks/jobs. `open_policy` lets jobs without privacy and exact
    evaluation through: for measuring only.
    """
    root = shared()
    data = root / "data" / "heart" if root else None
    if data is None or not data.is_dir():
        return None
    with (data / "flamby_split.csv").open(newline="") as file:
        sets = {(row["hospital"], int(row["row"])): row["set"] for row in csv.DictReader(file)}
    directory.mkdir(parents=True, exist_ok=True)
    for hospital in HEART_SIZES:
        with (data / f"{hospital}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        with (directory / f"{hospital}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], "set"])
            writer.writeheader()
            writer.writerows({**row, "set": sets[hospital, i]} for i, row in enumerate(rows))
    home = init_dataset(
        directory / "home",
        JOBS / f"{schema}-schema.yaml",
        {hospital: str(directory / f"{hospital}.csv") for hospital in HEART_SIZES},
        HEART_SIZES,
        epsilon=epsilon,
        delta=1e-4,
    )
    if open_policy:
        allow_unprotected(home)
    return home


def allow_unprotected(home: Home) -> None:
    """Let every silo's policy allow exact evaluation and jobs without privacy."""
    allow(home, exact_evaluation=True, no_privacy=True)


def allow(home: Home, **rules: Any) -> None:
    """Put rules into every silo's policy."""
    for name in home.silo_names():
        path = home.silo(name).config
        settings = yaml.safe_load(path.read_text())
        settings["policy"] |= rules
        path.write_text(yaml.safe_dump(settings, sort_keys=False))


def job_document(name: str) -> dict[str, Any]:
    """A job of benchmarks/jobs as plain data."""
    document: dict[str, Any] = yaml.safe_load((JOBS / f"{name}.yaml").read_text())
    return document


def run(home: Home, document: Mapping[str, Any], engine: Engine = "embedded") -> Ran:
    """Run one job to its settlement, by either engine; the exchange has to be up."""
    begun = time.perf_counter()
    spec = parse(dict(document), jobs.kind(document["kind"]).Spec, "benchmark job")
    job = Job.create(home, spec, engine=engine)
    with engines.opened(home, engine) as parties, open_mirror(home) as mirror:
        lifecycle.reserve(job, parties, mirror)
        lifecycle.start(job, parties, mirror)
        lifecycle.coordinate(job, parties)
        lifecycle.settle(job, parties, mirror)
    result = result_of(job)
    if result["status"] == "failed":
        raise RuntimeError(f"job {job.id} failed: {job.document('failure')}")
    return Ran(
        epsilons={silo: line["epsilon"] for silo, line in result["silos"].items()},
        metrics=result["metrics"],
        rounds=result["seconds"]["rounds"],
        total=time.perf_counter() - begun,
    )
