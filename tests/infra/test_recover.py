"""A silo's ledger comes back from a backup: found, replayed from an export, or closed."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from privacy.ledger import Head
from privacy.ledger.heads import HeadFile

SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "lost",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 2, "local_steps": 1, "batch_size": 32, "learning_rate": 0.3},
    "privacy": {"epsilon": 1.0},
}


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory, tacit_json: Any) -> Path:
    """A federation whose silo-1 ran a job and was then given its ledger of before."""
    root = tmp_path_factory.mktemp("restored")
    home = root / "fed"
    tacit_json("init", home, "--example", "breast-cancer", "--silos", "2")
    (root / "job.yaml").write_text(yaml.safe_dump(SPEC))
    ledger = home / "silos" / "silo-1" / "ledger.db"
    with closing(sqlite3.connect(ledger)) as source:
        source.execute("VACUUM INTO ?", (str(root / "backup.db"),))
    with closing(sqlite3.connect(home / "coordinator" / "mirror.db")) as source:
        source.execute("VACUUM INTO ?", (str(root / "empty-mirror.db"),))
    quoted = tacit_json("quote", root / "job.yaml", "--home", home)["silos"]["silo-1"]
    (root / "charge").write_text(repr(quoted["charge"]))
    tacit_json("run", root / "job.yaml", "--home", home)
    tacit_json("ledger", "export", "silo-1", root / "export.jsonl", "--home", home)
    for leftover in ("-wal", "-shm"):
        Path(f"{ledger}{leftover}").unlink(missing_ok=True)
    shutil.copy(root / "backup.db", ledger)
    return root


def accounts(home: Path, tacit_json: Any) -> dict[str, Any]:
    lines = tacit_json("budget", "show", "--home", home)["accounts"]
    return {line["silo"]: line for line in lines}


def restored_charge(root: Path) -> float:
    """The share of the account that the job was quoted, all of which it ran."""
    return float((root / "charge").read_text())


def test_it_is_found_and_an_export_brings_it_back(
    restored: Path, tmp_path: Path, tacit_json: Any
) -> None:
    home = shutil.copytree(restored / "fed", tmp_path / "fed")
    found = tacit_json("ledger", "verify", "--home", home, code=4)
    assert found["first_bad"]["silo"] == "silo-1"
    done = tacit_json(
        "ledger", "recover", "silo-1", "--from", restored / "export.jsonl", "--home", home
    )
    assert done["replayed"] > 5 and done["lost"] == [] and done["breached"] == []
    assert tacit_json("ledger", "verify", "--home", home)["ok"]
    line = accounts(home, tacit_json)["silo-1"]
    assert line["status"] == "healthy" and line["used"] == pytest.approx(restored_charge(restored))


def test_without_an_export_the_account_is_closed(
    restored: Path, tmp_path: Path, tacit_json: Any
) -> None:
    home = shutil.copytree(restored / "fed", tmp_path / "fed")
    done = tacit_json("ledger", "recover", "silo-1", "--home", home)
    assert done["lost"] and done["breached"] == ["silo-1/breast-cancer/record"]
    assert tacit_json("ledger", "verify", "--home", home)["ok"]
    line = accounts(home, tacit_json)["silo-1"]
    assert line["status"] == "breached" and line["used"] == pytest.approx(restored_charge(restored))
    error = tacit_json("run", restored / "job.yaml", "--home", home, code=3)["error"]
    assert "breached" in error["message"]


def test_what_is_no_export_is_refused(restored: Path, tmp_path: Path, tacit_json: Any) -> None:
    home = restored / "fed"
    (tmp_path / "notes.jsonl").write_text("not an entry\n")
    error = tacit_json(
        "ledger", "recover", "silo-1", "--from", tmp_path / "notes.jsonl", "--home", home, code=2
    )["error"]
    assert error["value"] == 1 and "line 1" in error["message"]


def test_an_anchor_kept_elsewhere_vouches_and_finds_a_rewritten_ledger(
    restored: Path, tmp_path: Path, tacit_json: Any
) -> None:
    home = shutil.copytree(restored / "fed", tmp_path / "fed")
    tacit_json("ledger", "recover", "silo-1", "--from", restored / "export.jsonl", "--home", home)
    tacit_json("ledger", "anchor", tmp_path / "elsewhere", "--home", home)
    (home / "coordinator" / "mirror.db").unlink()
    shutil.copy(restored / "empty-mirror.db", home / "coordinator" / "mirror.db")
    verify = ("ledger", "verify", "--home", home)
    assert {line["vouched_to"] for line in tacit_json(*verify)["ledgers"]} == {0}
    found = tacit_json(*verify, "--against", tmp_path / "elsewhere")
    for line in found["ledgers"]:
        assert line["vouched_to"] == line["entries"] and line["vouched_by"].endswith(".json")

    for leftover in home.glob("silos/silo-1/ledger.db-*"):
        leftover.unlink()
    shutil.copy(restored / "backup.db", home / "silos" / "silo-1" / "ledger.db")
    head = home / "silos" / "silo-1" / "ledger.head"
    head.unlink()
    assert "head file" in tacit_json(*verify, code=4)["first_bad"]["reason"]
    with closing(sqlite3.connect(restored / "backup.db")) as source:
        query = "SELECT json_extract(body, '$.ledger'), seq, hash FROM entries ORDER BY seq DESC"
        last = source.execute(query).fetchone()
    HeadFile(head).write(last[0], Head(*last[1:]))
    assert tacit_json(*verify)["ok"]  # alone, with a head to match, it looks whole
    found = tacit_json(*verify, "--against", tmp_path / "elsewhere", code=4)
    assert found["first_bad"]["silo"] == "silo-1"
    tacit_json(*verify, "--against", tmp_path / "nowhere", code=2)
