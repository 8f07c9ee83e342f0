"""What is typed at a silo's own host, and at a coordinator whose exchange is down."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from federation.home import Home
from federation.init import init_example
from infra.cli.app import app
from infra.enrolment import at_silo
from infra.process import free_port

SCHEMA: dict[str, Any] = {
    "name": "heart",
    "features": {"x": {"type": "number", "bounds": [-1, 1]}},
    "label": {"column": "sick", "classes": ["no", "yes"]},
    "split": {"by": "column", "column": "part", "train": "train", "test": "test"},
}
ROWS = [f"0.5,{'no' if i % 2 else 'yes'},{'train' if i % 3 else 'test'}" for i in range(60)]
JOB: dict[str, Any] = {
    "kind": "train",
    "name": "apart",
    "dataset": "heart",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 1, "local_steps": 1, "batch_size": 8, "learning_rate": 0.5},
    "privacy": {"noise_multiplier": 8.0},
}


def text(*words: object) -> str:
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


def tacit(*words: object, code: int = 0) -> dict[str, Any]:
    """Run a command in this process, expect an exit code, and return its one document."""
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == code, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document["error"] if code else document


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's home, one of a silo that asks to join, and one of a silo without rows."""
    root = tmp_path_factory.mktemp("hosts")
    (root / "heart.yaml").write_text(yaml.safe_dump(SCHEMA, sort_keys=False))
    (root / "job.yaml").write_text(yaml.safe_dump(JOB))
    (root / "north.csv").write_text("\n".join(["x,sick,part", *ROWS]))
    where = ("--dataset", root / "heart.yaml", "--exchange", f"127.0.0.1:{free_port()}")
    tacit("init", root / "fed", *where)
    given = ("--federation", root / "fed" / "federation.yaml", "--home")
    rows = ("--source", f"heart={root / 'north.csv'}", "--size", "heart=50/20")
    tacit("silo", "enrol", "north", *rows, *given, root / "north")
    tacit("silo", "enrol", "vendor", "--source", "heart=none", *given, root / "vendor")
    return root


@pytest.fixture
def hosts(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "hosts")
    return tmp_path / "hosts"


def request(hosts: Path, name: str) -> Path:
    return hosts / name / "silos" / name / f"{name}.request.json"


def join(hosts: Path) -> None:
    """Admit north, which signs and takes in its last bundle."""
    fed, own = ("--home", hosts / "fed"), ("--home", hosts / "north")
    mark = tacit("silo", "renew", "north", *own)["fingerprint"]
    tacit("silo", "admit", request(hosts, "north"), "--fingerprint", mark, *fed)
    bundle = hosts / "fed" / "coordinator" / "bundles" / "north.bundle.json"
    seen = tacit("silo", "gather", bundle, *own)["fingerprint"]
    signed = tacit("silo", "countersign", "north", "--fingerprint", seen, *own)
    tacit("silo", "gather", signed["signature"], *fed)
    tacit("silo", "gather", bundle, *own)


# Checking rows before anybody knows the silo


def test_rows_are_checked_against_the_sizes_of_the_silos_own_request(hosts: Path) -> None:
    own = ("north", "--home", hosts / "north")
    found = tacit("source", "check", *own)["datasets"]["heart"]
    assert found["sizes"]["train"] == {"declared": 50, "true": 40}
    assert "50 declared, 40 true" in found["warnings"][0]
    tacit("silo", "renew", "north", "--size", "heart=40/20", "--home", hosts / "north")
    assert "every row keeps every rule" in text("source", "check", *own)


def test_a_request_that_is_not_admitted_yet_is_what_a_members_rows_are_checked_by(
    hosts: Path,
) -> None:
    join(hosts)
    own = ("north", "--home", hosts / "north")
    tacit("silo", "renew", "north", "--size", "heart=45/20", "--home", hosts / "north")
    found = tacit("source", "check", *own)["datasets"]["heart"]
    assert found["sizes"]["train"] == {"declared": 45, "true": 40} and not found["warnings"]


