from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_tabular import write_csv

from federation.documents import parse, read_yaml
from federation.draft import draft_schema
from federation.errors import BadInput, Missing
from federation.schema import Dataset


def test_a_draft_has_names_and_types_and_nothing_of_the_rows(tmp_path: Path) -> None:
    rows = [[str(i + 4711), "hunter2" if i % 2 else "swordfish", i % 2, ""] for i in range(40)]
    write_csv(tmp_path / "My Data (2).csv", ["income", "word", "sex", "no"], rows)
    text = draft_schema(tmp_path / "My Data (2).csv")
    for secret in ("hunter2", "swordfish", "4711", "4750", "40"):
        assert secret not in text
    data = yaml.safe_load(text)
    assert data["name"] == "my-data-2"
    types = {name: feature["type"] for name, feature in data["features"].items()}
    assert types["income"] == "number"
    assert types["word"] == types["sex"] == "category"
    assert all(f.get("bounds") is f.get("values") is None for f in data["features"].values())


def test_a_draft_waits_for_a_person_and_then_holds(tmp_path: Path) -> None:
    rows = [[str(i), "ab"[i % 2], i % 2] for i in range(40)]
    write_csv(tmp_path / "d.csv", ["age", "kind", "ill"], rows)
    data = yaml.safe_load(draft_schema(tmp_path / "d.csv"))
    with pytest.raises(BadInput, match=r"features\.age\.bounds: nothing is declared yet"):
        parse(data, Dataset, "d.yaml")
    data["features"]["age"]["bounds"] = [0, 100]
    data["features"]["kind"]["values"] = ["a", "b"]
    del data["features"]["ill"]
    data["label"] = {"column": "ill", "classes": [0, 1]}
    assert parse(data, Dataset, "d.yaml").input_shape == (3,)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5, unique_by=str.strip))
def test_any_header_is_drafted_as_it_stands(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("draft") / "d.csv"
    write_csv(path, ["first", *names], [])
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        import csv

        header = [name.strip() for name in next(csv.reader(file))]
    if len(set(header)) < len(header):
        return
    data = yaml.safe_load(draft_schema(path))
    assert [str(name) for name in data["features"]] == header


def test_files_with_types_are_drafted_as_well(tmp_path: Path) -> None:
    ages: list[int | None] = [*range(40), None]
    pq.write_table(pa.table({"age": ages, "kind": ["a", None] * 20 + ["b"]}), tmp_path / "d.pq")
    np.savez(tmp_path / "d.npz", age=np.arange(41.0), kind=np.zeros((41, 2, 2)))
    for name in ("d.pq", "d.npz"):
        features = yaml.safe_load(draft_schema(tmp_path / name))["features"]
        assert {n: f["type"] for n, f in features.items()} == {"age": "number", "kind": "category"}


def test_names_that_yaml_takes_for_something_else(tmp_path: Path) -> None:
    names = ["1e5", "no", "2024-01-01", "12:30", "~", "010", "x: y", "#z"]
    write_csv(tmp_path / "d.csv", names, [])
    (tmp_path / "d.yaml").write_text(draft_schema(tmp_path / "d.csv"))
    assert list(read_yaml(tmp_path / "d.yaml")["features"]) == names


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        draft_schema(tmp_path / "none.csv")


def test_the_data_set_is_called_as_the_caller_says_else_after_the_file(tmp_path: Path) -> None:
    write_csv(tmp_path / "north.csv", ["a", "b"], [])
    for name, called in ((None, "north"), ("Heart (2)", "heart-2"), ("no", "no"), ("42", "42")):
        text = draft_schema(tmp_path / "north.csv", name)
        (tmp_path / "d.yaml").write_text(text)
        data = read_yaml(tmp_path / "d.yaml")
        assert data["name"] == data["split"]["salt"] == called
