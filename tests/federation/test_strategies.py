"""Strategies against torch's optimizers, the papers' formulas in numpy, and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from federation.robust import mean
from federation.strategies import FedAdam, FedAvg, FedAvgM, Strategy, make_strategy
from federation.training.specs import StrategySpec

State = dict[str, torch.Tensor]


def spec(name: str, **options: Any) -> dict[str, Any]:
    given = {"name": name, "rounds": 5, "batch_size": 8, "learning_rate": 0.1, **options}
    return StrategySpec(**given).model_dump()


def states(rounds: int, silos: int = 3, seed: int = 0) -> list[list[tuple[float, State]]]:
    """Made-up updates of some rounds: weights and models."""
    numbers = torch.Generator().manual_seed(seed)
    return [
        [
            (
                float(silo + 1),
                {
                    "weight": torch.randn(2, 3, generator=numbers),
                    "bias": torch.randn(3, generator=numbers),
                },
            )
            for silo in range(silos)
        ]
        for _ in range(rounds)
    ]


START: State = {"weight": torch.full((2, 3), 0.5), "bias": torch.zeros(3)}


def averaged(updates: list[tuple[float, State]], name: str) -> np.ndarray:
    return np.average(
        [s[name].double().numpy() for _, s in updates], axis=0, weights=[w for w, _ in updates]
    )


def test_fedavg_is_the_weighted_mean_and_forgets_the_state() -> None:
    (updates,) = states(1)
    after = FedAvg().aggregate(START, updates)
    for name in START:
        np.testing.assert_allclose(after[name].numpy(), averaged(updates, name), atol=1e-6)


def test_weights_count_by_their_ratio_and_equal_ones_uniformly() -> None:
    (updates,) = states(1)
    scaled = [(1000 * weight, state) for weight, state in updates]
    equal = [(7.0, state) for _, state in updates]
    for name in START:
        torch.testing.assert_close(mean(START, scaled)[name], mean(START, updates)[name])
        plain = torch.stack([state[name] for _, state in updates]).mean(dim=0)
        torch.testing.assert_close(mean(START, equal)[name], plain)


def test_the_mean_of_equal_models_is_that_model_and_integers_stay_integers() -> None:
    state = {"w": torch.tensor([0.1, 1e-30, -3e8]), "n": torch.tensor([3, 4])}
    after = mean(state, [(0.3, state), (11.0, dict(state))])
    assert torch.equal(after["w"], state["w"])
    assert after["n"].dtype == torch.int64 and torch.equal(after["n"], state["n"])


@pytest.mark.parametrize(("rate", "momentum"), [(1.0, 0.9), (0.3, 0.5), (1.0, 0.0)])
def test_fedavgm_is_torchs_momentum_on_the_pseudo_gradient(rate: float, momentum: float) -> None:
    strategy = FedAvgM(rate, momentum)
    state = START
    parameters = {n: torch.nn.Parameter(v.clone().double()) for n, v in START.items()}
    optimizer = torch.optim.SGD(parameters.values(), lr=rate, momentum=momentum)
    for updates in states(6):
        state = strategy.aggregate(state, updates)
        for name, parameter in parameters.items():
            target = torch.from_numpy(averaged(updates, name))
            parameter.grad = parameter.detach() - target
        optimizer.step()
    for name, parameter in parameters.items():
        np.testing.assert_allclose(state[name].numpy(), parameter.detach().numpy(), atol=2e-5)


@pytest.mark.parametrize(
    ("rate", "betas", "tau"), [(0.1, (0.9, 0.99), 1e-3), (0.02, (0.0, 0.5), 0.3)]
)
def test_fedadam_follows_the_papers_algorithm(
    rate: float, betas: tuple[float, float], tau: float
) -> None:
    """Reddi et al. (2021), Algorithm 2: v starts at tau^2, no bias correction."""
    strategy = FedAdam(rate, betas, tau)
    state = START
    x = {n: v.double().numpy() for n, v in START.items()}
    m = {n: np.zeros_like(v) for n, v in x.items()}
    v = {n: np.full_like(value, tau**2) for n, value in x.items()}
    for updates in states(6):
        state = strategy.aggregate(state, updates)
        for name in x:
            delta = averaged(updates, name) - x[name]
            m[name] = betas[0] * m[name] + (1 - betas[0]) * delta
            v[name] = betas[1] * v[name] + (1 - betas[1]) * delta**2
            x[name] = x[name] + rate * m[name] / (np.sqrt(v[name]) + tau)
    for name in x:
        np.testing.assert_allclose(state[name].numpy(), x[name], atol=2e-5)


def test_momentum_tempers_noise_and_keeps_the_signal() -> None:
    """A constant change d and white noise: with the rate 1 - m, d is kept and variance falls."""
    m, n = 0.9, 4000
    strategy = FedAvgM(1 - m, m)
    numbers = torch.Generator().manual_seed(1)
    state, places = {"w": torch.zeros(n)}, []
    for _ in range(80):
        places.append(state["w"].clone())
        update = state["w"] + 0.01 + torch.randn(n, generator=numbers)
        state = strategy.aggregate(state, [(1.0, {"w": update})])
    steps = places[-1] - places[-2]
    assert float(steps.mean()) == pytest.approx(0.01, abs=0.015)
    assert float(steps.var()) == pytest.approx((1 - m) / (1 + m), rel=0.15)


@pytest.mark.parametrize(
    ("asked", "like"),
    [
        (spec("fedavg"), FedAvg()),
        (spec("fedprox", proximal=0.1), FedAvg()),
        (spec("fedavgm"), FedAvgM(1.0, 0.9)),
        (spec("fedavgm", server_learning_rate=0.5, momentum=0.0), FedAvgM(0.5, 0.0)),
        (spec("fedadam"), FedAdam(0.1, (0.9, 0.99), 1e-3)),
        (
            spec("fedadam", server_learning_rate=0.01, betas=(0.5, 0.6), tau=0.1),
            FedAdam(0.01, (0.5, 0.6), 0.1),
        ),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_a_specs_block_makes_the_strategy_it_names(asked: dict[str, Any], like: Strategy) -> None:
    made, ours, theirs = make_strategy(asked), START, START
    assert type(made) is type(like)
    for updates in states(3):
        ours, theirs = made.aggregate(ours, updates), like.aggregate(theirs, updates)
    assert all(torch.equal(ours[name], theirs[name]) for name in START)


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam"])
def test_a_strategy_goes_on_from_its_state_as_if_never_stopped(name: str) -> None:
    rounds = states(6)
    whole, state = make_strategy(spec(name)), START
    for updates in rounds:
        state = whole.aggregate(state, updates)
    first, part = make_strategy(spec(name)), START
    for updates in rounds[:3]:
        part = first.aggregate(part, updates)
    kept = {key: value.clone() for key, value in first.state_dict().items()}
    for updates in rounds[3:]:
        first.aggregate(part, updates)  # what goes on does not change what was kept
    second = make_strategy(spec(name))
    second.load_state_dict(kept)
    for updates in rounds[3:]:
        part = second.aggregate(part, updates)
    assert all(torch.equal(part[key], state[key]) for key in START)


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam"])
def test_aggregating_changes_neither_the_model_nor_the_updates(name: str) -> None:
    (updates,) = states(1)
    before = [{k: v.clone() for k, v in s.items()} for s in (START, *(u for _, u in updates))]
    make_strategy(spec(name)).aggregate(START, updates)
    for kept, now in zip(before, (START, *(u for _, u in updates)), strict=True):
        assert all(torch.equal(kept[key], now[key]) for key in kept)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedavg", {"momentum": 0.9}),
        ("fedavg", {"proximal": 0.1}),
        ("fedprox", {}),
        ("fedprox", {"proximal": 0.1, "tau": 0.1}),
        ("fedavgm", {"betas": (0.9, 0.9)}),
        ("fedadam", {"momentum": 0.9}),
        ("fedavgm", {"momentum": 1.0}),
        ("fedadam", {"betas": (0.9, 1.0)}),
        ("fedadam", {"server_learning_rate": 0.0}),
    ],
)
def test_an_option_of_another_strategy_or_out_of_range_is_refused(
    name: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"belong|needs|less than|greater than"):
        spec(name, **options)
