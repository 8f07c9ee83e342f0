from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from federation import plain_yaml
from federation.documents import load_yaml, parse
from federation.errors import BadInput, NotFound
from federation.schema import Dataset
from federation.settings import SiloConfig
from federation.spec import Block, PrivacySpec


class Leaf(Block):
    depth: Annotated[int, Field(gt=0)] = 1


class Tree(Block):
    name: str
    mode: Literal["plain", "masked"] = "plain"
    leaves: dict[str, Leaf] = Field(default_factory=dict)
    more: tuple[Leaf, ...] = ()
    best: Leaf | None = None


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        ({"nam": "x"}, "nam", ["did you mean 'name'"]),
        ({"name": "x", "best": {"dept": 2}}, "best.dept", ["did you mean 'depth'"]),
        ({"name": "x", "leaves": {"a": {"deepth": 2}}}, "leaves.a.deepth", ["'depth'"]),
        ({"name": "x", "more": [{}, {"zzz": 2}]}, "more.1.zzz", ["known here: depth"]),
        ({"name": "x", "more": [{}, {"depth": 0}]}, "more.1.depth", ["greater than 0", "0"]),
        ({"name": "x", "mode": "bfv"}, "mode", ["'plain' or 'masked'", "bfv"]),
        ({}, "name", ["required"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    data: dict[str, object], field: str, words: list[str]
) -> None:
    with pytest.raises(BadInput) as caught:
        parse(data, Tree, "tree.yaml")
    assert caught.value.field == field
    assert caught.value.message.startswith(f"tree.yaml: {field}: ")
    assert all(word in caught.value.message for word in words), caught.value.message
    assert caught.value.exit_code == 2


SILO = {
    "name": "north",
    "sources": {"d": {"kind": "csv", "datasets": ["d"], "path": "d.csv"}},
    "accounts": [{"source": "d", "epsilon": 1, "delta": 1e-5}],
}
TABLE = {
    "name": "d",
    "features": {"age": {"type": "number", "bounds": [0, 1]}},
    "label": {"column": "y", "classes": ["a", "b"]},
    "split": {"by": "files"},
}


@pytest.mark.parametrize(
    ("model", "data", "field", "words"),
    [
        (
            SiloConfig,
            SILO | {"policy": {"kinds": "train"}},
            "policy.kinds",
            "list, such as [train]",
        ),
        (SiloConfig, SILO | {"accounts": {}}, "accounts", "write a list, such as [{source: ...}]"),
        (SiloConfig, SILO | {"sources": ["d"]}, "sources", "write a mapping, such as {NAME: ...}"),
        (SiloConfig, SILO | {"sources": {"d": "d.csv"}}, "sources.d", "such as {kind: ...}"),
        (SiloConfig, SILO | {"sources": {"d": {"path": "x"}}}, "sources.d", "field kind is not"),
        (SiloConfig, SILO | {"sources": {"d": {"kind": "cvs"}}}, "sources.d", "'cvs' is none of"),
        (SiloConfig, SILO | {"name": "North"}, "name", "lower-case letters, digits, dot, dash"),
        (SiloConfig, SILO | {"name": 5}, "name", "write a text (here: 5)"),
        (SiloConfig, SILO | {"key": 5}, "key", "write a path, which is a text (here: 5)"),
        (SiloConfig, SILO | {"policy": {"kinds": []}}, "policy.kinds", "at least 1 entry; here: 0"),
        (SiloConfig, SILO | {"policy": {"queries": 1.5}}, "policy.queries", "a whole number"),
        (SiloConfig, SILO | {"isolation": "docker"}, "isolation", "a mapping, such as {kind: ...}"),
        (Dataset, TABLE | {"label": "y"}, "label", "write a mapping, such as {column: ...}"),
        (Dataset, TABLE | {"name": "Heart"}, "name", "a letter or digit first; at most 63 char"),
        (Tree, {"name": "x", "more": 3}, "more", "write a list, such as [3]"),
        (Tree, {"name": "x", "best": "y"}, "best", "write a mapping, such as {depth: ...}"),
    ],
)
def test_messages_are_in_words_of_the_document(
    model: type[Block], data: dict[str, object], field: str, words: str
) -> None:
    with pytest.raises(BadInput) as caught:
        parse(data, model, "d.yaml")
    message = caught.value.message
    assert caught.value.field == field and words in message and caught.value.allowed
    for internal in ("tuple", "dictionar", "instance of", "pattern", "tag", "pathlib", "^["):
        assert internal not in message


def test_further_problems_are_counted_as_people_count() -> None:
    for data, told in (
        ({"mode": "x"}, "(1 further problem)"),
        ({"mode": "x", "more": 3}, "(2 further problems)"),
        ({"mode": "x", "name": "y"}, "'plain' or 'masked' (here: 'x')"),
    ):
        with pytest.raises(BadInput) as caught:
            parse(data, Tree, "tree.yaml")
        assert caught.value.message.endswith(told)


def test_a_tag_of_a_union_is_not_part_of_the_place() -> None:
    data = {
        "name": "d",
        "features": {"age": {"type": "number", "bound": [0, 1], "bounds": [0, 1]}},
        "label": {"column": "y", "classes": ["a", "b"]},
        "split": {"by": "files"},
    }
    with pytest.raises(BadInput) as caught:
        parse(data, Dataset, "d.yaml")
    assert caught.value.field == "features.age.bound"
    assert "did you mean 'bounds'" in caught.value.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_number_that_makes_no_sense_is_refused_with_its_value(value: float) -> None:
    with pytest.raises(BadInput) as caught:
        parse({"epsilon": value}, PrivacySpec, "job.yaml")
    assert caught.value.field == "epsilon"


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "sql", "url": ["postgresql://u:hunter2@h/d"], "table": "t"},
        {"kind": "sql", "url": "postgresql://u:hunter2@h/d", "tabel": "hunter2"},
        {"kind": "sql", "url": "postgresql://u:hunter2@h/d"},
        {"kind": "sql", "url": "postgresql://u:hunter2@h/d", "table": "t", "ulr": "hunter2"},
    ],
)
def test_credentials_are_never_in_a_message(source: dict[str, object]) -> None:
    data = {
        "name": "north",
        "sources": {"d": {"datasets": ["d"], **source}},
        "accounts": [{"source": "d", "epsilon": 1, "delta": 1e-5}],
    }
    with pytest.raises(BadInput) as caught:
        parse(data, SiloConfig, "silo.yaml")
    assert "hunter2" not in f"{caught.value.message}{caught.value.value}{caught.value.allowed}"


