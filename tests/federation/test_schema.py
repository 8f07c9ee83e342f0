from __future__ import annotations

from typing import Any

import pytest

from federation.documents import parse
from federation.errors import BadInput
from federation.schema import Dataset, canonical_text


def schema(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": "d",
        "features": {
            "age": {"type": "number", "bounds": [20, 90]},
            "cp": {"type": "category", "values": [1, 2, 3], "unknown": "slot"},
            "sex": {"type": "category", "values": ["f", "m"]},
        },
        "label": {"column": "num", "positive_above": 0},
        "split": {"by": "hash", "salt": "s", "test_fraction": 0.25},
    }
    return base | changes


def test_inputs_are_one_position_per_number_and_per_category() -> None:
    dataset = parse(schema(), Dataset, "d")
    assert dataset.input_names == ("age", "cp=1", "cp=2", "cp=3", "cp=?", "sex=f", "sex=m")
    assert dataset.input_shape == (7,)
    assert dataset.n_classes == 2
    assert dataset.class_names == ("num <= 0", "num > 0")
    assert dataset.columns == ("age", "cp", "sex", "num")


def test_an_image_is_channels_height_width() -> None:
    label = {"column": "y", "classes": list(range(10))}
    for shape, expected in (([8, 8], (1, 8, 8)), ([3, 4, 5], (3, 4, 5))):
        features = {"x": {"type": "image", "shape": shape}}
        dataset = parse(schema(features=features, label=label), Dataset, "d")
        assert dataset.input_shape == expected
        assert dataset.n_classes == 10


@pytest.mark.parametrize(
    ("changes", "field", "word"),
    [
        ({"features": {"a": {"type": "number", "bounds": [2, 1]}}}, "features.a", "reversed"),
        ({"features": {"a": {"type": "number", "bounds": [1, 1]}}}, "features.a", "reversed"),
        (
            {"features": {"a": {"type": "number", "bounds": [0, float("nan")]}}},
            "features.a.bounds.1",
            "finite",
        ),
        (
            {"features": {"a": {"type": "number", "bounds": [-1.7e308, 1.7e308]}}},
            "features.a",
            "too far apart",
        ),
        (
            {"features": {"a": {"type": "number", "bounds": [0, 1], "missing": 2}}},
            "features.a",
            "outside bounds",
        ),
        ({"features": {"a": {"type": "number", "bounds": None}}}, "features.a.bounds", "declared"),
        ({"features": {"a": {"type": "nubmer"}}}, "features.a", "'number'"),
        (
            {"features": {"a": {"type": "category", "values": ["x", " x "]}}},
            "features.a.values",
            "twice",
        ),
        (
            {"features": {"a": {"type": "category", "values": [1, "01"]}}},
            "features.a.values",
            "twice",
        ),
        (
            {"features": {"a": {"type": "category", "values": [True, False]}}},
            "features.a.values",
            "in quotes",
        ),
        (
            {"features": {"a": {"type": "category", "values": ["x", ""]}}},
            "features.a.values",
            "empty",
        ),
        (
            {"features": {"a": {"type": "category", "values": ["x", "y"], "missing": "z"}}},
            "features.a",
            "not among the values",
        ),
        ({"features": {}}, "features", "at least 1"),
        ({"label": {"column": "num"}}, "label", "exactly one"),
        ({"label": {"column": "num", "classes": ["a"]}}, "label.classes", "at least 2"),
        (
            {"label": {"column": "num", "classes": ["a", "b"], "positive_above": 0}},
            "label",
            "exactly one",
        ),
        ({"label": {"column": "age", "positive_above": 0}}, "document", "cannot be a feature"),
        ({"subject": {"column": "num", "max_rows": 2}}, "document", "label and subject"),
        ({"subject": {"column": "p", "max_rows": 0}}, "subject.max_rows", "greater"),
        (
            {"split": {"by": "hash", "salt": "s", "test_fraction": 1.0}},
            "split.test_fraction",
            "less than 1",
        ),
        (
            {"split": {"by": "column", "column": "set", "train": "a", "test": "a"}},
            "split",
            "same value",
        ),
        (
            {"split": {"by": "column", "column": "num", "train": "a", "test": "b"}},
            "document",
            "split column",
        ),
        ({"name": "Bad Name"}, "name", "lower-case letters"),
    ],
)
def test_a_schema_that_makes_no_sense_is_refused(
    changes: dict[str, Any], field: str, word: str
) -> None:
    with pytest.raises(BadInput) as caught:
        parse(schema(**changes), Dataset, "d.yaml")
    assert caught.value.field == field
    assert word in caught.value.message


@pytest.mark.parametrize("bounds", [[1, 0], [0, 1e10], [1e6, 1e6 + 0.5], [0, float("inf")]])
def test_bounds_of_an_image(bounds: list[float]) -> None:
    features = {"x": {"type": "image", "shape": [8, 8], "bounds": bounds}}
    with pytest.raises(BadInput) as caught:
        parse(schema(features=features), Dataset, "d")
    assert caught.value.field in ("features.x", "features.x.bounds.1")


def test_an_image_stands_alone() -> None:
    features = {
        "x": {"type": "image", "shape": [8, 8]},
        "age": {"type": "number", "bounds": [0, 1]},
    }
    with pytest.raises(BadInput, match="no other feature"):
        parse(schema(features=features), Dataset, "d")


def test_the_digest_knows_the_order_of_features_and_every_constant() -> None:
    base = parse(schema(), Dataset, "d")
    assert base.digest() == parse(base.model_dump(mode="json"), Dataset, "d").digest()
    turned = dict(reversed(list(schema()["features"].items())))
    wider = schema()["features"] | {"age": {"type": "number", "bounds": [20, 91]}}
    digests = {
        base.digest(),
        parse(schema(features=turned), Dataset, "d").digest(),
        parse(schema(features=wider), Dataset, "d").digest(),
        parse(schema(label={"column": "num", "positive_above": 1}), Dataset, "d").digest(),
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        (float("nan"), None),
        ("NaN", None),
        (1, "1"),
        (1.0, "1"),
        ("1.0", "1"),
        ("01", "1"),
        (" a ", "a"),
        (b"a", "a"),
        (b"\xff", "\ufffd"),
        (True, "true"),
        ("TRUE", "true"),
        (0.5, "0.5"),
        ("5e-1", "0.5"),
        (-0.0, "0"),
        ("inf", "inf"),
        (2**60, str(2**60)),
        (2**60 + 1, str(2**60 + 1)),
        ("+-1", "+-1"),
        pytest.param(10**5000, None, id="digits beyond writing"),
    ],
)
def test_one_text_for_one_value(value: object, text: str | None) -> None:
    assert canonical_text(value) == text
