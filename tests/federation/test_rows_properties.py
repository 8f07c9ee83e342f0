"""What must hold whatever the rows contain (hypothesis)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from tests_tabular import BY_COLUMN, HASH, dataset, silo, write_csv

from federation.schema import canonical_text
from federation.sources.rows import in_part, load_part, map_rows
from federation.sources.table import PARTS, Table

HEADER = ["age", "dose", "cp", "sex", "site", "num", "part", "patient"]

settings.register_profile(
    "rows", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
PROPERTY = settings(settings.get_profile("rows"), max_examples=80)

likely = st.sampled_from(
    ["", "1", "2", "3", "f", "m", "a", "b", "0", "55", "1e999", "-inf", "nan", "true", "train",
     "test", '"', "a,b", "x\ny", "\x00", "1_0", "\u0661", "9" * 5000, "p", "q", "\ud800"]
)  # fmt: skip
anything = st.one_of(
    likely,
    st.text(max_size=8),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.binary(max_size=6),
    st.decimals(),
    st.datetimes(),
    st.complex_numbers(),
    st.lists(st.integers(), max_size=3),
    st.just(10**5000),
)
row_of = st.lists(anything, min_size=len(HEADER), max_size=len(HEADER))


def table(rows: list[list[Any]]) -> Table:
    columns = {}
    for place, name in enumerate(HEADER):
        columns[name] = np.empty(len(rows), dtype=object)
        for i, row in enumerate(rows):
            columns[name][i] = row[place]
    return Table(columns, len(rows))


SUBJECT = {"column": "patient", "max_rows": 2}


@PROPERTY
@given(st.lists(row_of, max_size=6))
def test_no_value_of_any_type_fails_and_every_row_is_in_range(rows: list[list[Any]]) -> None:
    for data in (dataset(), dataset(split=HASH), dataset(split=HASH, subject=SUBJECT)):
        mapped = map_rows(data, table(rows))
        assert mapped.features.shape == (len(rows), 10)
        numbers, categories = mapped.features[:, :2], mapped.features[:, 2:]
        assert np.all(np.abs(numbers) <= 1)
        assert np.all((categories == 0) | (categories == 1))
        assert np.all(categories[:, :4].sum(axis=1) == 1)  # cp has a slot for the unknown
        assert np.all(categories[:, 4:6].sum(axis=1) <= 1)
        assert np.all(categories[mapped.keep][:, 6:].sum(axis=1) == 1)  # else left out
        assert np.all(np.isin(mapped.labels[mapped.keep], [0, 1]))
        inside = [in_part(data, table(rows), mapped, part) for part in PARTS]
        assert not np.any(inside[0] & inside[1])


@PROPERTY
@given(st.lists(row_of, min_size=1, max_size=5))
def test_a_row_is_mapped_by_itself(rows: list[list[Any]]) -> None:
    for data in (dataset(split=HASH), dataset(split=HASH, subject=SUBJECT)):
        together = map_rows(data, table(rows))
        in_test = in_part(data, table(rows), together, "test")
        for i, row in enumerate(rows):
            alone = map_rows(data, table([row]))
            np.testing.assert_array_equal(alone.features[0], together.features[i])
            assert alone.labels[0] == together.labels[i]
            assert alone.keep[0] == together.keep[i]
            assert in_part(data, table([row]), alone, "test")[0] == in_test[i]


@PROPERTY
@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.lists(st.floats(width=32), min_size=4))
def test_a_pixel_is_between_zero_and_one(first: float, second: float, values: list[float]) -> None:
    low, high = sorted((first, second))
    assume(high - low > 1e-3 * max(abs(low), abs(high), 1e-9))
    image = {"x": {"type": "image", "shape": [2, 2], "bounds": [low, high]}}
    pixels = np.array([[low, high, low, high], values[:4]]).reshape(2, 2, 2)
    columns = {"x": pixels, "num": np.array([0, 1])}
    features = map_rows(dataset(features=image), Table(columns, 2)).features
    np.testing.assert_allclose(features[0].reshape(-1), [0, 1, 0, 1], atol=1e-3)
    assert features.min() >= 0
    assert features.max() <= 1


@PROPERTY
@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_a_number_keeps_its_order_and_its_bounds(first: float, second: float) -> None:
    rows: list[list[Any]] = [[x, 0, 1, "f", "a", 0, "train", "p"] for x in (first, second)]
    mapped = map_rows(dataset(), table(rows)).features[:, 0]
    assert (first <= second) <= (mapped[0] <= mapped[1])
    for value, scaled in zip((first, second), mapped, strict=True):
        assert (scaled == -1) >= (value <= 20)
        assert (scaled == 1) >= (value >= 90)
        if 20 <= value <= 90:
            assert abs((scaled + 1) * 35 + 20 - value) < 1e-4


@PROPERTY
@given(st.binary(max_size=200))
def test_no_bytes_after_the_header_of_a_csv_fail(body: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.csv"
        path.write_bytes(",".join(HEADER).encode() + b"\n" + body)
        config = silo({"kind": "csv", "path": str(path)})
        for data in (dataset(), dataset(split=HASH, subject=SUBJECT)):
            for part in PARTS:
                load_part(config, data, part)


@PROPERTY
@given(st.lists(st.lists(likely, min_size=0, max_size=10), max_size=5))
def test_rows_of_any_length_and_content_of_a_csv_do_not_fail(rows: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        config = write_csv(Path(directory) / "rows.csv", HEADER, rows)
        for part in PARTS:
            found = load_part(config, dataset(subject=SUBJECT), part)
            assert len(found) <= len(rows)


people = st.sampled_from(["ann", "bo", "7", "cy", "di"])
visits = st.lists(st.tuples(people, st.integers(20, 90), st.integers(0, 1)), max_size=14)


def _rows(visits: list[tuple[str, int, int]], part: str = "train") -> list[list[Any]]:
    return [[age, 0.5, 1, "f", "a", num, part, who] for who, age, num in visits]


def _whose(part: Any, names: list[str]) -> dict[str, list[bytes]]:
    """The rows of each subject, by the order of names that the codes stand for."""
    found: dict[str, list[bytes]] = {name: [] for name in names}
    for code, row, label in zip(part.subjects, part.features, part.labels, strict=True):
        found[names[code]].append(row.tobytes() + label.tobytes())
    return {name: sorted(rows) for name, rows in found.items()}


@PROPERTY
@given(visits, people)
def test_what_counts_of_a_subject_depends_on_that_subject_only(
    visits: list[tuple[str, int, int]], gone: str
) -> None:
    data = dataset(subject=SUBJECT)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.csv"
        everybody = sorted({v[0] for v in visits})
        before = load_part(write_csv(path, HEADER, _rows(visits)), data, "train")
        others = [v for v in reversed(visits) if v[0] != gone]  # nor on the order of rows
        after = load_part(write_csv(path, HEADER, _rows(others)), data, "train")
    expected = {n: r for n, r in _whose(before, everybody).items() if n != gone}
    assert _whose(after, sorted({v[0] for v in others})) == expected
    assert all(len(rows) <= 2 for rows in expected.values())


@PROPERTY
@given(visits, visits)
def test_a_subject_is_in_the_same_part_at_every_silo(
    here: list[tuple[str, int, int]], there: list[tuple[str, int, int]]
) -> None:
    data = dataset(split=HASH, subject=SUBJECT)
    side: dict[str, bool] = {}
    for visits in (here, there):
        rows = table(_rows(visits))
        in_test = in_part(data, rows, map_rows(data, rows), "test")
        for (who, _, _), test in zip(visits, in_test, strict=True):
            assert side.setdefault(who, bool(test)) == test


def test_the_share_of_the_test_part_is_the_declared_one() -> None:
    """At most 1 in 10^4 such tests would fail if the hash were a fair coin; this one is fixed."""
    ages = np.linspace(20, 90, 4000)
    rows: list[list[Any]] = [[age, 0.5, 1, "f", "a", 0, "", f"p{i}"] for i, age in enumerate(ages)]
    for data in (dataset(split=HASH), dataset(split=HASH, subject=SUBJECT)):
        mapped = map_rows(data, table(rows))
        count = int(in_part(data, table(rows), mapped, "test").sum())
        assert stats.binomtest(count, len(rows), 0.25).pvalue > 1e-4


def test_another_salt_is_another_split() -> None:
    rows = table([[age, 0.5, 1, "f", "a", 0, "", ""] for age in range(20, 91)])
    sides = []
    for salt in ("s", "t"):
        data = dataset(split=HASH | {"salt": salt})
        sides.append(in_part(data, rows, map_rows(data, rows), "test"))
    assert not np.array_equal(*sides)


@PROPERTY
@given(anything)
def test_canonical_text_is_a_fixed_point(value: Any) -> None:
    text = canonical_text(value)
    assert text is None or canonical_text(text) == text


def test_the_split_by_column_is_the_columns_word() -> None:
    rows = table(_rows([("p", 30, 0)], "train") + _rows([("p", 31, 0)], "test"))
    data = dataset(split=BY_COLUMN)
    mapped = map_rows(data, rows)
    np.testing.assert_array_equal(in_part(data, rows, mapped, "train"), [True, False])
    np.testing.assert_array_equal(in_part(data, rows, mapped, "test"), [False, True])