def test_credentials_are_not_in_the_repr_of_settings() -> None:
    config = parse(
        {
            "name": "north",
            "ledger": "postgresql://u:hunter2@h/l",
            "sources": {
                "d": {"datasets": ["d"], "kind": "sql", "url": "x://u:hunter2@h", "table": "t"}
            },
            "accounts": [{"source": "d", "epsilon": 1, "delta": 1e-5}],
        },
        SiloConfig,
        "silo.yaml",
    )
    assert "hunter2" not in repr(config) + config.model_dump_json()
    assert config.ledger_url == "postgresql://u:hunter2@h/l"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: [x", ": not a YAML document"),
        ("name: x: y", "line 1: not a YAML document"),
        ("name: x\n---\nname: y", "line 2: a second document"),
        ("name: \x00", "not a YAML document"),
        ("name: x\nname: y", "line 2: 'name' stands here twice"),
        ("more:\n- {depth: 1, depth: 2}\nname: x", "'depth' stands here twice"),
        ("- a\n- b", "expected a mapping of fields, found a list"),
        ("", "found nothing"),
        ("name: !!python/object/apply:os.getcwd []", "line 1: tags"),
        ("name: !!int ''", "line 1: tags"),
        ("a: &a [*a]", "line 1: anchors and aliases"),
        ("&a {name: x, best: *a}", "line 1: anchors and aliases"),
        ("name: x\nbest:\n  <<: *a", "line 3: anchors and aliases"),
        ("? &a name\n: x", "line 1: anchors and aliases"),
        ("a: " + "[" * 3000 + "]" * 3000, "more than 50 mappings and lists"),
        ("- " * 3000, "more than 50 mappings and lists"),
        ("? [name]\n: x", "a key is a text"),
        ("name: " + "1" * 5000, "a number of more than 400 digits"),
        ('name: "\\ud800"', "not a"),
        ("# " + "x" * 2**20, "more than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_document(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"tree\.yaml") as caught:
        load_yaml(path, Tree)
    assert word in caught.value.message


def test_a_document_that_stands_for_gigabytes_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "laughs.yaml").write_text("\n".join(lines))
    begun = time.monotonic()
    with pytest.raises(BadInput, match="anchors"):
        load_yaml(tmp_path / "laughs.yaml", Tree)
    assert time.monotonic() - begun < 1


PLAIN: list[tuple[str, Any]] = [
    ("1", 1), ("-0", 0), ("+7", 7), ("1e-5", 1e-5), ("1E5", 1e5), ("1.0e5", 1e5), (".5", 0.5),
    ("5.", 5.0), (".inf", float("inf")), ("-.Inf", float("-inf")), ("~", None), ("", None),
    ("Null", None), ("yes", True), ("OFF", False), ("'1'", "1"), ('"yes"', "yes"),
    ("010", "010"), ("0x10", "0x10"), ("1_000", "1_000"), ("12:30", "12:30"),
    ("2024-01-01", "2024-01-01"), ("2020-13-45", "2020-13-45"), (".", "."), ("1e", "1e"),
    ("|\n  a\n  b", "a\nb"), ("[a, {b: no}]", ["a", {"b": False}]), ("1e400", float("inf")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), PLAIN)
def test_what_a_scalar_is(text: str, value: Any) -> None:
    (found,) = plain_yaml.load(f"x: {text}").values()
    assert found == value and type(found) is type(value)


def test_keys_are_text() -> None:
    assert plain_yaml.load("{1: a, on: b, null: c, 1.0: d}") == {
        "1": "a", "on": "b", "null": "c", "1.0": "d",
    }  # fmt: skip
    with pytest.raises(plain_yaml.NotPlain, match="'1' stands here twice"):
        plain_yaml.load("{1: a, '1': b}")


PRINTED = st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp"))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(allow_nan=False),
    st.text(PRINTED, max_size=6),
    st.from_regex(r"[-+]?[0-9._:]{0,4}([eE][-+]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from([text for text, _ in PLAIN]),
)  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(PRINTED, max_size=4),
                       st.one_of(scalars, st.lists(scalars, max_size=3))))  # fmt: skip
def test_what_is_written_is_read_back(data: dict[str, Any]) -> None:
    text = yaml.dump(data, Dumper=plain_yaml.Dumper)
    assert plain_yaml.load(text) == data


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=40) | st.text("[]{}&*!?:-,#|>'\"% \n1ae.", max_size=40))
def test_no_text_at_all_gives_another_error(text: str) -> None:
    with contextlib.suppress(plain_yaml.NotPlain):
        plain_yaml.load(text)


def test_a_list_that_is_used_twice_is_written_out() -> None:
    shared = ["a", "b"]
    text = yaml.dump({"x": shared, "y": shared}, Dumper=plain_yaml.Dumper)
    assert plain_yaml.load(text) == {"x": shared, "y": shared}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        load_yaml(tmp_path / "none.yaml", Tree)
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read as text"):
        load_yaml(path, Tree)
