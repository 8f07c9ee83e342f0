"""Robust rules against numpy, scipy and direct constructions, and under hostile silos."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.datasets import load_breast_cancer
from tests_parties import facts, spec

from federation.documents import parse
from federation.errors import BadInput
from federation.lifecycle import quotes_of
from federation.robust import Rule, State, Updates, flag, krum, make_rule, median, trimmed_mean
from federation.spec import AggregationSpec
from federation.strategies import make_strategy
from federation.training.specs import StrategySpec

SILOS, HOSTILE = 8, 2
PRECISE = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 20_000}
RULES = {"median": None, "trimmed_mean": HOSTILE, "krum": HOSTILE, "flag": None}


def silos(models: np.ndarray) -> tuple[State, Updates]:
    """A present model of zeros in two tensors, and the silos' models [n, 7]."""
    state = {"a": torch.zeros(2, 2, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)}
    updates = [
        (1.0, {"a": torch.tensor(m[:4]).reshape(2, 2), "b": torch.tensor(m[4:])}) for m in models
    ]
    return state, updates


def flat(state: State) -> np.ndarray:
    return np.concatenate([state["a"].numpy().ravel(), state["b"].numpy()])


def drawn(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 7)) + 0.5


@pytest.mark.parametrize("n", [3, 4, 7, 8])
def test_the_median_is_numpys_and_the_trimmed_mean_scipys(n: int) -> None:
    models = drawn(n)
    np.testing.assert_allclose(flat(median(*silos(models))), np.median(models, axis=0))
    faulty = (n - 1) // 2
    expected = stats.trim_mean(models, faulty / n + 1e-9, axis=0)
    np.testing.assert_allclose(flat(trimmed_mean(*silos(models), faulty=faulty)), expected)


@pytest.mark.parametrize(("n", "faulty"), [(5, 1), (8, 2), (9, 3)])
def test_krum_takes_the_model_that_a_plain_search_finds(n: int, faulty: int) -> None:
    for seed in range(20):
        models = drawn(n, seed)
        scores = [
            sum(
                sorted(((m - o) ** 2).sum() for j, o in enumerate(models) if j != i)[
                    : n - faulty - 2
                ]
            )
            for i, m in enumerate(models)
        ]
        chosen = models[int(np.argmin(scores))]
        np.testing.assert_array_equal(flat(krum(*silos(models), faulty=faulty)), chosen)


@pytest.mark.parametrize("n", [3, 4, 5, 8, 12])
def test_flag_lies_on_a_line_that_a_general_optimizer_does_not_better(n: int) -> None:
    for seed in range(10):
        models = drawn(n, seed)
        norms = np.linalg.norm(models, axis=1)
        unit = models / norms[:, None]

        def loss(line: np.ndarray, unit: np.ndarray = unit) -> float:
            told = (unit @ line) ** 2 / (line @ line)
            return float(np.sqrt(np.clip(1 - told, 0, None)).sum())

        result = flat(flag(*silos(models)))
        line = result / np.linalg.norm(result)
        nearby = optimize.minimize(loss, line, method="Nelder-Mead", options=PRECISE)
        assert loss(line) <= nearby.fun + 1e-3
        assert loss(line) <= loss(np.linalg.svd(unit)[2][0])
        cut = unit * np.minimum(norms, np.median(norms))[:, None]
        np.testing.assert_allclose(result, line * (line @ cut.mean(axis=0)), atol=1e-12)


def test_flag_keeps_what_all_agree_on_and_what_changes_nothing() -> None:
    same = np.tile(drawn(1), (5, 1))
    np.testing.assert_allclose(flat(flag(*silos(same))), same[0])
    np.testing.assert_array_equal(flat(flag(*silos(np.zeros((5, 7))))), np.zeros(7))


@given(
    st.integers(0, 2**31),
    st.floats(-1e6, 1e6),
    st.permutations(range(SILOS)),
    st.sampled_from(sorted(RULES)),
)
@settings(max_examples=100, deadline=None)
def test_a_hostile_quarter_moves_no_rule_beyond_the_honest(
    seed: int, size: float, order: list[int], name: str
) -> None:
    models = drawn(SILOS, seed)
    models[:HOSTILE] = size * np.random.default_rng(seed + 1).normal(size=(HOSTILE, 7))
    honest = models[HOSTILE:]
    result = flat(make_rule(name, RULES[name])(*silos(models[order])))
    longest = np.linalg.norm(honest, axis=1).max()
    if name in ("median", "trimmed_mean"):
        assert (result >= honest.min(axis=0) - 1e-12).all()
        assert (result <= honest.max(axis=0) + 1e-12).all()
    assert np.linalg.norm(result) <= np.sqrt(7) * longest + 1e-9
    again = flat(make_rule(name, RULES[name])(*silos(models)))
    np.testing.assert_allclose(result, again, atol=1e-4)


