"""One row changes how no other row is read, in every kind of source and type of column.

This is what counts one record as one record: were another row's one-hot position, label, subject
or part to follow from it, the sensitivity that every price rests on would be wrong.
"""

from __future__ import annotations

import csv
import sqlite3
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests_tabular import BY_COLUMN, HASH, dataset, silo

from federation.sources.rows import Mapped, in_part, map_rows
from federation.sources.table import PARTS, Table, read

COLUMNS = ("n", "c", "y", "p", "part")
WORDS = ["0.1", "0.2", "1", "2", "0", "true", "a", "2020-01-01"]
FEATURES = {
    "n": {"type": "number", "bounds": [-100, 100], "missing": 0.5},
    "c": {"type": "category", "values": WORDS, "missing": "0.1", "unknown": "slot"},
}
LABEL = {"column": "y", "classes": WORDS}
SUBJECT = {"column": "p", "max_rows": 2}
SCHEMAS = [
    dataset(features=FEATURES, label=LABEL, split=split, subject=subject)
    for split, subject in [
        (HASH, None),
        (HASH, SUBJECT),
        (BY_COLUMN | {"train": "1", "test": "0.1"}, SUBJECT),
    ]
]
SCHEMAS.append(dataset(features=FEATURES, label={"column": "y", "positive_above": 0.1}, split=HASH))

