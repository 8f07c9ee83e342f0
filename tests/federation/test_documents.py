from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

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
        ({"name": "x", "mode": "ckks"}, "mode", ["'plain' or 'masked'", "ckks"]),
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
        ("name: [x", "not a YAML document at line 1"),
        ("name: x\nname: y", "line 2: 'name' stands here twice"),
        ("more:\n- {depth: 1, depth: 2}\nname: x", "'depth' stands here twice"),
        ("- a\n- b", "expected a mapping of fields, found a list"),
        ("", "found nothing"),
        ("name: !!python/object/apply:os.getcwd []", "not a YAML document"),
    ],
)
def test_a_file_that_is_no_document(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"tree\.yaml") as caught:
        load_yaml(path, Tree)
    assert word in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        load_yaml(tmp_path / "none.yaml", Tree)
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read as text"):
        load_yaml(path, Tree)
