"""Whatever is wrong, the command says what, ends with the code of its kind, and charges nothing."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "bad",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 3, "local_steps": 2, "batch_size": 32, "learning_rate": 0.3},
    "privacy": {"unit": "record", "epsilon": 2.0},
}
PARTS = {"code", "message", "field", "value", "allowed"}


def heads(home: Path) -> list[str]:
    """Count and hash of every ledger: unchanged means that nothing was charged."""
    return [path.read_text() for path in sorted(home.glob("silos/*/ledger.head"))]


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory, tacit_json: Any) -> Path:
    directory = tmp_path_factory.mktemp("bad") / "fed"
    tacit_json("init", directory, "--example", "breast-cancer", "--silos", "2")
    return directory


@pytest.fixture
def fed(founded: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    shutil.copytree(founded, tmp_path / "fed")
    return tmp_path / "fed"


@pytest.fixture
def refused(fed: Path, tacit_here: Any) -> Callable[..., dict[str, Any]]:
    """Run a spec, expect this exit code and one error document, and see that nothing changed."""

    def ask(code: int, **changes: Any) -> dict[str, Any]:
        spec = fed.parent / "job.yaml"
        spec.write_text(yaml.safe_dump(SPEC | changes))
        before = heads(fed)
        error: dict[str, Any] = tacit_here("run", spec, "--home", fed, code=code)
        assert set(error) == {"error"} and set(error["error"]) == PARTS
        assert error["error"]["code"] and error["error"]["message"]
        assert heads(fed) == before
        return error["error"]

    return ask


@pytest.mark.parametrize(
    ("changes", "field", "hint"),
    [
        ({"privacy": {"epsilonn": 1.0}}, "privacy.epsilonn", "'epsilon'"),
        ({"strategy": SPEC["strategy"] | {"round": 3}}, "strategy.round", "'rounds'"),
        ({"modell": {"name": "logistic"}}, "modell", "'model'"),
        ({"privacy": {"epsilon": 0}}, "privacy.epsilon", "greater than 0"),
        ({"privacy": {"epsilon": "much"}}, "privacy.epsilon", "number"),
        ({"privacy": {"epsilon": 1.0, "delta": -1e-5}}, "privacy.delta", "greater than 0"),
        ({"privacy": {"epsilon": 1.0, "delta": float("nan")}}, "privacy.delta", "finite"),
        ({"privacy": {"epsilon": 1.0, "delta": float("inf")}}, "privacy.delta", "finite"),
        ({"privacy": {"epsilon": 1.0, "delta": 1.0}}, "privacy.delta", "less than 1"),
        ({"privacy": {"epsilon": 1.0, "delta": 2e-5}}, "privacy.delta", "1e-05"),
        ({"privacy": {"epsilon": 1.0, "unit": "subject"}}, "privacy.unit", "subject"),
    ],
)
def test_a_spec(
    refused: Callable[..., dict[str, Any]], changes: dict[str, Any], field: str, hint: str
) -> None:
    error = refused(2, **changes)
    assert error["field"] == field and hint in error["message"]
    assert error["allowed"] is not None


def test_a_spec_that_is_no_document(fed: Path, tacit_here: Any, tmp_path: Path) -> None:
    for name, text in (
        ("list.yaml", "- kind: train\n"),
        ("broken.yaml", "kind: [train\n"),
        ("empty.yaml", ""),
        ("twice.yaml", "kind: train\nkind: train\n"),
    ):
        (tmp_path / name).write_text(text)
        error = tacit_here("quote", tmp_path / name, "--home", fed, code=2)["error"]
        assert name in error["message"], error
    error = tacit_here("quote", tmp_path / "none.yaml", "--home", fed, code=2)["error"]
    assert "no such file" in error["message"]


def test_a_delta_as_large_as_one_over_the_units(
    fed: Path, refused: Callable[..., dict[str, Any]], tacit_here: Any, tmp_path: Path
) -> None:
    # At the door, before an account with such a delta exists.
    arguments = ("--example", "breast-cancer", "--silos", "2")
    error = tacit_here("init", tmp_path / "new", *arguments, "--delta", "0.01", code=2)["error"]
    assert error["field"] == "delta" and error["allowed"].startswith("<")
    assert not (tmp_path / "new").exists()
    # And again for a silo that grew, by everybody's signature, beyond what its delta is for.
    path = fed / "federation.yaml"
    facts = yaml.safe_load(path.read_text())
    facts["silos"]["silo-2"]["sizes"]["breast-cancer"]["train"] = 200_000
    path.write_text(yaml.safe_dump(facts))
    for silo in ("silo-1", "silo-2"):
        tacit_here("silo", "countersign", silo, "--home", fed)
    error = refused(2)
    assert error["field"] == "privacy.delta" and "silo-2" in error["message"]


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "inf"])
def test_an_account_that_makes_no_sense(tacit_here: Any, tmp_path: Path, epsilon: str) -> None:
    arguments = ("--example", "breast-cancer", "--silos", "2", f"--epsilon={epsilon}")
    error = tacit_here("init", tmp_path / "new", *arguments, code=2)["error"]
    assert error["field"] == "epsilon" and not (tmp_path / "new").exists()


SCHEMA: dict[str, Any] = {
    "name": "small",
    "features": {"age": {"type": "number", "bounds": [0, 100]}},
    "label": {"column": "sick", "classes": ["no", "yes"]},
    "split": {"by": "column", "column": "part", "train": "train", "test": "test"},
}


@pytest.mark.parametrize(
    ("features", "field", "hint"),
    [
        (
            {"age": {"type": "number", "bounds": [100, 0]}},
            "features.age",
            "are reversed",
        ),
        ({"age": {"type": "number", "bounds": [0, float("inf")]}}, "features.age.bounds.1", "fin"),
        ({"age": {"type": "number", "bounds": None}}, "features.age.bounds", "declared"),
        ({"aeg": {"type": "number", "bounds": [0, 100]}}, "column", "'age'"),
    ],
)
def test_a_schema(
    tacit_here: Any, tmp_path: Path, features: dict[str, Any], field: str, hint: str
) -> None:
    (tmp_path / "rows.csv").write_text("age,sick,part\n" + "30,yes,train\n40,no,test\n" * 5)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SCHEMA | {"features": features}))
    arguments = ("--dataset", tmp_path / "small.yaml", "--silo", f"a={tmp_path / 'rows.csv'}")
    error = tacit_here("init", tmp_path / "new", *arguments, "--size=a=5/5", code=2)["error"]
    assert error["field"] == field and hint in error["message"], error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("relation", ["add_remove", "sideways"])
def test_relations_that_do_not_go_together(tacit_here: Any, tmp_path: Path, relation: str) -> None:
    event = tmp_path / "e.json"
    local = {"event": "randomized_response", "epsilon": 1.0, "categories": 2}
    event.write_text(json.dumps({"event": "all", "of": [{"event": "gaussian", "sigma": 2}, local]}))
    error = tacit_here("price", event, "--delta", "1e-5", "--relation", relation, code=2)["error"]
    assert "replace" in error["message"]


def test_a_column_that_went_away_since(fed: Path, refused: Callable[..., dict[str, Any]]) -> None:
    rows = fed / "silos" / "silo-2" / "rows.csv"
    lines = [line.partition(",") for line in rows.read_text().splitlines()]
    rows.write_text("\n".join(rest for _, _, rest in lines) + "\n")
    error = refused(2)
    assert error["field"] == "column" and error["value"] == lines[0][0]


def test_a_source_that_went_away_since(fed: Path, refused: Callable[..., dict[str, Any]]) -> None:
    (fed / "silos" / "silo-2" / "rows.csv").unlink()
    error = refused(5)
    assert error["field"] == "path" and error["value"].endswith("rows.csv")


def test_a_model_with_batch_norm(
    refused: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "normed-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: normed\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tacit.models]\nnormed = normed:build\n")
    (tmp_path / "site" / "normed.py").write_text(
        "from math import prod\n"
        "from torch import nn\n"
        "def build(shape, classes):\n"
        "    n = prod(shape)\n"
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(n), nn.Linear(n, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    error = refused(2, model={"name": "normed"})
    assert error["code"] == "PRIVACY-004" and "1 is a BatchNorm1d" in error["message"]


def test_a_schema_that_nobody_signed(fed: Path, refused: Callable[..., dict[str, Any]]) -> None:
    path = fed / "federation.yaml"
    facts = yaml.safe_load(path.read_text())
    next(iter(facts["datasets"]["breast-cancer"]["features"].values()))["bounds"][1] += 1
    path.write_text(yaml.safe_dump(facts))
    error = refused(2)
    assert error["field"] == "datasets.breast-cancer" and "countersign" in error["message"]


def test_a_ledger_that_was_changed(fed: Path, refused: Callable[..., dict[str, Any]]) -> None:
    with sqlite3.connect(fed / "silos" / "silo-2" / "ledger.db") as raw:
        for (name,) in raw.execute(
            "select name from sqlite_master where type='trigger'"
        ).fetchall():
            raw.execute(f'drop trigger "{name}"')
        raw.execute("update entries set body = replace(body, '\"epsilon\":10', '\"epsilon\":99')")
    raw.close()
    error = refused(4)
    assert error["code"] == "LEDGER-005"
    assert "silo silo-2: " in error["message"] and "entry 1" in error["message"]


def test_a_ledger_that_is_not_there(fed: Path, refused: Callable[..., dict[str, Any]]) -> None:
    (fed / "silos" / "silo-1" / "ledger.db").unlink()
    assert refused(5)["code"] == "LEDGER-006"


def test_a_postgresql_that_does_not_answer(
    fed: Path, refused: Callable[..., dict[str, Any]]
) -> None:
    path = fed / "silos" / "silo-1" / "silo.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["ledger"] = "postgresql+psycopg://tacit:hush@127.0.0.1:1/tacit"
    path.write_text(yaml.safe_dump(settings))
    error = refused(5)
    assert error["code"] == "LEDGER-006" and "hush" not in json.dumps(error)


def test_paths_that_cannot_be(tacit_here: Any, fed: Path, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    for command in (
        ("init", taken, "--example", "breast-cancer"),
        ("ledger", "export", "silo-1", tmp_path / "no" / "e.jsonl", "--home", fed),
        ("ledger", "anchor", taken, "--home", fed),
    ):
        error = tacit_here(*command, code=2)["error"]
        assert error["field"] == "file" and str(tmp_path) in error["value"]


def test_usage_errors_have_the_shape_of_all_others(tacit: Any, tmp_path: Path) -> None:
    for command, field in (
        (("init", tmp_path / "f", "--example", "digits", "--silos", "0"), "silos"),
        (("price", tmp_path / "e.json", "--delta", "small"), "delta"),
        (("quote",), "spec"),
        (("quote", "--hoem", tmp_path), "hoem"),
        (("quotes",), None),
    ):
        done = tacit(*command, "--json")
        error = json.loads(done.stdout)["error"]
        assert done.returncode == 2
        assert set(error) == PARTS and error["code"] == "USAGE" and error["field"] == field


def test_numbers_that_are_none_are_still_json(tacit_here: Any, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text('{"event": "gaussian", "sigma": 1.0}')
    error = tacit_here("price", tmp_path / "e.json", "--delta", "nan", code=2)["error"]
    assert error["field"] == "delta" and error["value"] == "nan"


def test_a_change_of_a_budget(fed: Path, tacit_here: Any) -> None:
    account = "silo-1/breast-cancer/record"
    before = heads(fed)
    for name, epsilon, reason, field in (
        (account, "nan", "so", "epsilon"),
        (account, "0", "so", "epsilon"),
        (account, "12", " ", "reason"),
        ("silo-1", "12", "so", "account"),
        ("silo-9/breast-cancer/record", "12", "so", "silo"),
        ("silo-1/other/record", "12", "so", "account"),
    ):
        arguments = ("--epsilon", epsilon, "--reason", reason, "--home", fed)
        error = tacit_here("budget", "set", name, *arguments, code=2)["error"]
        assert error["field"] == field
    assert heads(fed) == before


def test_jobs_that_are_not_there_or_are_over(fed: Path, tacit_here: Any) -> None:
    assert tacit_here("job", "list", "--home", fed) == {"jobs": [], "approvals": []}
    for command in ("show", "resume", "cancel"):
        for name in ("nothing", "../../silos"):
            error = tacit_here("job", command, name, "--home", fed, code=2)["error"]
            assert error["field"] == "job" and error["value"] == name


def test_a_ledger_that_is_no_database(fed: Path, refused: Callable[..., dict[str, Any]]) -> None:
    (fed / "silos" / "silo-1" / "ledger.db").write_bytes(b"no database" * 400)
    assert refused(4)["code"] == "LEDGER-005"
