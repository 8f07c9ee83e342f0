from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder
from tests_tabular import HASH, dataset, silo, write_csv

from federation.errors import BadInput, Missing, NotFound
from federation.sources.rows import load_part, read_features

HEADER = ["age", "dose", "cp", "sex", "site", "num", "part"]


def test_the_mapping_is_what_the_schema_says(tmp_path: Path) -> None:
    rows = [
        ["20", "0.5", "1", "f", "a", "0", "train"],
        ["90", "0", "3.0", "m", "b", "2", "train"],
        ["200", "-7", "9", "", "a", "1", "train"],  # clamped, unknown slot, declared sex
        ["", "1", "", "x", "a", "0", "train"],  # declared age, unknown slot, no sex
        ["old", "1", "2", "m", "a", "0", "train"],  # text in a number: the declared age
    ]
    part = load_part(write_csv(tmp_path / "r.csv", HEADER, rows), dataset(), "train")
    expected = np.array(
        [  # age dose  cp=1 2 3 ?  sex=f m  site=a b
            [-1, 0.0, 1, 0, 0, 0, 1, 0, 1, 0],
            [1, -1.0, 0, 0, 1, 0, 0, 1, 0, 1],
            [1, -1.0, 0, 0, 0, 1, 1, 0, 1, 0],
            [0, 1.0, 0, 0, 0, 1, 0, 0, 1, 0],
            [0, 1.0, 0, 1, 0, 0, 0, 1, 1, 0],
        ],
        dtype=np.float32,
    )
    np.testing.assert_array_equal(part.features, expected)
    np.testing.assert_array_equal(part.labels, [0, 1, 1, 0, 0])
    assert part.features.dtype == np.float32
    assert part.labels.dtype == np.int64
    assert part.subjects is None


def test_rows_without_a_declared_way_out_are_left_out(tmp_path: Path) -> None:
    good = ["50", "0.5", "1", "f", "a", "0"]
    rows = [[*good, "train"], [*good, "test"], [*good, "other"], [*good, ""]]
    for place, bad in ((1, ""), (1, "much"), (4, "c"), (4, ""), (5, ""), (5, "ill")):
        row = [*good, "train"]
        row[place] = bad
        rows.append(row)
    config = write_csv(tmp_path / "r.csv", HEADER, rows)
    assert len(load_part(config, dataset(), "train")) == 1
    assert len(load_part(config, dataset(), "test")) == 1


