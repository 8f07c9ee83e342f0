"""The command as a person or a script meets it: documents, exit codes, errors."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "contract",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 3, "local_steps": 2, "batch_size": 32, "learning_rate": 0.3},
    "privacy": {"unit": "record", "epsilon": 2.0},
    "seed": 1,
}


def write(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(SPEC | changes))
    return path


def heads(home: Path) -> list[str]:
    """Count and hash of every ledger: unchanged means that nothing was charged."""
    return [path.read_text() for path in sorted(home.glob("silos/*/ledger.head"))]


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory, tacit_json: Any) -> Path:
    directory = tmp_path_factory.mktemp("cli") / "fed"
    made = tacit_json("init", directory, "--example", "breast-cancer", "--silos", "2")
    assert made["silos"] == ["silo-1", "silo-2"]
    return directory


@pytest.fixture(scope="module")
def ran(fed: Path, tacit_json: Any) -> dict[str, Any]:
    result: dict[str, Any] = tacit_json("run", write(fed / "job.yaml"), "--home", fed)
    return result


def test_quote_prices_without_charging(fed: Path, tacit_json: Any) -> None:
    document = tacit_json("quote", write(fed / "q.yaml"), "--home", fed)
    assert document["admissible"] is True and set(document["silos"]) == {"silo-1", "silo-2"}
    for line in document["silos"].values():
        assert 1.99 < line["epsilon"] <= 2.0 and line["delta"] == 1e-5
        assert line["unit"] == "record" and 0 < line["charge"] < 1 and line["events"]
        assert 0 < line["remaining_epsilon"] < 10
    assert document["fits"]["epsilon"] > 2


def test_run_gives_the_contracts_document(ran: dict[str, Any]) -> None:
    assert ran["status"] == "completed" and ran["kind"] == "train"
    assert set(ran["silos"]) == {"silo-1", "silo-2"}
    assert all(1.99 < line["epsilon"] <= 2.0 for line in ran["silos"].values())
    assert {"accuracy", "auc", "log_loss", "silos"} <= set(ran["metrics"])
    for name in ("report", "model"):
        assert Path(ran[name]).is_absolute() and Path(ran[name]).exists()
    assert 0 < ran["seconds"]["rounds"] < ran["seconds"]["total"]


def test_budget_history_forecast_and_set(fed: Path, ran: dict[str, Any], tacit_json: Any) -> None:
    shown = tacit_json("budget", "show", "--home", fed)["accounts"]
    assert [a["silo"] for a in shown] == ["silo-1", "silo-2"]
    for account in shown:
        assert account["capacity"] == {"epsilon": 10.0, "delta": 1e-5}
        assert account["spent"]["epsilon"] > 0 and account["reserved"]["epsilon"] == 0
        assert 0 < account["remaining"]["epsilon"] < 10 and 0 < account["used"] < 1
        assert account["status"] == "healthy"
    history = tacit_json("budget", "history", "--home", fed)
    assert ran["job_id"] in str(history)
    forecast = tacit_json("budget", "forecast", fed / "job.yaml", "--home", fed)
    assert all(line["jobs_that_fit"] > 0 for line in forecast["accounts"])


def test_ledger_verify_export_anchor(
    fed: Path, ran: dict[str, Any], tacit_json: Any, tmp_path: Path
) -> None:
    document = tacit_json("ledger", "verify", "--home", fed)
    assert document["ok"] is True and document["first_bad"] is None and document["entries"] > 0
    for line in document["ledgers"]:
        assert line["ok"] and line["entries"] > 0 and Path(line["path"]).exists()
        assert 0 < line["vouched_to"] <= line["entries"]
    out = tacit_json("ledger", "export", "silo-1", tmp_path / "e.jsonl", "--home", fed)
    assert len((tmp_path / "e.jsonl").read_text().splitlines()) == out["entries"]
    anchored = tacit_json("ledger", "anchor", tmp_path / "anchors", "--home", fed)
    assert len(anchored["checkpoints"]) == 2


def test_a_job_can_be_listed_and_shown(fed: Path, ran: dict[str, Any], tacit_json: Any) -> None:
    jobs = tacit_json("job", "list", "--home", fed)["jobs"]
    assert (ran["job_id"], "completed") in [(j["job_id"], j["status"]) for j in jobs]
    shown = tacit_json("job", "show", ran["job_id"], "--home", fed)
    assert shown["spec"]["name"] == "contract" and shown["metrics"] == ran["metrics"]
    again = tacit_json("job", "resume", ran["job_id"], "--home", fed)
    assert again["silos"] == ran["silos"]  # nothing left to do, nothing charged


def test_predict(fed: Path, ran: dict[str, Any], tacit_json: Any, tmp_path: Path) -> None:
    rows = next((fed / "silos" / "silo-2").rglob("rows.*"))
    target = tmp_path / "p.csv"
    document = tacit_json("model", "predict", ran["model"], rows, "--out", target)
    assert document["rows"] == len(target.read_text().splitlines()) - 1


@pytest.mark.parametrize(
    ("changes", "field", "hint"),
    [
        ({"privacy": {"epsilonn": 1.0}}, "privacy.epsilonn", "epsilon"),
        ({"privacy": {"epsilon": -1}}, "privacy.epsilon", "greater than 0"),
        ({"privacy": {"epsilon": float("nan")}}, "privacy.epsilon", "finite"),
        ({"privacy": {"epsilon": float("inf")}}, "privacy.epsilon", "finite"),
        ({"privacy": {"epsilon": 1.0, "delta": 1e-4}}, "privacy.delta", "1e-05"),
        ({"privacy": {"epsilon": 1.0, "delta": 0}}, "privacy.delta", "greater than 0"),
        ({"privacy": {}}, "privacy", "exactly one of"),
        ({"kind": "trian"}, "kind", "train"),
        ({"dataset": "no"}, "dataset", "no"),
        ({"model": {"name": "cnn"}}, "model.name", "images"),
        ({"strategy": {"rounds": 0, "batch_size": 1, "learning_rate": 1}}, "strategy.rounds", "1"),
    ],
)
def test_bad_input_exits_2_and_names_the_field(
    fed: Path, tacit_here: Any, tmp_path: Path, changes: dict[str, Any], field: str, hint: str
) -> None:
    before = heads(fed)
    spec = write(tmp_path / "bad.yaml", **changes)
    error = tacit_here("run", spec, "--home", fed, code=2)["error"]
    assert error["field"] == field and hint in error["message"] and error["code"]
    assert heads(fed) == before


def test_over_budget_exits_3_and_says_what_would_fit(
    fed: Path, tacit_json: Any, tmp_path: Path
) -> None:
    spec = write(tmp_path / "big.yaml", privacy={"epsilon": 60.0})
    assert tacit_json("quote", spec, "--home", fed)["admissible"] is False
    before = [a["used"] for a in tacit_json("budget", "show", "--home", fed)["accounts"]]
    error = tacit_json("run", spec, "--home", fed, code=3)["error"]
    assert error["field"] == "silo-1/breast-cancer/record"
    assert 0 < error["allowed"]["epsilon"] < 10 and "would fit" in error["message"]
    assert "asks for" in error["message"] and "is left" in error["message"]
    # What is said to fit does.
    write(spec, privacy={"epsilon": error["allowed"]["epsilon"]})
    assert tacit_json("quote", spec, "--home", fed)["admissible"] is True
    assert [a["used"] for a in tacit_json("budget", "show", "--home", fed)["accounts"]] == before


def test_a_tampered_ledger_exits_4_and_a_missing_one_5(
    tmp_path: Path, tacit_json: Any, fed: Path
) -> None:
    tacit_json("init", tmp_path / "f", "--example", "breast-cancer", "--silos", "2")
    database = tmp_path / "f" / "silos" / "silo-1" / "ledger.db"
    with sqlite3.connect(database) as raw:
        (trigger,) = raw.execute(
            "select name from sqlite_master where type='trigger' and tbl_name='entries' limit 1"
        ).fetchone()
        raw.execute(f'drop trigger "{trigger}"')
    raw.close()
    document = tacit_json("ledger", "verify", "--home", tmp_path / "f", code=4)
    assert document["ok"] is False and document["first_bad"]["silo"] == "silo-1"
    database.unlink()
    error = tacit_json("budget", "show", "--home", tmp_path / "f", code=5)["error"]
    assert error["code"] == "LEDGER-006"


def test_a_home_that_is_none_says_how_to_make_one(tmp_path: Path, tacit_json: Any) -> None:
    error = tacit_json("budget", "show", "--home", tmp_path / "nothing", code=2)["error"]
    assert "tacit init" in error["message"]


def test_price_by_every_accountant(tmp_path: Path, tacit_json: Any) -> None:
    event = tmp_path / "e.json"
    event.write_text('{"event": "gaussian", "sigma": 2.0}')
    prices = tacit_json("price", event, "--delta", "1e-5")
    # Balle and Wang's closed form gives 1.9931 for one Gaussian of sigma 2.
    assert prices["gdp"] == pytest.approx(1.9931, abs=2e-3)
    assert prices["gdp"] <= prices["pld"] <= prices["rdp"]
    event.write_text('{"event": "gausian", "sigma": 2.0}')
    assert "gaussian" in str(tacit_json("price", event, "--delta", "1e-5", code=2)["error"])


def test_people_get_text_without_noise(fed: Path, ran: dict[str, Any], tacit: Any) -> None:
    for command in (("budget", "show"), ("ledger", "verify"), ("job", "list")):
        done = tacit(*command, "--home", fed)
        assert done.returncode == 0 and done.stderr == "" and "silo-1" in done.stdout + "silo-1"
        assert "Traceback" not in done.stdout and "Warning" not in done.stdout
