"""What docs/datasets.md shows, works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from federation import jobs
from federation.check import check_silo
from federation.documents import load_yaml
from federation.home import Home
from federation.membership import Membership
from federation.schema import Dataset
from federation.settings import Federation, SiloConfig
from infra.cli.app import app

PAGE = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
BLOCKS = {
    (kind, name): text
    for kind, name, text in re.findall(r"```yaml\n# (\w+): (\S+)\n(.*?)```", PAGE, re.DOTALL)
}
COMMANDS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
MODELS: dict[str, type[BaseModel]] = {
    "schema": Dataset,
    "silo": SiloConfig,
    "federation": Federation,
}

SHARED = Path(os.environ.get("TACIT_SHARED", "../shared"))


def test_every_yaml_block_says_what_it_is() -> None:
    assert len(BLOCKS) == PAGE.count("```yaml") >= 6


@pytest.mark.parametrize(("kind", "name"), sorted(BLOCKS))
def test_every_yaml_block_is_a_document_of_its_kind(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(BLOCKS[kind, name])
    if kind == "job":
        assert jobs.load(path).dataset == "heart"
    else:
        load_yaml(path, MODELS[kind])


def test_the_inputs_are_as_the_page_says() -> None:
    survey = Dataset.model_validate(yaml.safe_load(BLOCKS["schema", "survey.yaml"]))
    assert survey.input_names == (
        "income", "owns=yes", "owns=no",
        "region=north", "region=south", "region=east", "region=west", "region=?",
    )  # fmt: skip


def test_from_four_csv_files_to_a_federation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heart = SHARED / "data" / "heart"
    if not heart.is_dir():
        pytest.skip(f"the heart data are not under {SHARED} (TACIT_SHARED)")
    for path in heart.glob("*.csv"):
        shutil.copy(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    draft, init, check = (shlex.split(command)[1:] for command in COMMANDS[:3])
    runner = CliRunner()
    assert runner.invoke(app, draft).exit_code == 0
    drafted = yaml.safe_load(Path("heart.yaml").read_text())
    completed = yaml.safe_load(BLOCKS["schema", "heart.yaml"])
    assert set(completed["features"]) < set(drafted["features"])
    Path("heart.yaml").write_text(BLOCKS["schema", "heart.yaml"])
    result = runner.invoke(app, init)
    assert result.exit_code == 0, result.output
    home = Home(tmp_path / "study")
    Membership.load(home).check(home)
    assert runner.invoke(app, check).exit_code == 0
    for silo in ("cleveland", "hungarian", "switzerland", "va"):
        found = check_silo(home, silo)["datasets"]["heart"]
        assert found["left_out"] <= 1  # missing constants are declared; sizes are near enough
        assert found["warnings"] == []