def test_scaling_and_one_hot_agree_with_scikit_learn(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    ages, doses = rng.uniform(0, 120, 200), rng.uniform(-0.5, 1.5, 200)
    cps, sexes = rng.integers(1, 4, 200), rng.choice(["f", "m"], 200)
    rows = [[*row, "a", 1, "train"] for row in zip(ages, doses, cps, sexes, strict=True)]
    part = load_part(write_csv(tmp_path / "r.csv", HEADER, rows), dataset(), "train")
    scaler = MinMaxScaler((-1, 1), clip=True).fit([[20.0, 0.0], [90.0, 1.0]])
    numbers = scaler.transform(np.stack([ages, doses], axis=1))
    np.testing.assert_allclose(part.features[:, :2], numbers, atol=1e-6)
    encoder = OneHotEncoder(categories=[[1, 2, 3]], sparse_output=False)
    np.testing.assert_array_equal(part.features[:, 2:5], encoder.fit_transform(cps[:, None]))
    encoder = OneHotEncoder(categories=[["f", "m"]], sparse_output=False)
    np.testing.assert_array_equal(part.features[:, 6:8], encoder.fit_transform(sexes[:, None]))


def test_labels_by_class_and_by_threshold(tmp_path: Path) -> None:
    good = ["50", "0.5", "1", "f", "a"]
    said = ["0", "1", "2", "4", "3.5", "-1", "0.0", "1e-9", "none", ""]
    config = write_csv(tmp_path / "r.csv", HEADER, [[*good, label, "train"] for label in said])
    above = load_part(config, dataset(), "train")
    np.testing.assert_array_equal(above.labels, [0, 1, 1, 1, 1, 0, 0, 1])
    label = {"column": "num", "classes": [2, 0, "none"]}
    classes = load_part(config, dataset(label=label), "train")
    np.testing.assert_array_equal(classes.labels, [1, 0, 1, 2])


def test_a_subject_counts_at_most_max_rows_and_one_without_a_name_none(tmp_path: Path) -> None:
    header = [*HEADER, "patient"]
    rows = [
        [str(20 + i), "0.5", "1", "f", "a", "0", "train", patient]
        for i, patient in enumerate(["p"] * 5 + ["q"] * 2 + [""] * 3 + ["r", " r ", "007", "7.0"])
    ]
    config = write_csv(tmp_path / "r.csv", header, rows)
    data = dataset(subject={"column": "patient", "max_rows": 3})
    part = load_part(config, data, "train")
    assert part.subjects is not None
    _, counts = np.unique(part.subjects, return_counts=True)
    assert sorted(counts) == [1, 1, 2, 2, 3]  # 007 and 7.0 are two people


def test_a_very_long_field_is_one_field_of_one_row(tmp_path: Path) -> None:
    """Above the reader's own limit, its line breaks would be taken for rows."""
    good = ["50", "0.5", "1", "f", "a", "0", "train"]
    inside = "z" * 140_000 + "\n" + "50,0.5,1,f,a,0,train\n" * 5
    config = write_csv(tmp_path / "r.csv", HEADER, [good, [inside, *good[1:]], good])
    part = load_part(config, dataset(), "train")
    np.testing.assert_array_equal(part.features[:, 0] == 0, [False, True, False])


def test_bounds_are_reached_and_never_passed(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for low, high in ((-1e-3, 7e5), (0.1, 0.3), (-1e308, 5e307), (1e-310, 2e-310)):
        feature = {"dose": {"type": "number", "bounds": [low, high]}}
        near = np.nextafter([low, high], [high, low])
        inside = np.concatenate([[low, high], near, low + (high - low) * rng.uniform(size=200)])
        rows = [[repr(float(x)), "0", "train"] for x in [*inside, -1e308, 1e308, "inf", "-inf"]]
        config = write_csv(tmp_path / "r.csv", ["dose", "num", "part"], rows)
        with np.errstate(over="raise", invalid="raise"):
            part = load_part(config, dataset(features=feature), "train")
        assert len(part) == len(rows)
        assert np.abs(part.features).max() <= 1
        assert part.features[0] == -1
        assert part.features[1] == 1


def test_missing_column_file_and_test_part_are_named(tmp_path: Path) -> None:
    config = write_csv(tmp_path / "r.csv", ["Age", *HEADER[1:]], [])
    with pytest.raises(BadInput, match="no column 'age'; it has 'Age'") as caught:
        load_part(config, dataset(), "train")
    assert (caught.value.field, caught.value.value) == ("column", "age")
    gone = silo({"kind": "csv", "path": str(tmp_path / "gone.csv")})
    with pytest.raises(Missing, match=r"gone\.csv: no such file") as missing:
        load_part(gone, dataset(), "train")
    assert missing.value.exit_code == 5
    config = write_csv(tmp_path / "r.csv", HEADER, [])
    with pytest.raises(BadInput, match="names no test part"):
        load_part(config, dataset(split={"by": "files"}), "test")
    with pytest.raises(NotFound, match="none of its sources serves"):
        load_part(config, dataset(name="other"), "train")
    with pytest.raises(BadInput, match="'validation' is no part"):
        load_part(config, dataset(), "validation")


def test_separate_files(tmp_path: Path) -> None:
    good = ["50", "0.5", "1", "f", "a", "0", ""]
    write_csv(tmp_path / "train.csv", HEADER, [good] * 3)
    write_csv(tmp_path / "test.csv", HEADER, [good] * 2)
    config = silo({"kind": "csv", "path": "train.csv", "test": "test.csv"}, tmp_path)
    data = dataset(split={"by": "files"})
    assert [len(load_part(config, data, part)) for part in ("train", "test")] == [3, 2]


def test_no_rows_is_no_error(tmp_path: Path) -> None:
    config = write_csv(tmp_path / "r.csv", HEADER, [])
    for split in (HASH, dataset().split.model_dump()):
        part = load_part(config, dataset(split=split), "train")
        assert part.features.shape == (0, 10)
        assert len(part) == 0


def test_features_alone_need_no_label(tmp_path: Path) -> None:
    rows = [["50", "0.5", "1", "f", "a"], ["50", "", "1", "f", "a"], ["20", "1", "2", "m", "b"]]
    write_csv(tmp_path / "new.csv", HEADER[:5], rows)
    numbers, features = read_features(tmp_path / "new.csv", dataset())
    np.testing.assert_array_equal(numbers, [0, 2])
    assert features.shape == (2, 10)
    with pytest.raises(BadInput, match="no known kind of file"):
        read_features(tmp_path / "new.xls", dataset())
