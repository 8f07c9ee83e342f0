"""`tacit run examples/infer.yaml` after a train job, on the embedded stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.large
def test_the_example_runs_after_the_train_job_that_it_names(
    tmp_path: Path, tacit_json: Any
) -> None:
    home = tmp_path / "fed"
    tacit_json("init", home, "--example", "breast-cancer", "--silos", 4)
    infer = EXAMPLES / "infer.yaml"
    error = tacit_json("run", infer, "--home", home, code=2)["error"]
    assert error["code"] == "FED-002" and error["field"] == "model.job"
    train = yaml.safe_load((EXAMPLES / "breast-cancer.yaml").read_text())
    train["strategy"]["rounds"] = 2
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train))
    trained = tacit_json("run", tmp_path / "train.yaml", "--home", home)
    assert trained["status"] == "completed"
    words = ("model", "keep", trained["model"], "--silo", "silo-2", "--as", "ward")
    kept = tacit_json(*words, "--home", home)
    assert kept["own"] == "ward" and kept["datasets"] == ["breast-cancer"]
    assert tacit_json(*words, "--home", home, code=2)["error"]["field"] == "as"
    quoted = tacit_json("quote", infer, "--home", home)
    assert quoted["admissible"] and sorted(quoted["silos"]) == ["silo-1", "silo-2"]
    result = tacit_json("run", infer, "--home", home)
    assert result["status"] == "completed" and result["model"] is None
    assert result["details"]["places"] == 64 and result["details"]["error"] < 0.01
    found = list(home.rglob("predictions.csv"))
    assert found == [home / "silos/silo-1/jobs" / result["job_id"] / "predictions.csv"]
    shown = tacit_json("job", "show", result["job_id"], "--home", home)
    assert shown["details"] == result["details"]