Rows = list[tuple[Any, ...]]
Write = Callable[[Path, Rows], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A kind of source whose columns are all of one type."""

    values: st.SearchStrategy[Any]
    write: Write


def of_csv(path: Path, rows: Rows) -> dict[str, Any]:
    with (path / "r.csv").open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([COLUMNS, *rows])
    return {"kind": "csv", "path": str(path / "r.csv")}


def of_parquet(kind: pa.DataType) -> Write:
    def write(path: Path, rows: Rows) -> dict[str, Any]:
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        columns = [pa.array([row[i] for row in rows], plain) for i in range(len(COLUMNS))]
        if plain is not kind:
            columns = [column.dictionary_encode() for column in columns]
        pq.write_table(pa.table(columns, names=list(COLUMNS)), path / "r.parquet")
        return {"kind": "parquet", "path": str(path / "r.parquet")}

    return write


def of_npz(kind: str) -> Write:
    def write(path: Path, rows: Rows) -> dict[str, Any]:
        columns = {n: np.array([r[i] for r in rows], kind) for i, n in enumerate(COLUMNS)}
        np.savez(path / "r.npz", **columns)
        return {"kind": "npz", "path": str(path / "r.npz")}

    return write


def of_sqlite(declared: str) -> Write:
    def write(path: Path, rows: Rows) -> dict[str, Any]:
        (path / "r.db").unlink(missing_ok=True)
        connection = sqlite3.connect(path / "r.db")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"CREATE TABLE t ({', '.join(f'{c} {declared}' for c in COLUMNS)})")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows)
        connection.commit()
        connection.close()
        return {"kind": "sql", "url": f"sqlite:///{path / 'r.db'}", "table": "t"}

    return write


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


def integers(bits: int, *, signed: bool = True) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.one_of(st.integers(0, 2), st.integers(low, high), st.sampled_from([low, high]))


def floats(width: Any) -> st.SearchStrategy[float]:
    near = st.sampled_from([0.1, 0.2, 1.0, 2.0, -0.0, float("inf"), float("nan")])
    if width == 16:  # any pattern of bits
        bits = st.integers(0, 2**16 - 1)
        drawn = bits.map(lambda b: float(np.uint16(b).view(np.float16)))
    else:
        drawn = st.floats(width=width)
    return st.one_of(near.map(lambda x: float(np.dtype(f"f{width // 8}").type(x))), drawn)


text = st.one_of(
    st.sampled_from([*WORDS, "", " 1 ", "01", "1.0", "1e0", "TRUE", "nan", "\u00e9", "e\u0301"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=5),
)
odd_text = st.sampled_from(['"', "x\ny", "a,b", "\r", "\x00", "9" * 5000, "z" * 140_000, "\udc80"])
decimals = st.decimals(-(10**9), 10**9, places=4)
loose = st.one_of(integers(64), floats(64), text, st.binary(max_size=4), st.none())

CASES = {
    "csv": Case(st.one_of(text, odd_text), of_csv),
    "npz bool": Case(st.booleans(), of_npz("?")),
    "npz text": Case(text, of_npz("U")),
    "npz bytes": Case(st.one_of(text.map(str.encode), st.binary(max_size=3)), of_npz("S")),
    "npz date": Case(st.sampled_from(["2020-01-01", "2021-02-03", "NaT"]), of_npz("M8[D]")),
    "sql any": Case(loose, of_sqlite("")),
    "sql text": Case(maybe(text), of_sqlite("text")),
    "sql numeric": Case(loose, of_sqlite("numeric(9, 2)")),
    "sql integer": Case(maybe(integers(64)), of_sqlite("integer")),
    "sql real": Case(maybe(floats(64)), of_sqlite("real")),
    "parquet bool": Case(maybe(st.booleans()), of_parquet(pa.bool_())),
    "parquet text": Case(maybe(text), of_parquet(pa.string())),
    "parquet large text": Case(maybe(text), of_parquet(pa.large_string())),
    "parquet bytes": Case(maybe(st.binary(max_size=3)), of_parquet(pa.binary())),
    "parquet decimal": Case(maybe(decimals), of_parquet(pa.decimal128(20, 4))),
    "parquet dictionary of text": Case(
        maybe(text), of_parquet(pa.dictionary(pa.int32(), pa.string()))
    ),
    "parquet dictionary of float32": Case(
        maybe(floats(32)), of_parquet(pa.dictionary(pa.int32(), pa.float32()))
    ),
}
for _bits in (8, 16, 32, 64):
    for _signed, _sign in ((True, ""), (False, "u")):
        _kind = f"{_sign}int{_bits}"
        _values = integers(_bits, signed=_signed)
        CASES[f"parquet {_kind}"] = Case(maybe(_values), of_parquet(getattr(pa, _kind)()))
        CASES[f"npz {_kind}"] = Case(_values, of_npz(_kind))
for _bits in (16, 32, 64):
    _kind = f"float{_bits}"
    CASES[f"parquet {_kind}"] = Case(maybe(floats(_bits)), of_parquet(getattr(pa, _kind)()))
    CASES[f"npz {_kind}"] = Case(floats(_bits), of_npz(_kind))


def outcomes(table: Table) -> list[tuple[Any, ...]]:
    """All that becomes of each row, under every schema, as bytes."""
    found: list[list[Any]] = [[] for _ in range(table.rows)]
    for schema in SCHEMAS:
        mapped: Mapped = map_rows(schema, table)
        parts = [in_part(schema, table, mapped, part) for part in PARTS]
        for row, outcome in enumerate(found):
            outcome += [mapped.features[row].tobytes(), mapped.labels[row].tobytes()]
            outcome += [bool(mapped.keep[row]), *(bool(part[row]) for part in parts)]
            outcome.append(None if mapped.subjects is None else mapped.subjects[row])
    return [tuple(outcome) for outcome in found]


def of_rows(write: Write, rows: Rows) -> list[tuple[Any, ...]]:
    with tempfile.TemporaryDirectory() as directory:
        config = silo(write(Path(directory), rows))
        return outcomes(read(config.sources["d"], COLUMNS))


INDEPENDENT = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("name", CASES)
@INDEPENDENT
@given(data=st.data())
def test_a_row_that_comes_goes_or_changes_leaves_all_others_as_they_were(
    name: str, data: st.DataObject
) -> None:
    case = CASES[name]
    row = st.tuples(*[case.values] * len(COLUMNS))
    rows = data.draw(st.lists(row, min_size=1, max_size=5))
    before = of_rows(case.write, rows)
    assert len(before) == len(rows)
    other = data.draw(row)
    assert of_rows(case.write, [*rows, other])[:-1] == before
    place = data.draw(st.integers(0, len(rows) - 1))
    rest = before[:place] + before[place + 1 :]
    if rest:
        assert of_rows(case.write, rows[:place] + rows[place + 1 :]) == rest
    replaced = of_rows(case.write, [*rows[:place], other, *rows[place + 1 :]])
    assert replaced[:place] + replaced[place + 1 :] == rest


mixed = st.one_of(loose, decimals, st.decimals(), st.booleans(), st.dates(), st.datetimes(),
                  st.uuids(), st.just(10**5000), st.lists(st.integers(), max_size=2))  # fmt: skip


@settings(INDEPENDENT, max_examples=100)
@given(st.lists(st.tuples(*[mixed] * len(COLUMNS)), min_size=2, max_size=5))
def test_whatever_mix_of_types_a_driver_returns(rows: Rows) -> None:
    def table(chosen: Rows) -> Table:
        columns = {}
        for i, name in enumerate(COLUMNS):
            columns[name] = np.empty(len(chosen), dtype=object)
            for place, row in enumerate(chosen):
                columns[name][place] = row[i]
        return Table(columns, len(chosen))

    together = outcomes(table(rows))
    assert outcomes(table(rows[1:])) == together[1:]
    assert outcomes(table(rows[:1])) == together[:1]


IDX = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@pytest.mark.parametrize("code", IDX)
@INDEPENDENT
@given(data=st.data())
def test_images_and_labels_of_idx(code: int, data: st.DataObject) -> None:
    kind = np.dtype(IDX[code])
    if kind.kind == "f":
        value = floats(8 * kind.itemsize)
    else:
        value = integers(8 * kind.itemsize, signed=kind.kind == "i")
    features = {"image": {"type": "image", "shape": [1, 2], "bounds": [0, 2]}}
    label = {"column": "label", "classes": ["0", "1", "0.1"]}
    schema = dataset(features=features, label=label, split=HASH)

    def result(rows: Rows) -> list[tuple[Any, ...]]:
        values = np.array(rows, kind).reshape(len(rows), 3)
        with tempfile.TemporaryDirectory() as place:
            for name, array in (("i", values[:, None, :2]), ("l", values[:, 2])):
                head = struct.pack(">HBB", 0, code, array.ndim)
                head += struct.pack(f">{array.ndim}I", *array.shape)
                (Path(place) / name).write_bytes(head + np.ascontiguousarray(array).tobytes())
            config = silo({"kind": "idx", "images": "i", "labels": "l"}, Path(place))
            table = read(config.sources["d"], schema.columns)
        mapped = map_rows(schema, table)
        test = in_part(schema, table, mapped, "test")
        return [
            (f.tobytes(), label, kept, side)
            for f, label, kept, side in zip(
                mapped.features, mapped.labels, mapped.keep, test, strict=True
            )
        ]

    rows = data.draw(st.lists(st.tuples(value, value, value), min_size=2, max_size=4))
    assert result(rows)[:-1] == result(rows[:-1])
    assert result(rows)[1:] == result(rows[1:])


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32()])
def test_a_null_beside_short_floats_leaves_their_text(kind: pa.DataType) -> None:
    """0.1 in 32 bits is "0.1" whether or not some row has none."""
    values = [np.float16(v) if kind == pa.float16() else v for v in (0.1, 0.2)]
    rows = [(v,) * 5 for v in values]
    alone = of_rows(of_parquet(kind), rows)
    assert of_rows(of_parquet(kind), [*rows, (None,) * 5])[:2] == alone
    one_hot = np.frombuffer(alone[0][0], dtype=np.float32)[1:]
    np.testing.assert_array_equal(one_hot, [1, *[0] * len(WORDS)])


PEOPLE = {
    "text": (["17", "017", "1.7e1", "17.0", "TRUE", "true"], 6),
    "blanks": (["17", " 17 ", "\t17"], 1),
    "whole numbers": ([2**60 + i for i in range(4)], 4),
    "decimals": ([Decimal("17"), Decimal("17.00"), Decimal("1.7E+1"), Decimal("17.5")], 2),
    "floats": ([17.0, 17, np.float32(17), np.float16(17), np.int8(17), 17.5, -0.0, 0], 3),
    "bytes that are no text": ([b"\xe8", b"\xe9", b"e"], 3),
    "nobody": ([None, "", " ", "nan", float("nan"), np.float32("nan"), float("inf"), 2.0**53,
                np.float32(2.0**24), Decimal("NaN"), np.datetime64("NaT"), 10**5000], 0),
}  # fmt: skip


@pytest.mark.parametrize("name", PEOPLE)
def test_two_people_are_never_one(name: str) -> None:
    values, people = PEOPLE[name]
    columns = {c: np.full(len(values), "1", dtype=object) for c in COLUMNS}
    for row, value in enumerate(values):
        columns["p"][row] = value
    mapped = map_rows(SCHEMAS[1], Table(columns, len(values)))
    assert mapped.subjects is not None
    assert len(set(mapped.subjects) - {None}) == people
    np.testing.assert_array_equal(mapped.keep, [s is not None for s in mapped.subjects])


@pytest.mark.parametrize("null", [False, True])
def test_the_same_person_in_every_kind_of_source(null: bool) -> None:
    """17 is 17 from text, databases, integers, and integers that a null turned into floats."""
    ids = [17, 2**53 - 1, *([None] if null else [])]
    forms: list[tuple[Write, list[Any]]] = [
        (of_csv, ["" if i is None else str(i) for i in ids]),
        (of_sqlite("integer"), ids),
        (of_sqlite("text"), [None if i is None else str(i) for i in ids]),
        (of_sqlite("real"), ids),
        (of_parquet(pa.int64()), ids),
        (of_parquet(pa.float64()), ids),
        (of_parquet(pa.decimal128(20, 4)), [None if i is None else Decimal(i) for i in ids]),
        (of_parquet(pa.string()), [None if i is None else str(i) for i in ids]),
        (of_npz("f8"), [np.nan if i is None else i for i in ids]),
    ]
    for write, values in forms:
        rows = [("1", "1", "1", v, "1") for v in values]
        if write not in (of_csv,):
            rows = [(v,) * 5 for v in values]
        people = [outcome[11] for outcome in of_rows(write, rows)]
        assert people == ["17", str(2**53 - 1), None][: len(ids)]
