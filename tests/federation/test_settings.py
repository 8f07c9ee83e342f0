from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from federation.documents import parse
from federation.errors import BadInput, Missing, NotFound
from federation.settings import Federation, SiloConfig, Sizes
from federation.sources.table import columns
from privacy.events import Unit

SCHEMA: dict[str, Any] = {
    "features": {"age": {"type": "number", "bounds": [0, 1]}},
    "label": {"column": "y", "positive_above": 0},
    "split": {"by": "files"},
}


def facts(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": "fed",
        "coordinator": "00" * 32,
        "datasets": {"d": SCHEMA},
        "silos": {
            name: {"public_key": key * 64, "sizes": {"d": {"train": 100, "test": 20}}}
            for name, key in (("south", "1"), ("north", "2"))
        },
    }
    return base | changes


def private(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": "north",
        "sources": {"rows": {"datasets": ["d", "e"], "kind": "csv", "path": "r.csv"}},
        "accounts": [{"source": "rows", "epsilon": 10, "delta": 1e-5}],
    }
    return base | changes


def test_public_facts() -> None:
    federation = parse(facts(), Federation, "federation.yaml")
    assert federation.silos_with("d") == ("north", "south")
    assert federation.dataset("d").name == "d"
    with pytest.raises(NotFound, match="no data set 'x'"):
        federation.dataset("x")
    assert federation.digest() == parse(facts(), Federation, "f").digest()


def test_sizes_count_units() -> None:
    sizes = Sizes(train=100, test=20, subjects=30)
    assert [sizes.units(unit) for unit in Unit] == [100, 30, 1]
    with pytest.raises(BadInput, match="no subject column") as caught:
        Sizes(train=100, test=20).units(Unit.SUBJECT)
    assert caught.value.field == "privacy.unit"


def _sizes(**sizes: Any) -> dict[str, Any]:
    return facts(silos={"north": {"public_key": "1" * 64, "sizes": {"d": sizes}}})


