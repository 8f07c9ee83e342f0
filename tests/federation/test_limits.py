"""Every number of every document has bounds, and only a number is a number."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from pydantic import BaseModel

from federation import limits
from federation.documents import parse
from federation.errors import BadInput
from federation.membership import Membership
from federation.policy import Policy
from federation.schema import Dataset
from federation.settings import Federation, SiloConfig
from federation.spec import digest
from federation.training.specs import Spec

JOB: dict[str, Any] = {
    "kind": "train",
    "name": "j",
    "dataset": "d",
    "model": {"name": "mlp"},
    "strategy": {"rounds": 3, "local_steps": 2, "batch_size": 10, "learning_rate": 0.1},
    "privacy": {"epsilon": 1.0},
}
SCHEMA: dict[str, Any] = {
    "name": "d",
    "features": {"x": {"type": "number", "bounds": [0, 1]}},
    "label": {"column": "y", "positive_above": 0},
    "subject": {"column": "p", "max_rows": 2},
    "split": {"by": "hash", "salt": "s", "test_fraction": 0.25},
}
SILO: dict[str, Any] = {
    "name": "north",
    "sources": {"rows": {"datasets": ["d"], "kind": "csv", "path": "r.csv"}},
    "accounts": [{"source": "rows", "epsilon": 10, "delta": 1e-5}],
    "policy": {"exact_evaluation": False},
}
FACTS: dict[str, Any] = {
    "name": "fed",
    "coordinator": "0" * 64,
    "datasets": {"d": SCHEMA},
    "silos": {
        "north": {
            "public_key": "1" * 64,
            "sizes": {"d": {"train": 9, "test": 9, "subjects": 9}},
        }
    },
}
DOCUMENTS: dict[type[BaseModel], dict[str, Any]] = {
    Spec: JOB, Dataset: SCHEMA, SiloConfig: SILO, Federation: FACTS,
}  # fmt: skip

FIELDS: list[tuple[type[BaseModel], str, bool]] = [  # model, field, whether it is a whole number
    (Spec, "privacy.epsilon", False),
    (Spec, "privacy.noise_multiplier", False),
    (Spec, "privacy.delta", False),
    (Spec, "privacy.clip", False),
    (Spec, "evaluation.share", False),
    (Spec, "evaluation.bins", True),
    (Spec, "evaluation.every", True),
    (Spec, "evaluation.patience", True),
    (Spec, "strategy.rounds", True),
    (Spec, "strategy.local_steps", True),
    (Spec, "strategy.batch_size", True),
    (Spec, "strategy.learning_rate", False),
    (Spec, "strategy.server_learning_rate", False),
    (Spec, "strategy.proximal", False),
    (Spec, "strategy.momentum", False),
    (Spec, "strategy.tau", False),
    (Spec, "strategy.average", False),
    (Spec, "seed", True),
    (Dataset, "subject.max_rows", True),
    (Dataset, "split.test_fraction", False),
    (SiloConfig, "accounts.0.epsilon", False),
    (SiloConfig, "accounts.0.delta", False),
    (SiloConfig, "accounts.0.delta0", False),
    (Federation, "silos.north.sizes.d.train", True),
    (Federation, "silos.north.sizes.d.test", True),
    (Federation, "silos.north.sizes.d.subjects", True),
    (Federation, "max_silos_per_subject", True),
]


def changed(document: Any, path: str, value: Any) -> Any:
    first, _, rest = path.partition(".")
    if isinstance(document, list):
        at = int(first)
        return [*document[:at], changed(document[at], rest, value), *document[at + 1 :]]
    inner = changed(document.get(first, {}), rest, value) if rest else value
    return document | {first: inner}


def refused(model: type[BaseModel], path: str, value: Any) -> BadInput:
    with pytest.raises(BadInput) as caught:
        parse(changed(DOCUMENTS[model], path, value), model, "f.yaml")
    assert caught.value.field == path, caught.value.message
    assert caught.value.allowed is not None
    assert len(caught.value.message) < 300
    return caught.value


@pytest.mark.parametrize(("model", "path", "whole"), FIELDS, ids=[f"{f[1]}" for f in FIELDS])
def test_no_number_is_without_bounds(model: type[BaseModel], path: str, whole: bool) -> None:
    for value in (-1, 10**400, -(10**400), 1e308, float("nan"), float("inf"), [1], {}):
        refused(model, path, value)
    if not whole and not path.endswith(("average", "momentum", "delta0", "test_fraction")):
        refused(model, path, 1e-300)
        assert ">= " in str(refused(model, path, 5e-324).allowed)


@pytest.mark.parametrize(("model", "path", "whole"), FIELDS, ids=[f"{f[1]}" for f in FIELDS])
def test_truth_values_and_texts_are_no_numbers(
    model: type[BaseModel], path: str, whole: bool
) -> None:
    for value in (True, False, "1", "1.0", "0.5", "yes", ""):
        error = refused(model, path, value)
        assert error.value == value and type(error.value) is type(value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("features.x.bounds", [False, True]),
        ("features.x.bounds", [0, "1"]),
        ("features.x.missing", True),
        ("features.x.missing", "0.5"),
        ("label.positive_above", False),
        ("label.positive_above", "0"),
        ("features.x", {"type": "image", "shape": [True, 8]}),
        ("features.x", {"type": "image", "shape": [8, 8], "bounds": ["0", 1]}),
    ],
)
def test_nor_inside_lists(path: str, value: Any) -> None:
    with pytest.raises(BadInput) as caught:
        parse(changed(SCHEMA, path, value), Dataset, "d.yaml")
    assert caught.value.field is not None and caught.value.field.startswith(path)
    assert "write a number" in caught.value.message


@pytest.mark.parametrize("path", ["model.hidden", "model.channels"])
def test_widths_of_a_model(path: str) -> None:
    parse(changed(JOB, path, [1, 16_384]), Spec, "j")
    for value in ([0], [16_385], [True], ["8"], [8] * 17):
        with pytest.raises(BadInput) as caught:
            parse(changed(JOB, path, value), Spec, "j")
        assert str(caught.value.field).startswith(path)


def test_whole_numbers_may_be_written_with_a_point_and_numbers_without() -> None:
    spec = parse(changed(changed(JOB, "strategy.rounds", 3.0), "privacy.epsilon", 1), Spec, "j")
    assert spec.strategy.rounds == 3
    assert spec.privacy.epsilon == 1.0
    assert spec.digest() == parse(JOB, Spec, "j").digest()


@pytest.mark.parametrize("value", ["false", "no", 0, 1, "", [True]])
def test_a_policy_opens_by_a_truth_value_only(value: Any) -> None:
    for path in ("exact_evaluation", "no_privacy"):
        with pytest.raises(BadInput) as caught:
            parse({path: value}, Policy, "p")
        assert caught.value.field == path
    error = refused(Spec, "privacy.none", value)
    assert "true" in str(error.allowed)


def test_what_is_within_bounds_has_a_digest() -> None:
    for path, value in (
        ("seed", 2**53 - 1),
        ("strategy.batch_size", 10**9),
        ("strategy.learning_rate", 1e38),
        ("strategy.learning_rate", 1e-12),
        ("privacy.clip", 1e-6),
    ):
        assert len(parse(changed(JOB, path, value), Spec, "j").digest()) == 64
    assert "9007199254740991" in str(refused(Spec, "seed", 2**53).allowed)
    assert digest({"seed": 2**53 - 1})


def _numbers(model: type[BaseModel], seen: set[Any], where: str = "") -> typing.Iterator[str]:
    """The number fields, anywhere below a model, that nothing bounds on both sides."""
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        annotation: Any = field.annotation
        for leaf in limits._leaves(annotation):
            if isinstance(leaf, type) and issubclass(leaf, BaseModel):
                yield from _numbers(leaf, seen, f"{where}{name}.")
        words = f"{field.metadata}{annotation}"
        bounded = "Within" in words or (("Ge" in words or "Gt" in words) and "L" in words)
        if {int, float} & set(limits._leaves(annotation)) and not bounded:
            yield f"{where}{name}"


def test_a_new_number_has_bounds_too() -> None:
    """Those listed here are bounded otherwise: by arithmetic in their model, or by the signer."""
    found = {f"{m.__name__}.{n}" for m in (*DOCUMENTS, Policy, Membership)
             for n in _numbers(m, set())}  # fmt: skip
    values = {"bounds", "missing", "positive_above"}
    assert {name for name in found if name.rpartition(".")[2] not in values} == {
        "Membership.terms.version"
    }
