"""Predictions where the rows are: beside a softmax written out, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests_tabular import dataset

from federation.errors import BadInput
from federation.predict import describe, predict_file

FEATURES = {
    "age": {"type": "number", "bounds": [20, 90], "missing": 55},
    "dose": {"type": "number", "bounds": [0, 1]},
    "sex": {"type": "category", "values": ["f", "m"], "missing": "f"},
}
WEIGHTS = np.array([[0.5, -1.0, 2.0, 0.25], [-0.5, 1.5, 0.0, 1.0]])
BIAS = np.array([0.1, -0.2])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A logistic model with weights of this test, described as a job describes its own."""
    path = tmp_path / "model.safetensors"
    save_file(
        {
            "1.weight": torch.tensor(WEIGHTS, dtype=torch.float32),
            "1.bias": torch.tensor(BIAS, dtype=torch.float32),
        },
        path,
    )
    schema = dataset(features=FEATURES, label={"column": "num", "classes": ["no", "yes"]})
    spec = {"name": "logistic", "hidden": [64], "channels": [16, 32], "activation": "tanh"}
    describe(path, model=spec, dataset=schema)
    return path


def rows(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["sex,age,ignored,dose", *lines, ""]))
    return path


def predicted(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def by_hand(age: float, dose: float, sex: str) -> np.ndarray:
    x = np.array([2 * (age - 20) / 70 - 1, 2 * dose - 1, sex == "f", sex == "m"])
    scores = np.exp(WEIGHTS @ x + BIAS)
    return scores / scores.sum()


def test_probabilities_are_those_of_the_model_on_rows_as_the_schema_maps_them(
    model: Path, tmp_path: Path
) -> None:
    source = rows(tmp_path / "in.csv", "m,30,x,0.5", "f,200,x,0.25", ",,x,1", "m,44,x,0")
    assert predict_file(model, source, tmp_path / "out.csv") == 4
    told = predicted(tmp_path / "out.csv")
    expected = [
        by_hand(30, 0.5, "m"),
        by_hand(90, 0.25, "f"),  # clamped to the bound
        by_hand(55, 1, "f"),  # the declared constants
        by_hand(44, 0, "m"),
    ]
    for line, probabilities in zip(told, expected, strict=True):
        ours = [float(line["p_no"]), float(line["p_yes"])]
        np.testing.assert_allclose(ours, probabilities, atol=2e-6)
        assert line["predicted"] == ("no", "yes")[np.argmax(probabilities)]


def test_rows_that_the_schema_leaves_out_are_left_out_and_numbers_tell_which(
    model: Path, tmp_path: Path
) -> None:
    source = rows(tmp_path / "in.csv", "m,30,x,", "f,40,x,0.25", "m,50,x,none", "m,44,x,0.5")
    assert predict_file(model, source, tmp_path / "out.csv") == 2
    assert [line["row"] for line in predicted(tmp_path / "out.csv")] == ["1", "3"]


def test_a_file_without_usable_rows_gives_a_header_only(model: Path, tmp_path: Path) -> None:
    source = rows(tmp_path / "in.csv", "m,30,x,")
    assert predict_file(model, source, tmp_path / "out.csv") == 0
    assert (tmp_path / "out.csv").read_text() == "row,predicted,p_no,p_yes\n"


def test_only_the_owner_may_read_the_predictions(model: Path, tmp_path: Path) -> None:
    predict_file(model, rows(tmp_path / "in.csv", "m,30,x,0.5"), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").stat().st_mode & 0o777 == 0o600


def test_what_is_there_is_not_written_over(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("mine")
    with pytest.raises(BadInput, match="already there") as caught:
        predict_file(model, rows(tmp_path / "in.csv", "m,30,x,0.5"), target)
    assert caught.value.field == "out" and target.read_text() == "mine"


@pytest.mark.parametrize("missing", ["model.safetensors", "model.json", "in.csv"])
def test_a_missing_file_is_named(model: Path, tmp_path: Path, missing: str) -> None:
    source = rows(tmp_path / "in.csv", "m,30,x,0.5")
    (tmp_path / missing).unlink()
    with pytest.raises(BadInput, match=missing):
        predict_file(model, source, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_source_without_a_column_of_the_schema_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("sex,age\nm,30\n")
    with pytest.raises(BadInput, match="dose"):
        predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_the_description_holds_the_architecture_and_the_schema_and_no_row(model: Path) -> None:
    document: dict[str, Any] = json.loads(model.with_suffix(".json").read_text())
    assert set(document) == {"model", "dataset"}
    assert document["model"]["name"] == "logistic"
    assert set(document["dataset"]["features"]) == set(FEATURES)
