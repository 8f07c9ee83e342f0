"""What somebody meets first: drafts, quotes, empty homes, and what is said of them."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from federation.init import init_example
from infra.cli.app import app

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
JOB: dict[str, Any] = {
    "kind": "train",
    "name": "first",
    "dataset": "breast-cancer",
    "model": {"name": "logistic"},
    "strategy": {"rounds": 2, "local_steps": 1, "batch_size": 32, "learning_rate": 0.3},
    "privacy": {"epsilon": 1.0},
}
SCHEMA = {
    "name": "visits",
    "features": {"a": {"type": "number", "bounds": [0, 1]}},
    "label": {"column": "y", "classes": ["0", "1"]},
    "subject": {"column": "who", "max_rows": 2},
    "split": {"by": "hash", "salt": "s", "test_fraction": 0.25},
}
Typed = Callable[..., str]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    """A command as a person types it; what it prints, blanks and line breaks as one blank."""
    for name in [name for name in os.environ if name.startswith("TACIT_")]:
        monkeypatch.delenv(name)

    def run(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*map(str, words)])
        assert done.exit_code == code, f"exit {done.exit_code}: {done.output}"
        return " ".join(done.output.split())

    return run


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return init_example(tmp_path_factory.mktemp("first") / "fed", "breast-cancer", silos=2).root


def job(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(JOB | changes))
    return path


# Drafts


def test_a_draft_is_called_after_its_own_file_and_overwrites_none(
    tmp_path: Path, typed: Typed
) -> None:
    (tmp_path / "north.csv").write_text("age,sick\n30,0\n")
    draft = ("dataset", "draft", tmp_path / "north.csv")
    out = tmp_path / "heart.yaml"
    said = typed(*draft, "--out", out)
    assert "Check its name" in said and "move the label out of the features" in said
    drafted = yaml.safe_load(out.read_text())
    assert drafted["name"] == drafted["split"]["salt"] == "heart"
    out.write_text("mine")
    error = json.loads(typed(*draft, "--out", out, "--json", code=2))["error"]
    assert error["field"] == "out" and "already there" in error["message"] and error["allowed"]
    assert out.read_text() == "mine"
    assert "name: north" in typed(*draft)


# The README


def test_four_csv_files_get_from_a_draft_to_a_quote_as_the_readme_says(
    tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = README.split("\n## Your own data, from four CSV files\n")[1].split("\n## ")[0]
    blocks = [
        block.replace("\\\n", " ") for block in re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
    ]
    commands = [shlex.split(x, comments=True)[1:] for x in "".join(blocks).splitlines()]
    drafting = [words for words in commands if words[0] in ("dataset", "init", "source", "quote")]
    assert [words[0] for words in drafting] == ["dataset", "init", "source", "quote"]
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(3)
    for name, rows in (("north", 300), ("east", 260), ("south", 47), ("west", 130)):
        ages, sexes, sick = random.uniform(30, 80, rows), "fm" * rows, random.integers(0, 2, rows)
        lines = [f"{a},{b},{c}" for a, b, c in zip(ages, sexes, sick, strict=False)]
        Path(f"{name}.csv").write_text("\n".join(["age,sex,sick", *lines]))
    typed(*drafting[0])
    text = Path("heart.yaml").read_text()
    text = text.replace("bounds: null", "bounds: [20, 90]")
    text = text.replace("values: null", "values: [f, m]")
    text = text.replace("column: null", "column: sick").replace("classes: null", "classes: [0, 1]")
    Path("heart.yaml").write_text(text)
    assert "'sick' cannot be a feature: it is the label" in typed(*drafting[1], code=2)
    Path("heart.yaml").write_text(re.sub(r"  sick:\n(    .*\n)*", "", text))
    assert "4 silos (east, north, south, west)" in typed(*drafting[1])
    assert "warning" not in typed(*drafting[2])
    (spec,) = re.findall(r"```yaml\n# train.yaml\n(.*?)```", part, re.DOTALL)
    Path("train.yaml").write_text(spec)
    assert typed(*drafting[3]).count("one record yes") == 4


# Quotes


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"privacy": {"none": True}, "evaluation": {"release": "none"}}, "no_privacy"),
        ({"evaluation": {"release": "exact"}}, "exact_evaluation"),
        (
            {
                "kind": "infer",
                "mode": "plain",
                "roles": {"data": "silo-1", "model": "silo-2"},
                "model": {"own": "ward"},
                "rows": 4,
            },
            "unencrypted_inference",
        ),
    ],
)
def test_what_nothing_protects_has_no_epsilon_and_names_the_policy(
    fed: Path, tmp_path: Path, typed: Typed, changes: dict[str, Any], field: str
) -> None:
    said = JOB | changes
    if said["kind"] == "infer":
        said = {k: v for k, v in said.items() if k not in ("strategy", "privacy")}
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(said))
    asked = ("quote", tmp_path / "bare.yaml", "--home", fed)
    text = typed(*asked)
    assert text.count("none bounds it") == 2 and not re.search(r"yes\s+[0-9]", text)
    assert f"each silo has to have policy.{field}: true" in text
    document = json.loads(typed(*asked, "--json"))
    assert document["opens"] == [field] and "unprotected" in document["leaving"]


def test_a_protected_job_has_its_epsilon(fed: Path, tmp_path: Path, typed: Typed) -> None:
    asked = ("quote", job(tmp_path / "job.yaml"), "--home", fed)
    text = typed(*asked)
    assert re.search(r"yes (0\.9|1\.0)", text)
    assert "none bounds it" not in text and "policy." not in text
    document = json.loads(typed(*asked, "--json"))
    assert document["opens"] == [] and document["leaving"] == ["dp"]


def test_no_subject_is_promised_a_bound_by_a_job_that_gives_none(
    tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("v.csv").write_text("a,y,who\n0.1,0,x\n0.2,1,z\n")
    Path("s.yaml").write_text(yaml.safe_dump(SCHEMA))
    typed("init", "fed", "--dataset", "s.yaml", "--silo", "a=v.csv", "--size", "a=100/40/50")
    said = ("quote", job(Path("job.yaml"), dataset="visits"), "--home", "fed")
    assert "A subject at 1 silos loses at most" in typed(*said)
    job(Path("job.yaml"), dataset="visits", evaluation={"release": "exact"})
    assert "loses at most" not in typed(*said)


@pytest.mark.parametrize("command", ["quote", "run"])
def test_a_data_set_that_is_not_there_is_told_with_those_that_are(
    fed: Path, tmp_path: Path, typed: Typed, command: str
) -> None:
    spec = job(tmp_path / "job.yaml", dataset="Breast-Cancer")
    error = json.loads(typed(command, spec, "--home", fed, "--json", code=2))["error"]
    assert error["code"] == "FED-002" and error["allowed"] == ["breast-cancer"]
    assert "no data set 'Breast-Cancer'" in error["message"]


# Homes without a ledger


def test_a_coordinator_of_silos_elsewhere_is_told_where_the_ledgers_are(
    tmp_path: Path, typed: Typed
) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SCHEMA))
    asked = ("init", tmp_path / "fed", "--dataset", tmp_path / "s.yaml")
    made = typed(*asked, "--exchange", "localhost:4222")
    assert "no silo has joined yet" in made and "each account allows" not in made
    home = ("--home", tmp_path / "fed")
    for command in (("show",), ("history",), ("forecast",)):
        error = json.loads(typed("budget", *command, *home, "--json", code=5))["error"]
        assert error["field"] == "home" and "run it at each silo" in error["message"]
    said = typed("ledger", "verify", *home)
    assert "No ledger under this home; run it at each silo." in said
    assert "0 receipts of 0 silos" in said
    (tmp_path / "fed" / "coordinator").rename(tmp_path / "elsewhere")
    error = json.loads(typed("ledger", "verify", *home, "--json", code=5))["error"]
    assert "no ledger under this home; run it at each silo" in error["message"]


# Help


def test_help_says_what_works() -> None:
    said = {
        ("init",): "NAME=TRAIN/TEST[/SUBJECTS]",
        ("dataset", "draft"): "CSV, Parquet or NPZ",
    }
    for words, told in said.items():
        done = CliRunner().invoke(app, [*words, "--help"])
        assert told in " ".join(done.output.split())