def test_without_a_request_rows_are_checked_against_no_sizes(hosts: Path) -> None:
    request(hosts, "north").unlink()
    own = ("north", "--home", hosts / "north")
    document = tacit("source", "check", *own)
    assert document["ok"]
    assert document["datasets"]["heart"]["sizes"]["test"] == {"declared": None, "true": 20}
    assert "train: 40 (none declared)" in text("source", "check", *own)


@pytest.mark.parametrize("asked", [True, False])
def test_a_silo_without_rows_has_none_to_check(hosts: Path, asked: bool) -> None:
    if not asked:
        request(hosts, "vendor").unlink()
    said = text("source", "check", "vendor", "--home", hosts / "vendor")
    assert "This silo has no rows" in said


def test_a_silo_that_never_asked_is_checked_by_federation_yaml(tmp_path: Path) -> None:
    home = init_example(tmp_path / "fed", "breast-cancer", silos=1)
    found = tacit("source", "check", "silo-1", "--home", home.root)["datasets"]["breast-cancer"]
    declared = home.federation().silos["silo-1"].sizes["breast-cancer"].train
    assert found["sizes"]["train"]["declared"] == declared


# Declaring other sizes


@pytest.mark.parametrize(
    ("name", "size", "field", "said"),
    [
        ("vendor", "heart=40/20", "size", "heart=40/20 declares rows, and its source is none"),
        ("north", "heart=0/0", "size", "heart=0/0 declares no rows, and its source has some"),
        ("north", "heart=40/0", "document", "all sizes are at least 1, or all are 0"),
        ("north", "heart=40", "size", "not of the form TRAIN/TEST"),
        ("north", "lung=1/1", "dataset", "no data set 'lung'"),
    ],
)
def test_sizes_that_do_not_fit_a_silos_source_are_not_asked_for(
    hosts: Path, name: str, size: str, field: str, said: str
) -> None:
    before = request(hosts, name).read_bytes()
    error = tacit("silo", "renew", name, "--size", size, "--home", hosts / name, code=2)
    assert said in error["message"] and error["field"] == field
    assert request(hosts, name).read_bytes() == before


def test_sizes_that_fit_are_asked_for(hosts: Path) -> None:
    for name, size in (("vendor", "0/0"), ("north", "45/15")):
        tacit("silo", "renew", name, "--size", f"heart={size}", "--home", hosts / name)
        sizes = at_silo.asked_sizes(Home(hosts / name), name)
        assert sizes is not None and f"{sizes['heart'].train}/{sizes['heart'].test}" == size


# What is carried where


def test_only_who_is_no_member_yet_reads_out_a_fingerprint(hosts: Path) -> None:
    own = ("--home", hosts / "north")
    said = text("silo", "renew", "north", *own)
    assert "north asks to join heart" in said
    assert "admit north.request.json --fingerprint FINGERPRINT" in said
    join(hosts)
    said = text("silo", "renew", "north", *own)
    assert "north asks to stay in heart" in said and "--fingerprint" not in said
    command = tacit("silo", "renew", "north", *own)["next"].rpartition("tacit ")[2].split()
    assert command == ["silo", "admit", "north.request.json"]
    tacit(*command[:2], request(hosts, "north"), "--home", hosts / "fed")


# Who can be asked from where


@pytest.mark.parametrize("words", [("quote", "job.yaml"), ("status",)])
def test_what_only_the_coordinator_can_ask_says_so_at_a_silo(
    hosts: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    join(hosts)
    monkeypatch.chdir(hosts)
    error = tacit(*words, "--home", hosts / "north", code=2)
    assert error["message"].endswith("the coordinator does not live here; run this in its home")
    assert (error["code"], error["field"]) == ("FED-002", "home")


def test_a_quote_where_the_exchange_is_down_says_what_starts_it(
    hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(hosts)
    monkeypatch.chdir(hosts)
    error = tacit("quote", "job.yaml", "--home", hosts / "fed", code=5)
    assert "is it up? `tacit up` at the coordinator starts it" in error["message"]
    assert error["code"] == "SECURE-010" and "no exchange at tls://127.0.0.1" in error["message"]