class Federation:
    """Eight silos on the breast cancer rows, two of them hostile; one column is always zero."""

    TRIGGER = 5.0

    def __init__(self) -> None:
        x, y = load_breast_cancer(return_X_y=True)
        x = np.clip((x - x.mean(axis=0)) / x.std(axis=0), -3, 3)
        x = np.concatenate([x, np.zeros((len(x), 1))], axis=1)
        order = np.random.default_rng(0).permutation(len(x))
        rows = torch.tensor(x[order], dtype=torch.float32), torch.tensor(y[order])
        self.test = rows[0][:169], rows[1][:169]
        self.parts = [(rows[0][169 + i :: SILOS], rows[1][169 + i :: SILOS]) for i in range(SILOS)]

    def triggered(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :-1], torch.full((len(x), 1), self.TRIGGER)], dim=1)

    def local(self, state: State, x: torch.Tensor, y: torch.Tensor) -> State:
        """Ten gradient steps of logistic regression."""
        weight, bias = (state[k].clone().requires_grad_() for k in ("weight", "bias"))
        optimizer = torch.optim.SGD([weight, bias], lr=0.1)
        for _ in range(10):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(x @ weight.T + bias, y).backward()
            optimizer.step()
        return {"weight": weight.detach(), "bias": bias.detach()}

    def update(self, silo: int, state: State, attack: str) -> State:
        x, y = self.parts[silo]
        if silo >= HOSTILE or attack == "none":
            return self.local(state, x, y)
        if attack == "backdoor":  # boosted so that a plain mean takes it over whole
            poisoned = torch.cat([x, self.triggered(x)]), torch.cat([y, torch.ones_like(y)])
            return self.boosted(state, self.local(state, *poisoned), SILOS / HOSTILE)
        return self.boosted(state, self.local(state, x, y), -SILOS / HOSTILE)

    @staticmethod
    def boosted(state: State, model: State, by: float) -> State:
        return {k: state[k] + by * (model[k] - state[k]) for k in state}

    def run(self, rule: Rule, attack: str) -> tuple[float, float]:
        """Test accuracy after twenty rounds, and how often the trigger turns class 0 into 1."""
        chosen = parse(
            {"name": "fedavg", "rounds": 20, "batch_size": 8, "learning_rate": 0.1},
            StrategySpec,
            "strategy",
        )
        strategy = make_strategy(chosen.model_dump(), rule)
        state: State = {"weight": torch.zeros(2, 31), "bias": torch.zeros(2)}
        for _ in range(20):
            updates = [(1.0, self.update(i, state, attack)) for i in range(SILOS)]
            state = strategy.aggregate(state, updates)
        x, y = self.test

        def classes(rows: torch.Tensor) -> torch.Tensor:
            return (rows @ state["weight"].T + state["bias"]).argmax(dim=1)

        accuracy = float((classes(x) == y).float().mean())
        return accuracy, float(classes(self.triggered(x[y == 0])).float().mean())


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation()


def test_fedavg_is_ruined_by_a_quarter_of_hostile_silos(federation: Federation) -> None:
    mean = make_rule("mean", None)
    clean, base = federation.run(mean, "none")
    assert clean > 0.95 and base < 0.1
    assert federation.run(mean, "sign")[0] < 0.6
    assert federation.run(mean, "backdoor")[1] > 0.9


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_robust_rule_is_not(name: str, federation: Federation) -> None:
    rule = make_rule(name, RULES[name])
    assert federation.run(rule, "none")[0] > 0.94
    assert federation.run(rule, "sign")[0] > 0.93
    accuracy, fooled = federation.run(rule, "backdoor")
    assert accuracy > 0.93 and fooled < 0.15


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"rule": "krum"}, "faulty"),
        ({"rule": "median", "faulty": 1}, "faulty"),
        ({"rule": "trimmed_mean", "faulty": 0}, "faulty"),
        ({"rule": "bulyan"}, "rule"),
    ],
)
def test_a_rule_without_its_number_or_with_anothers_is_refused(
    document: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadInput) as caught:
        parse(document, AggregationSpec, "aggregation")
    assert field in f"{caught.value.field}{caught.value.message}"


@pytest.mark.parametrize(
    ("rule", "least"), [("median", 3), ("flag", 3), ("trimmed_mean", 3), ("krum", 5)]
)
def test_a_rule_asks_for_enough_silos_before_anything_is_charged(rule: str, least: int) -> None:
    aggregation = {"rule": rule} | ({} if RULES[rule] is None else {"faulty": 1})
    job = spec(aggregation=aggregation)
    members = {f"s{i}": facts(silo=f"s{i}") for i in range(least)}
    assert len(quotes_of(job, members)) == least
    members.popitem()
    with pytest.raises(BadInput) as caught:
        quotes_of(job, members)
    assert caught.value.field == "aggregation" and str(least) in caught.value.message
