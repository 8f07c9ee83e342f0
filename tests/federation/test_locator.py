"""Sources in one word and files cut at another character: what is said to whoever gave them."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.draft import draft_schema
from federation.errors import BadInput
from federation.settings import CsvSource
from federation.sources.locator import FORMS, file_source, locate
from federation.sources.table import check_columns


@pytest.mark.parametrize("word", ["rows.xls", "rows", "rows.csv.gz"])
def test_a_file_of_no_known_kind_is_told_the_forms(word: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no known kind of file") as caught:
        locate(word, "d", tmp_path)
    assert FORMS in caught.value.message and "FILE.parquet" in FORMS
    assert caught.value.allowed == FORMS


@pytest.mark.parametrize(
    ("header", "cut", "there", "said"),
    [
        ("age;sick", ",", "';'", 'delimiter: ";"'),
        ("age\tsick", ",", "'\\t'", 'delimiter: "\\t"'),
        ("age,sick", ";", "','", 'delimiter: ","'),
    ],
)
def test_a_header_cut_at_nothing_says_at_what_it_was_cut(
    header: str, cut: str, there: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\n1{header[3]}0\n")
    source = CsvSource(datasets=("d",), path=path, delimiter=cut)
    with pytest.raises(BadInput, match="no column 'age'") as caught:
        check_columns(source, ["age"])
    assert caught.value.field == "column"
    for word in (f"cut at {cut!r}", f"with {there} in it", said, "silo.yaml"):
        assert word in caught.value.message, word


@pytest.mark.parametrize(("name", "text"), [("r.csv", "age;sick,x\n"), ("r.csv", "age\n")])
def test_other_headers_give_no_such_hint(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match="no column 'sick'") as caught:
        check_columns(file_source(tmp_path / name, "d"), ["sick"])
    assert "cut at" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "header", "cut"),
    [
        ("r.csv", "age,sick", ","),
        ("r.csv", "age;sick", ";"),
        ("r.txt", "age|sick", "|"),
        ("r.tsv", "age\tsick", "\t"),
        ("r.csv", '"age;old",sick', ","),  # quoted, so no cut
        ("r.csv", "age;sick,x", ","),
        ("r.csv", '"age;old"', ","),
        ("r.csv", "age", ","),
        ("r.csv", "", ","),
        ("r.csv", "age;age", ","),  # no table of any kind: its owner is told later
    ],
)
def test_a_file_is_cut_as_its_header_line_is(
    name: str, header: str, cut: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(f"{header}\n1;0,5\n")
    source = file_source(tmp_path / name, "d")
    assert isinstance(source, CsvSource) and source.delimiter == cut


def test_a_file_that_is_not_there_yet_is_taken_to_be_cut_at_commas(tmp_path: Path) -> None:
    source = file_source(tmp_path / "later.csv", "d")
    assert isinstance(source, CsvSource) and source.delimiter == ","


def test_a_draft_is_made_of_a_file_cut_at_semicolons(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("age;sick\n1;0\n")
    assert "  age:" in draft_schema(tmp_path / "r.csv") and "  sick:" in draft_schema(
        tmp_path / "r.csv"
    )
