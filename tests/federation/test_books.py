"""What the books tell: jobs that fit at each silo, and what is said where there is no ledger."""

from __future__ import annotations

import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests_jobs_here import run, spec

from federation.books import account_lines, forecast_lines, opened, spend_lines, verification
from federation.documents import parse
from federation.embedded import Embedded
from federation.errors import Missing, NotFound
from federation.home import Home
from federation.inference.specs import Spec as InferSpec
from federation.init import init_dataset
from federation.spec import JobSpec
from privacy.errors import LedgerTampered

SCHEMA = {
    "name": "visits",
    "features": {"a": {"type": "number", "bounds": [0, 1], "missing": 0}},
    "label": {"column": "y", "classes": ["0", "1"]},
    "split": {"by": "hash", "salt": "s", "test_fraction": 0.25},
}
SHARED = {
    "strategy": {
        "rounds": 4,
        "local_steps": 1,
        "batch_size": 32,
        "learning_rate": 0.5,
        "weighting": "uniform",
    },
    "aggregation": {"name": "masked", "noise": "distributed"},
    "quorum": 3,
}


def fits(home: Home, job: JobSpec | None, silo: str | None = None) -> dict[str, Any]:
    return {x["account"].split("/")[0]: x["jobs_that_fit"] for x in forecast_lines(home, silo, job)}


@pytest.fixture
def clinics(tmp_path: Path) -> Home:
    """Two clinics with rows, and a vendor of models without any."""
    (tmp_path / "visits.yaml").write_text(yaml.safe_dump(SCHEMA))
    for clinic in ("north", "south"):
        (tmp_path / f"{clinic}.csv").write_text("a,y\n0.1,0\n0.2,1\n")
    sources = {n: str(tmp_path / f"{n}.csv") for n in ("north", "south")} | {"vendor": "none"}
    sizes = {"north": "100/40", "south": "400/40"}
    return init_dataset(tmp_path / "fed", tmp_path / "visits.yaml", sources, sizes)


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation": {"name": "masked"}},
        {"aggregation": {"name": "ckks"}},
        {"aggregation": {"rule": "median"}},
        {"aggregation": {"rule": "trimmed_mean", "faulty": 1}},
        {"quorum": 2},
    ],
    ids=["masked", "ckks", "median", "trimmed", "quorum"],
)
def test_a_job_that_needs_several_silos_is_priced_at_each(
    home: Home, changes: dict[str, Any]
) -> None:
    alone = fits(home, spec())
    assert all(n and n > 0 for n in alone.values()) and len(alone) == 3
    assert fits(home, spec(**changes)) == alone


def test_noise_in_the_sum_is_priced_at_each_silo(home: Home) -> None:
    job = spec(**SHARED)
    with Embedded(home) as parties:
        charged = {silo: parties.price(silo, job)["charge"] for silo in home.silo_names()}
    found = fits(home, job)
    assert {silo: n >= 1 for silo, n in found.items()} == {s: c <= 1 for s, c in charged.items()}
    assert any(found.values())


def test_a_silo_without_rows_takes_nothing_of_a_train_job(clinics: Home) -> None:
    job = spec(dataset="visits")
    found = fits(clinics, job)
    assert found["vendor"] is None and 0 < found["north"] < found["south"]
    assert fits(clinics, job, "vendor") == {"vendor": None}
    assert fits(clinics, job, "north") == {"north": found["north"]}
    assert fits(clinics, None) == {"north": None, "south": None, "vendor": None}


def test_an_infer_job_costs_nothing_anywhere(clinics: Home) -> None:
    said = {
        "kind": "infer",
        "name": "ask",
        "dataset": "visits",
        "mode": "ckks",
        "roles": {"data": "north", "model": "vendor"},
        "model": {"own": "ward"},
        "rows": 12,
    }
    job = parse(said, InferSpec, "job")
    assert fits(clinics, job) == {"north": None, "south": None, "vendor": None}


def test_a_data_set_that_is_not_there_is_named(clinics: Home) -> None:
    with pytest.raises(NotFound, match=r"no data set 'Visits'.*known: visits"):
        forecast_lines(clinics, None, spec(dataset="Visits"))


def test_a_coordinator_without_silos_here_verifies_its_mirror(home: Home) -> None:
    run(home, privacy={"noise_multiplier": 30.0})
    shutil.rmtree(home.root / "silos")
    document = verification(home, None)
    assert document["ok"] and document["ledgers"] == []
    assert document["mirror"]["silos"] == ["silo-1", "silo-2", "silo-3"]
    assert document["mirror"]["receipts"] > 0
    with sqlite3.connect(home.mirror) as raw:
        raw.execute("UPDATE receipts SET job = 'another' WHERE seq = 2")
    raw.close()
    with pytest.raises(LedgerTampered):
        verification(home, None)


def test_where_no_ledger_is_it_says_where_one_is(home: Home, tmp_path: Path) -> None:
    shutil.rmtree(home.root / "silos")
    for ask in (
        lambda: opened(home, None).__enter__(),
        lambda: forecast_lines(home, None, None),
        lambda: verification(home, None, tmp_path),  # heads from elsewhere are of no use here
    ):
        with pytest.raises(Missing, match="no ledger under this home; run it at each silo"):
            ask()
    shutil.rmtree(home.coordinator)
    with pytest.raises(Missing, match="no ledger under this home"):
        verification(home, None)
    with pytest.raises(NotFound, match="silo 'silo-1' is not here"):
        verification(home, "silo-1")


def test_with_ledgers_here_they_are_what_is_verified(home: Home) -> None:
    assert "mirror" not in verification(home, None)
    with opened(home, "silo-2") as ledgers:
        assert [line["silo"] for line in account_lines("silo-2", ledgers["silo-2"])] == ["silo-2"]
        assert spend_lines("silo-2", ledgers["silo-2"]) == []


def test_an_edit_of_the_settings_opens_and_changes_nothing(home: Home) -> None:
    config = home.silo("silo-1").config
    text = config.read_text()
    config.write_text(re.sub(r"filter: \w+, epsilon: [\d.]+", "filter: gdp, epsilon: 4.0", text))
    assert "filter: gdp, epsilon: 4.0" in config.read_text()
    with opened(home, "silo-1") as ledgers:
        (line,) = account_lines("silo-1", ledgers["silo-1"])
    assert (line["filter"], line["capacity"]["epsilon"]) == ("renyi", 10.0)