@pytest.mark.parametrize(
    ("data", "field", "word"),
    [
        (_sizes(train=0, test=1), "silos.north.sizes.d", "all are 0 for a silo without rows"),
        (_sizes(train=-1, test=1), "silos.north.sizes.d.train", "greater than or equal to 0"),
        (_sizes(train=10.5, test=1), "silos.north.sizes.d.train", "whole number"),
        (_sizes(test=1), "silos.north.sizes.d.train", "required"),
        (facts(coordinator="1" * 64), "document", "same public key"),
        (facts(coordinator="xyz"), "coordinator", "64 hexadecimal digits"),
        (facts(max_silos_per_subject=3), "document", "number of silos"),
        (facts(datasets={}), "datasets", "at least 1"),
        (facts(datasets={"d": SCHEMA | {"name": "e"}}), "document", "calls itself"),
        (facts(datasets={"e": SCHEMA}), "document", "unknown data set"),
        (
            facts(datasets={"d": SCHEMA | {"subject": {"column": "p", "max_rows": 1}}}),
            "document",
            "number of subjects",
        ),
        (facts(silos={"No Name": {}}), "silos.No Name", "lower-case letters"),
        (facts(colour="red"), "colour", "unknown field"),
    ],
)
def test_public_facts_that_make_no_sense(data: dict[str, Any], field: str, word: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(data, Federation, "federation.yaml")
    assert caught.value.field == field
    assert word in caught.value.message


@pytest.mark.parametrize(
    ("data", "field", "word"),
    [
        (private(accounts=[]), "accounts", "at least 1"),
        (
            private(accounts=[{"source": "rows", "epsilon": 0, "delta": 1e-5}]),
            "accounts.0.epsilon",
            "greater than 0",
        ),
        (
            private(accounts=[{"source": "rows", "epsilon": 1, "delta": 1}]),
            "accounts.0.delta",
            "less than 1",
        ),
        (
            private(accounts=[{"source": "x", "epsilon": 1, "delta": 1e-5}]),
            "document",
            "unknown source 'x'",
        ),
        (
            private(accounts=[{"source": "rows", "epsilon": 1, "delta": 1e-5}] * 2),
            "document",
            "two accounts",
        ),
        (
            private(sources=private()["sources"] | {"more": private()["sources"]["rows"]}),
            "document",
            "both serve",
        ),
        (private(policy={"exact": True}), "policy.exact", "unknown field"),
        (private(sources={"rows": {"kind": "xls"}}), "sources.rows", "'xls'"),
        (
            private(sources={"rows": {"kind": "csv", "datasets": ["d"], "paht": "x"}}),
            "sources.rows.paht",
            "did you mean 'path'",
        ),
    ],
)
def test_private_settings_that_make_no_sense(data: dict[str, Any], field: str, word: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(data, SiloConfig, "silo.yaml")
    assert caught.value.field == field
    assert word in caught.value.message


def test_a_source_without_an_account_is_refused() -> None:
    sources = private()["sources"] | {"more": {"datasets": ["f"], "kind": "csv", "path": "m.csv"}}
    with pytest.raises(BadInput, match="'more' has no account"):
        parse(private(sources=sources), SiloConfig, "silo.yaml")


def test_a_source_serves_its_data_sets() -> None:
    config = parse(private(), SiloConfig, "silo.yaml")
    assert config.source_of("e") == "rows"
    with pytest.raises(NotFound, match="serves data set 'z'"):
        config.source_of("z")
    assert not config.policy.exact_evaluation
    assert not config.policy.no_privacy


def _two(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    sources = {"s": {"datasets": ["d"], **first}, "t": {"datasets": ["e"], **second}}
    accounts = [{"source": name, "epsilon": 1, "delta": 1e-5} for name in sources]
    return private(sources=sources, accounts=accounts)


def _csv(path: object, **more: Any) -> dict[str, Any]:
    return {"kind": "csv", "path": str(path), **more}


def _sql(url: str, **more: Any) -> dict[str, Any]:
    return {"kind": "sql", "url": url, **more}


PG = "postgresql+psycopg://ann:hunter2@db.north.example/rows"
SAME: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (_csv("r.csv"), _csv("r.csv"), "path"),
    (_csv("r.csv"), _csv("./a/../r.csv"), "path"),
    (_csv("r.csv"), {"kind": "parquet", "path": "r.csv"}, "path"),
    (_csv("r.csv"), _csv("t.csv", test="r.csv"), "test"),
    (_csv("a.csv", test="r.csv"), _csv("r.csv"), "path"),
    (
        {"kind": "idx", "images": "i", "labels": "l"},
        {"kind": "idx", "images": "i", "labels": "m"},
        "images",
    ),
    (_sql(PG, table="rows"), _sql(PG, table="rows"), "table"),
    (_sql(PG, table="rows"), _sql(PG, table="t", test_table="public.rows"), "test_table"),
    (
        _sql(PG, table="rows"),
        _sql("postgresql://bob:hunter3@DB.north.example:5432/rows", table="rows"),
        "table",
    ),
    (
        _sql(PG, query="SELECT * FROM rows WHERE x"),
        _sql(PG, query="SELECT *\n  FROM rows WHERE x;"),
        "query",
    ),
    (_sql("sqlite:////r.db", table="rows"), _sql("sqlite:////a/../r.db", table="ROWS"), "table"),
]


@pytest.mark.parametrize(("first", "second", "field"), SAME)
def test_rows_have_one_source(first: dict[str, Any], second: dict[str, Any], field: str) -> None:
    """Two sources are two budgets: over the same rows, each would be spent in full."""
    with pytest.raises(BadInput) as caught:
        parse(_two(first, second), SiloConfig, "silo.yaml")
    assert caught.value.field == f"sources.t.{field}"
    assert "source 's'" in caught.value.message and "source 't'" in caught.value.message
    assert "hunter" not in caught.value.message


def test_a_source_has_its_own_test_part() -> None:
    with pytest.raises(BadInput, match="path and test of source 's'") as caught:
        parse(_two(_csv("r.csv", test="r.csv"), _csv("t.csv")), SiloConfig, "silo.yaml")
    assert caught.value.field == "sources.s.test"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_csv("r.csv"), _csv("a/r.csv", test="t.csv")),
        (_sql(PG, table="a"), _sql(PG, table="b", test_table="c")),
        (_sql(PG, table="rows"), _sql(PG.replace("/rows", "/other"), table="rows")),
        (_sql(PG, table="rows"), _sql(PG.replace("north", "south"), table="rows")),
        (_sql(PG, table="Rows"), _sql(PG, table="rows")),  # two tables to PostgreSQL
        (_sql("sqlite:///a.db", table="t"), _sql("sqlite:///b.db", table="t")),
        (_sql("nonsense", table="t"), _sql("http://[", table="t")),
    ],
)
def test_rows_apart_are_two_sources(first: dict[str, Any], second: dict[str, Any]) -> None:
    parse(_two(first, second), SiloConfig, "silo.yaml").anchored(Path("/nowhere"))


@pytest.mark.parametrize("link", ["symlink", "hardlink", "folder"])
def test_links_lead_to_the_same_rows(link: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "r.csv").write_text("x\n")
    other = tmp_path / "b.csv"
    if link == "symlink":
        other.symlink_to("a/r.csv")
    elif link == "hardlink":
        other.hardlink_to(tmp_path / "a" / "r.csv")
    else:
        (tmp_path / "b").symlink_to("a")
        other = tmp_path / "b" / "r.csv"
    config = parse(_two(_csv("a/r.csv"), _csv(other)), SiloConfig, "silo.yaml")
    with pytest.raises(BadInput, match="are the same rows") as caught:
        config.anchored(tmp_path)
    assert caught.value.field == "sources.t.path"


@pytest.mark.parametrize("path", ["~nobody-here/r.csv", "r\x00.csv", "x" * 5000])
def test_paths_that_cannot_be_are_bad_input(path: str, tmp_path: Path) -> None:
    config = parse(_two(_csv(path), _csv("t.csv")), SiloConfig, "silo.yaml")
    with pytest.raises((BadInput, Missing)):
        columns(config.anchored(tmp_path).sources["s"])


@pytest.mark.parametrize("delimiter", ['"', "\n", "\r", "", ",,", True])
def test_delimiters_that_cannot_be(delimiter: Any) -> None:
    with pytest.raises(BadInput) as caught:
        parse(_two(_csv("r.csv", delimiter=delimiter), _csv("t.csv")), SiloConfig, "silo.yaml")
    assert caught.value.field == "sources.s.delimiter"
