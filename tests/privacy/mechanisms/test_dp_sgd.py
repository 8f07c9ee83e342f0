"""Steps of DP-SGD: the noise, what it is divided by, and what comes after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from privacy.events import Unit
from privacy.mechanisms.clipping import engine
from privacy.mechanisms.dp_sgd import DpSgd, Sgd
from privacy.mechanisms.plan import DpSgdPlan
from privacy.mechanisms.randomness import StepSource

ALARM = 1e-6
WIDE = 20_000
SECRET = bytes(range(2, 34))
NOTHING = 1e-12
"""A noise multiplier that is no noise at all beside float32."""


def plan(**changes: Any) -> DpSgdPlan:
    base = {
        "unit": Unit.RECORD,
        "rate": 1.0,
        "noise_multiplier": NOTHING,
        "clip": 1.0,
        "denominator": 10.0,
        "steps": 9,
    }
    return DpSgdPlan(**base | changes)


def source(step: int = 0, secret: bytes = SECRET) -> StepSource:
    return StepSource(secret, "train", "job", 0, step, "digest")


def linear_loss(outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
    """The output itself, so that a row's gradient is the row."""
    return outputs.sum() if reduction == "sum" else outputs.sum(dim=1)


def linear(width: int) -> nn.Linear:
    """A linear model that starts at zero, so that its weights are what the steps added."""
    model = nn.Linear(width, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


def weights(mechanism: Sgd) -> np.ndarray:
    return torch.cat([v.reshape(-1) for v in mechanism.state().values()]).double().numpy()


def no_rows(width: int) -> tuple[np.ndarray, np.ndarray, None]:
    return np.zeros((0, width), np.float32), np.zeros(0, np.int64), None


def zero_rows(n: int, width: int) -> tuple[np.ndarray, np.ndarray, None]:
    return np.zeros((n, width), np.float32), np.zeros(n, np.int64), None


def is_noise(values: np.ndarray, scale: float) -> bool:
    """Whether values are N(0, scale^2): distribution, mean and variance."""
    n = len(values)
    spread = stats.chi2.cdf((values**2).sum() / scale**2, n)
    return (
        stats.kstest(values, stats.norm(scale=scale).cdf).pvalue > ALARM
        and 2 * stats.norm.sf(abs(values.sum()) / scale / n**0.5) > ALARM
        and min(spread, 1 - spread) > ALARM / 2
    )


@pytest.mark.parametrize(
    ("multiplier", "clip", "denominator", "rate"),
    [(1.0, 1.0, 1.0, 1.0), (2.0, 3.0, 50.0, 1.0), (0.7, 0.1, 32.5, 1.0), (30.0, 2.0, 7.0, 0.5)],
)
def test_a_step_adds_noise_of_multiplier_times_clip_then_divides(
    multiplier: float, clip: float, denominator: float, rate: float
) -> None:
    terms = plan(noise_multiplier=multiplier, clip=clip, denominator=denominator, rate=rate)
    mechanism = DpSgd(linear(WIDE), linear_loss, terms, learning_rate=0.25)
    mechanism.step(*zero_rows(12, WIDE), source())
    assert is_noise(weights(mechanism), 0.25 * multiplier * clip / denominator)


def test_the_check_of_the_noise_tells_two_per_cent_apart() -> None:
    assert not is_noise(stats.norm.rvs(size=WIDE, scale=1.04, random_state=1), 1.0)
    assert not is_noise(stats.norm.rvs(size=WIDE, loc=0.05, random_state=1), 1.0)
    assert not is_noise(stats.laplace.rvs(size=WIDE, scale=2**-0.5, random_state=1), 1.0)


@pytest.mark.parametrize(
    "batch", [no_rows(WIDE), zero_rows(3, WIDE)], ids=["no row at all", "rows, none of them drawn"]
)
def test_an_empty_batch_is_noised_and_stepped_like_any_other(batch: Any) -> None:
    terms = plan(noise_multiplier=1.5, rate=1e-9, denominator=4.0)
    mechanism = DpSgd(linear(WIDE), linear_loss, terms, learning_rate=1.0)
    mechanism.step(*batch, source())
    assert is_noise(weights(mechanism), 1.5 / 4)


def test_an_empty_batch_of_subjects_is_noised_too() -> None:
    terms = plan(unit=Unit.SUBJECT, noise_multiplier=1.5, denominator=4.0)
    mechanism = DpSgd(linear(WIDE), linear_loss, terms, learning_rate=1.0)
    mechanism.step(*no_rows(WIDE)[:2], np.zeros(0, np.int64), source())
    assert is_noise(weights(mechanism), 1.5 / 4)


def test_a_batch_in_many_pieces_is_noised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "HELD_AT_ONCE", 1)
    mechanism = DpSgd(linear(WIDE), linear_loss, plan(noise_multiplier=1.0), learning_rate=1.0)
    mechanism.step(*zero_rows(25, WIDE), source())
    assert is_noise(weights(mechanism), 1 / 10)


