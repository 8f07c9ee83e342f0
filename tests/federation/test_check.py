from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tests_tabular import BY_COLUMN, FEATURES, dataset, silo, write_csv

from federation.check import check_silo, check_source, check_text
from federation.init import init_dataset
from federation.settings import Sizes

HEADER = ["age", "dose", "cp", "sex", "site", "num", "part", "patient"]


def row(**changes: str) -> list[str]:
    base = dict(zip(HEADER, ["50", "0.5", "1", "f", "a", "0", "train", "p"], strict=True))
    return list((base | changes).values())


ROWS = [
    *[row(num=str(i % 2), patient=f"p{i}") for i in range(8)],
    row(part="test"),
    row(age="200"),
    row(age="-3"),
    row(age=""),
    row(age="old"),
    row(dose=""),
    row(dose="x"),
    row(cp="9"),
    row(cp=""),
    row(sex=""),
    row(site="z"),
    row(num=""),
    row(part="excluded"),
    row()[:-3],
]


def _faults(found: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(f["column"], f["rule"].split(":")[0]): f["rows"] for f in found["faults"]}


def test_every_rule_is_counted(tmp_path: Path) -> None:
    config = write_csv(tmp_path / "r.csv", HEADER, ROWS)
    found = check_source(config, dataset(), Sizes(train=16, test=1))
    assert _faults(found) == {
        ("age", "out of bounds"): 2,
        ("age", "missing"): 1,
        ("age", "not a number"): 1,
        ("dose", "missing"): 1,
        ("dose", "not a number"): 1,
        ("cp", "unknown category"): 1,
        ("cp", "missing"): 1,
        ("sex", "missing"): 1,
        ("site", "unknown category"): 1,
        ("num", "label outside its rule"): 2,
    }
    assert found["rows"] == len(ROWS)
    assert found["left_out"] == 5  # dose twice, site, num twice
    assert found["notes"] == {
        "rows with too few or too many fields": 1,
        "rows of neither part": 2,
    }
    assert found["sizes"]["train"] == {"declared": 16, "true": 15}
    assert found["warnings"] == []


def test_declared_sizes_far_off_and_absent_classes_are_warned_of(tmp_path: Path) -> None:
    rows = [row() for _ in range(100)]
    config = write_csv(tmp_path / "r.csv", HEADER, rows)
    assert len(check_source(config, dataset(), Sizes(train=120, test=1))["warnings"]) == 2
    (size, test, absent) = check_source(config, dataset(), Sizes(train=121, test=2))["warnings"]
    assert "121 declared, 100 true" in size
    assert "test" in test
    assert "num > 0" in absent


def test_subjects_are_counted_and_cut(tmp_path: Path) -> None:
    rows = [row(patient=p) for p in "aaaabbbc"] + [row(patient="")]
    config = write_csv(tmp_path / "r.csv", HEADER, rows)
    data = dataset(subject={"column": "patient", "max_rows": 2})
    found = check_source(config, data, Sizes(train=5, test=1, subjects=3))
    assert found["sizes"]["subjects"] == {"declared": 3, "true": 3}
    assert found["sizes"]["train"]["true"] == 5
    assert found["notes"]["rows beyond max_rows of their subject"] == 3
    assert _faults(found)["patient", "no subject"] == 1


def test_separate_files_are_both_looked_at(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", HEADER, [row(), row(age="200")])
    write_csv(tmp_path / "b.csv", HEADER, [row(age="200")])
    config = silo({"kind": "csv", "path": "a.csv", "test": "b.csv"}, tmp_path)
    found = check_source(config, dataset(split={"by": "files"}), Sizes(train=2, test=1))
    assert found["rows"] == 3
    assert _faults(found) == {("age", "out of bounds"): 2}
    assert "rows of neither part" not in found["notes"]


def test_a_quote_that_was_never_closed_is_told(tmp_path: Path) -> None:
    good = ",".join(row())
    lines = [",".join(HEADER), good, good.replace("f,a", '"f,a'), *[good] * 20]
    (tmp_path / "r.csv").write_text("\n".join(lines))
    config = silo({"kind": "csv", "path": str(tmp_path / "r.csv")})
    found = check_source(config, dataset(), Sizes(train=1, test=1))
    assert found["notes"]["rows with line breaks inside quotes"] == 1
    assert found["warnings"][0].startswith("22 lines made 2 rows: a quote")


def test_long_fields_and_broken_lines_are_counted(tmp_path: Path) -> None:
    rows = [row() for _ in range(30)] + [row(age="x" * 140_000), row(sex="f\nm")]
    config = write_csv(tmp_path / "r.csv", HEADER, rows)
    found = check_source(config, dataset(), Sizes(train=32, test=1))
    assert found["notes"] == {
        "rows with line breaks inside quotes": 1,
        "rows with a field of more than 131072 characters": 1,
    }
    assert not any("lines made" in warning for warning in found["warnings"])


def test_the_owner_is_told_in_words(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", HEADER, ROWS)
    schema = {
        "name": "study",
        "features": FEATURES,
        "label": {"column": "num", "positive_above": 0},
        "split": BY_COLUMN,
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(schema))
    home = init_dataset(
        tmp_path / "fed",
        tmp_path / "s.yaml",
        {"north": str(tmp_path / "a.csv")},
        {"north": "100/1"},
    )
    document = check_silo(home, "north")
    assert not document["ok"]
    text = check_text(document)
    for words in (
        "For its owner only",
        "22 rows, 5 left out",
        "age: 2 rows out of bounds: clamped",
        "warning: train: 100 declared, 15 true",
    ):
        assert words in text
