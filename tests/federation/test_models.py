"""Models by name: public seeds, shapes, refusals, and models of installed packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from federation.errors import BadInput, PolicyRefused
from federation.models import build_model, package_of
from federation.policy import Policy, check
from federation.training.specs import ModelSpec
from privacy.mechanisms.dp_sgd import check_model

TABLE, GREY, COLOUR = (13,), (28, 28), (3, 16, 16)


def build(
    name: str, shape: tuple[int, ...], classes: int = 4, seed: int = 1, **options: Any
) -> Any:
    spec = ModelSpec(name=name, **options).model_dump()
    return build_model(spec, shape, classes, seed=seed)


CASES = [
    ("logistic", TABLE),
    ("logistic", GREY),
    ("mlp", TABLE),
    ("mlp", COLOUR),
    ("cnn", GREY),
    ("cnn", COLOUR),
]


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_every_model_takes_rows_and_gives_one_logit_per_class(
    name: str, shape: tuple[int, ...], n: int
) -> None:
    model = build(name, shape)
    assert model(torch.randn(n, *shape)).shape == (n, 4)
    check_model(model)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_the_same_spec_and_seed_give_the_same_weights_everywhere(
    name: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(5)
    ours = build(name, shape).state_dict()
    torch.manual_seed(6)
    theirs = build(name, shape).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    other = build(name, shape, seed=2).state_dict()
    if name != "logistic":  # convex, it starts at zero
        assert not all(torch.equal(ours[key], other[key]) for key in ours)
    else:
        assert all(not value.any() for value in ours.values())


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build("mlp", TABLE)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"name": "logistic"}, 13 * 4 + 4),
        ({"name": "mlp", "hidden": [7]}, 13 * 7 + 7 + 7 * 4 + 4),
        ({"name": "mlp", "hidden": [7, 5]}, 13 * 7 + 7 + 7 * 5 + 5 + 5 * 4 + 4),
        ({"name": "mlp", "hidden": []}, 13 * 4 + 4),
    ],
)
def test_widths_are_those_of_the_spec(options: dict[str, Any], count: int) -> None:
    model = build(**options, shape=TABLE)
    assert sum(p.numel() for p in model.parameters()) == count


def test_a_cnn_has_the_channels_and_halvings_of_the_spec() -> None:
    model = build("cnn", (28, 28), channels=[5, 6])
    convolutions = 1 * 5 * 9 + 5 + 5 * 6 * 9 + 6
    assert sum(p.numel() for p in model.parameters()) == (
        convolutions + 6 * 7 * 7 * 32 + 32 + 32 * 4 + 4
    )


@pytest.mark.parametrize(
    ("activation", "kind"),
    [("tanh", "Tanh"), ("relu", "ReLU"), ("square", "Square"), ("quadratic", "Quadratic")],
)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_activation_is_the_one_asked_for(name: str, activation: str, kind: str) -> None:
    kinds = {type(m).__name__ for m in build(name, GREY, activation=activation).modules()}
    assert kinds & {"Tanh", "ReLU", "Square", "Quadratic"} == {kind}


def test_a_cnn_refuses_rows_that_are_no_images() -> None:
    with pytest.raises(BadInput, match="needs images") as caught:
        build("cnn", TABLE)
    assert caught.value.field == "model.name" and caught.value.allowed == ["logistic", "mlp"]


def test_a_cnn_refuses_to_halve_an_image_to_nothing() -> None:
    with pytest.raises(BadInput, match="4 halvings leave nothing") as caught:
        build("cnn", (8, 8), channels=[2, 2, 2, 2])
    assert caught.value.field == "model.channels"
    build("cnn", (8, 8), channels=[2, 2, 2])


@pytest.mark.parametrize("use", [lambda name: build(name, TABLE), package_of])
def test_an_unknown_name_is_refused_with_the_known_ones(use: Any) -> None:
    with pytest.raises(BadInput, match="no model 'resnet'; known: logistic, mlp, cnn") as caught:
        use("resnet")
    assert caught.value.field == "model.name" and "mlp" in caught.value.allowed


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[None]:
    """A real distribution on the path, with two models of the group and one of another."""
    info = tmp_path / "site" / "wards_models-2.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wards-models\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text(
        "[tacit.models]\nwide = wards_models:wide\nmlp = wards_models:wide\n"
        "[other.models]\nhidden = wards_models:wide\n"
    )
    (tmp_path / "site" / "wards_models.py").write_text(
        "from math import prod\n"
        "from torch import nn\n"
        "def wide(input_shape, n_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), 99), nn.ReLU(),\n"
        "                         nn.Linear(99, n_classes))\n"
    )
    sys.path.insert(0, str(tmp_path / "site"))
    yield
    sys.path.remove(str(tmp_path / "site"))
    sys.modules.pop("wards_models", None)


@pytest.mark.usefixtures("installed")
def test_an_entry_point_of_an_installed_package_is_a_model() -> None:
    model = build("wide", GREY)
    assert model(torch.randn(2, 28, 28)).shape == (2, 4)
    assert model[1].out_features == 99
    ours, theirs = model.state_dict(), build("wide", GREY).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not torch.equal(ours["1.weight"], build("wide", GREY, seed=2).state_dict()["1.weight"])


@pytest.mark.usefixtures("installed")
def test_only_its_own_group_counts_and_our_names_stay_ours() -> None:
    with pytest.raises(BadInput, match="known: logistic, mlp, cnn, mlp, wide"):
        build("hidden", TABLE)
    assert len(list(build("mlp", TABLE).parameters())) == 4
    assert build("mlp", TABLE)[1].out_features == 64
    assert package_of("mlp") is None


@pytest.mark.usefixtures("installed")
def test_a_silo_runs_a_packages_model_only_where_its_policy_names_the_package() -> None:
    assert package_of("wide") == "wards-models"
    asked: dict[str, Any] = {
        "silo": "north",
        "kind": "train",
        "dataset": "d",
        "leaving": ["dp"],
        "packages": [package_of("wide") or ""],
    }
    for allowed in ((), ("wide",), ("wards",), ("wards-models-2",)):
        with pytest.raises(PolicyRefused, match="model_packages"):
            check(Policy(model_packages=allowed), **asked)
    check(Policy(model_packages=("wards-models",)), **asked)