def test_noise_is_fresh_in_every_step_and_for_every_secret() -> None:
    def after(steps: list[int], secret: bytes = SECRET) -> np.ndarray:
        mechanism = DpSgd(linear(WIDE), linear_loss, plan(noise_multiplier=10.0), learning_rate=1.0)
        for step in steps:
            mechanism.step(*zero_rows(1, WIDE), source(step, secret))
        return weights(mechanism)

    first, second, other = after([0]), after([1]), after([0], b"t" * 32)
    assert (first == after([0])).all()
    for a, b in ((first, second), (first, other)):
        assert stats.pearsonr(a, b).pvalue > ALARM
    assert is_noise(after([0, 1, 2, 3]), 2.0)  # four of scale one


@pytest.mark.parametrize("n", [1, 10, 400])
def test_the_denominator_is_the_declared_one_whatever_the_rows_are(n: int) -> None:
    mechanism = DpSgd(linear(2), linear_loss, plan(denominator=25.0), learning_rate=1.0)
    row = np.tile(np.array([[0.6, 0.0]], np.float32), (n, 1))
    mechanism.step(row, np.zeros(n, np.int64), None, source())
    np.testing.assert_allclose(weights(mechanism), [-0.6 * n / 25, 0], rtol=1e-6, atol=1e-9)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def some_rows(n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.random.default_rng(0)
    return numbers.normal(size=(n, 5)).astype(np.float32), numbers.integers(0, 3, n)


def descent(proximal: float, clip: float, steps: int) -> np.ndarray:
    """Gradient descent on clipped gradients with a proximal term, written out in float64."""
    model = network().double()
    features, labels = some_rows()
    parameters = list(model.parameters())
    start = [p.detach().clone() for p in parameters]
    for _ in range(steps):
        totals = [torch.zeros_like(p) for p in parameters]
        for x, y in zip(torch.tensor(features).double(), torch.tensor(labels), strict=True):
            grads = torch.autograd.grad(cross_entropy(model(x[None]), y[None]), parameters)
            norm = torch.sqrt(sum((g**2).sum() for g in grads))
            for total, gradient in zip(totals, grads, strict=True):
                total += gradient * min(1.0, clip * (1 - 1e-5) / float(norm))
        with torch.no_grad():
            for p, total, first in zip(parameters, totals, start, strict=True):
                p -= 0.3 * (total / 10 + proximal * (p - first))
    return torch.cat([p.detach().reshape(-1) for p in parameters]).numpy()


@pytest.mark.parametrize("proximal", [0.0, 0.8])
@pytest.mark.parametrize("clip", [0.2, 50.0])
def test_without_noise_to_speak_of_it_is_clipped_gradient_descent(
    proximal: float, clip: float
) -> None:
    mechanism = DpSgd(
        network(), cross_entropy, plan(clip=clip), learning_rate=0.3, proximal=proximal
    )
    for step in range(6):
        mechanism.step(*some_rows(), None, source(step))
    np.testing.assert_allclose(weights(mechanism), descent(proximal, clip, 6), atol=2e-6)


def test_the_proximal_term_acts_after_clip_and_noise() -> None:
    """It shifts a noised step by exactly -rate * mu * (w - anchor), far beyond any clip."""
    terms = plan(noise_multiplier=2.0, clip=0.1)

    def run(proximal: float) -> np.ndarray:
        mechanism = DpSgd(network(), cross_entropy, terms, learning_rate=0.01, proximal=proximal)
        state = mechanism.state()
        mechanism.load(state)  # the anchor
        with torch.no_grad():
            for p in mechanism._parameters:
                p += 100.0
        mechanism.step(*some_rows(), None, source())
        return weights(mechanism)

    np.testing.assert_allclose(run(30.0) - run(0.0), -0.01 * 30.0 * 100.0, rtol=1e-4)


def test_the_proximal_term_pulls_towards_the_model_last_loaded() -> None:
    mechanism = DpSgd(linear(2), linear_loss, plan(), learning_rate=1.0, proximal=0.5)
    mechanism.load({"weight": torch.tensor([[4.0, -2.0]])})
    mechanism.step(*zero_rows(3, 2), source())
    assert list(weights(mechanism)) == [4.0, -2.0]  # no pull at the anchor itself


def test_the_learning_rate_scales_signal_and_noise_alike() -> None:
    def moved(learning_rate: float) -> np.ndarray:
        mechanism = DpSgd(
            linear(50), linear_loss, plan(noise_multiplier=1.0), learning_rate=learning_rate
        )
        mechanism.step(np.ones((3, 50), np.float32), np.zeros(3, np.int64), None, source())
        return weights(mechanism)

    np.testing.assert_allclose(moved(0.5), 5 * moved(0.1), rtol=1e-5)


def test_global_seeds_reach_neither_sample_nor_noise() -> None:
    def after(seed: int) -> np.ndarray:
        mechanism = DpSgd(
            network(), cross_entropy, plan(noise_multiplier=1.0, rate=0.5), learning_rate=0.1
        )
        torch.manual_seed(seed)
        np.random.seed(seed)
        mechanism.step(*some_rows(), None, source())
        return weights(mechanism)

    assert (after(1) == after(2)).all()


def test_no_mechanism_of_this_name_runs_without_noise() -> None:
    with pytest.raises(ValueError, match="without noise"):
        DpSgd(network(), cross_entropy, plan(noise_multiplier=0.0), learning_rate=0.1)


def test_plain_sgd_is_torchs_on_the_same_rows() -> None:
    terms = plan(noise_multiplier=0.0, denominator=12.0, clip=1e-3)  # no clip either
    mechanism = Sgd(network(), cross_entropy, terms, learning_rate=0.3)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    features, labels = some_rows()
    for step in range(4):
        mechanism.step(features, labels, None, source(step))
        optimizer.zero_grad()
        cross_entropy(model(torch.tensor(features)), torch.tensor(labels)).backward()
        optimizer.step()
    expected = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    np.testing.assert_allclose(weights(mechanism), expected.numpy(), atol=1e-6)


def place_teller(width: int = 30) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network and weights by which a last bit of a hidden sum decides every row's class.

    Its first layer gives every row the same numbers, whose sum a matrix library rounds in one of
    two ways, by where the row begins in memory; the last layer tells the two apart.
    """
    model = nn.Sequential(nn.Linear(13, width), nn.ReLU(), nn.Linear(width, 2), nn.ReLU())
    model.append(nn.Linear(2, 2))
    for seed in range(200):
        numbers = torch.Generator().manual_seed(seed)
        state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
        state["0.bias"] = torch.rand(width, generator=numbers) + 0.1
        state["2.weight"] = torch.rand(2, width, generator=numbers) * 0.1
        hidden = state["0.bias"].expand(64, width).contiguous()
        low, *high = nn.functional.linear(hidden, state["2.weight"])[:, 0].unique().tolist()
        if len(high) == 1:
            break
    else:  # a library whose rounding does not depend on the place: what it rounds to decides
        high = [low * (1 + 2**-23)]
    steep = 2.0**40
    state["4.weight"][1, 0], state["4.bias"][1] = steep, -steep * (low + high[0]) / 2
    return model, state


def test_a_model_that_tells_places_apart_lets_one_row_move_no_more_than_its_part() -> None:
    """Without rows at the same places, all that follow would change their class with it."""
    model, state = place_teller()
    mechanism = DpSgd(model, cross_entropy, plan(clip=1.0), learning_rate=0.1)
    mechanism.load(state)
    numbers = np.random.default_rng(0)
    features = numbers.uniform(-1, 1, (401, 13)).astype(np.float32)
    labels = np.arange(401) % 2
    whole, without = mechanism.probabilities(features), mechanism.probabilities(features[1:])
    np.testing.assert_array_equal(whole[1:], without)
    for count in (1, 2, 31, 32, 33, 200, 401):
        some, classes = torch.from_numpy(features[:count]), torch.from_numpy(labels[:count])
        moved = mechanism.clipped_sum(some, classes).total
        moved = moved - mechanism.clipped_sum(some[1:], classes[1:]).total
        assert float(moved.norm()) <= 1.0


@pytest.mark.parametrize("kind", [Sgd, DpSgd])
def test_probabilities_are_the_softmax_of_the_model_and_take_no_step(
    kind: Callable[..., Sgd],
) -> None:
    mechanism = kind(network(), cross_entropy, plan(), learning_rate=0.3)
    before = weights(mechanism)
    features = np.random.default_rng(1).normal(size=(5000, 5)).astype(np.float32)
    with torch.no_grad():
        logits = network()(torch.tensor(features)).double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mechanism.probabilities(features), expected, atol=1e-6)
    assert mechanism.probabilities(features[:0]).size == 0
    assert (weights(mechanism) == before).all()
