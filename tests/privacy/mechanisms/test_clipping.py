"""Clipping: against autograd one row at a time, against Opacus, and against hostile rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from privacy.errors import UnsafeModel
from privacy.events import Unit
from privacy.mechanisms.clipping import engine
from privacy.mechanisms.dp_sgd import DpSgd, check_model, check_rows_apart
from privacy.mechanisms.plan import Clipping, DpSgdPlan
from privacy.mechanisms.randomness import StepSource

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

CLASSES = 3


def plan(**changes: Any) -> DpSgdPlan:
    base = {
        "unit": Unit.RECORD,
        "rate": 1.0,
        "noise_multiplier": 1.0,
        "clip": 1.0,
        "denominator": 10.0,
        "steps": 1,
    }
    return DpSgdPlan(**base | changes)


def logistic() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Tanh(), nn.Linear(9, CLASSES))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )


MODELS = [logistic, mlp, cnn]


def made(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(7)
    return build()


def rows(n: int, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    return (
        scale * torch.randn(n, 8, 8, generator=numbers),
        torch.randint(0, CLASSES, (n,), generator=numbers),
    )


def by_hand(model: nn.Module, features: Tensor, labels: Tensor, bound: float) -> Tensor:
    """Sum of clipped gradients, one backward pass of plain autograd per row."""
    total = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for x, y in zip(features, labels, strict=True):
        loss = cross_entropy(model(x[None]), y[None])
        gradient = torch.cat(
            [g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]
        ).double()
        total += gradient * min(1.0, bound / float(gradient.norm()))
    return total


def by_opacus(model: nn.Module, features: Tensor, labels: Tensor, bound: float) -> Tensor:
    """Opacus' own clipped sum, as its optimizer makes it before it adds noise."""
    hooked = GradSampleModule(model, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(hooked.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=bound,
        expected_batch_size=1,
        loss_reduction="sum",
    )
    cross_entropy(hooked(features), labels, reduction="sum").backward()
    optimizer.clip_and_accumulate()
    return torch.cat([p.summed_grad.reshape(-1) for p in hooked.parameters()]).double()


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("clip", [0.05, 1.0, 100.0])
def test_the_clipped_sum_is_that_of_autograd_and_of_opacus(
    build: Callable[[], nn.Module], clip: float
) -> None:
    features, labels = rows(23)
    theirs, reference = copy.deepcopy(made(build)), copy.deepcopy(made(build))
    mechanism = DpSgd(made(build), cross_entropy, plan(clip=clip), learning_rate=1.0)
    ours = mechanism.clipped_sum(features, labels).total
    bound = clip * (1 - 1e-5)
    assert ours.dtype == torch.float64
    for other in (
        by_hand(reference, features, labels, bound),
        by_opacus(theirs, features, labels, bound),
    ):
        assert float((ours - other).norm() / other.norm()) < 3e-6 / min(clip, 1.0)


@pytest.mark.parametrize("build", MODELS)
def test_a_row_below_the_clip_keeps_its_gradient_and_one_above_its_direction(
    build: Callable[[], nn.Module],
) -> None:
    features, labels = rows(1)
    whole = by_hand(made(build), features, labels, float("inf"))
    for clip in (float(whole.norm()) * 2, float(whole.norm()) / 2):
        mechanism = DpSgd(made(build), cross_entropy, plan(clip=clip), learning_rate=1.0)
        ours = mechanism.clipped_sum(features, labels).total
        expected = whole if clip > whole.norm() else whole / whole.norm() * clip * (1 - 1e-5)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("bad", [1e10, 1e30, 3e38, float("inf"), float("-inf"), float("nan")])
def test_no_row_counts_for_more_than_the_clip_and_none_spoils_another(
    build: Callable[[], nn.Module], bad: float
) -> None:
    features, labels = rows(6)
    mechanism = DpSgd(made(build), cross_entropy, plan(clip=0.5), learning_rate=1.0)
    kept = mechanism.clipped_sum(features, labels).total
    for place in (0, 3, 6):
        worse = torch.cat([features[:place], torch.full((1, 8, 8), bad), features[place:]])
        more = torch.cat([labels[:place], torch.tensor([1]), labels[place:]])
        total = mechanism.clipped_sum(worse, more).total
        assert torch.isfinite(total).all()
        assert float((total - kept).norm()) <= 0.5


@pytest.mark.parametrize("build", MODELS)
def test_a_rows_part_does_not_depend_on_what_is_computed_beside_it(
    build: Callable[[], nn.Module],
) -> None:
    """Where rows are not filled up, rounding moves parts by up to 1e-4 of the clip."""
    features, labels = rows(33, 1000.0)
    mechanism = DpSgd(made(build), cross_entropy, plan(), learning_rate=1.0)
    alone = [mechanism.clipped_sum(features[[i]], labels[[i]]).total for i in range(33)]
    for n in (2, 3, 4, 5, 8, 9, 16, 31, 33):
        whole = mechanism.clipped_sum(features[:n], labels[:n]).total
        for place in (0, n // 2, n - 1):
            rest = [i for i in range(n) if i != place]
            without = mechanism.clipped_sum(features[rest], labels[rest]).total
            assert float((whole - without - alone[place]).norm()) < 1e-12


def linear_loss(outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
    """The output itself: the gradient of a bias-free linear model is the row."""
    return outputs.sum() if reduction == "sum" else outputs.sum(dim=1)


@pytest.mark.parametrize("size", [1e-30, 0.5, 1.0, 1e10, 1e30, 3e38])
def test_a_gradient_of_any_finite_size_is_clipped_in_its_direction(size: float) -> None:
    mechanism = DpSgd(nn.Linear(4, 1, bias=False), linear_loss, plan(), learning_rate=1.0)
    row = torch.tensor([[size, size, 0.0, 0.0]])
    total = mechanism.clipped_sum(row, torch.zeros(1, dtype=torch.int64)).total
    exact = np.array([size, size, 0, 0]) * min(1.0, (1 - 1e-5) / (size * 2**0.5))
    np.testing.assert_allclose(total.numpy(), exact, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    clipping=st.sampled_from(Clipping),
    n=st.integers(1, 7),
    exponent=st.floats(-3, 3),
    seed=st.integers(0, 10**6),
    clip=st.floats(1e-3, 1e3),
    place=st.integers(0, 6),
    build=st.sampled_from(MODELS),
)
def test_one_row_more_or_less_moves_the_sum_by_at_most_the_clip(
    clipping: Clipping,
    n: int,
    exponent: float,
    seed: int,
    clip: float,
    place: int,
    build: Callable[[], nn.Module],
) -> None:
    features, labels = rows(n, 10**exponent, seed)
    terms = plan(clip=clip, clipping=clipping)
    mechanism = DpSgd(made(build), cross_entropy, terms, learning_rate=1.0)
    with_it = mechanism.clipped_sum(features, labels).total
    stays = torch.arange(n) != place % n
    without = torch.zeros_like(with_it)
    if stays.any():
        without = mechanism.clipped_sum(features[stays], labels[stays]).total
    assert float((with_it - without).norm()) <= clip


@pytest.mark.parametrize("build", MODELS)
def test_a_plan_per_layer_shares_its_clip_so_that_price_and_noise_stay(
    build: Callable[[], nn.Module],
) -> None:
    """Every layer of a huge gradient is at its bound, and together they are at the clip."""
    features, labels = rows(1, 1e6)
    terms = plan(clip=0.5, clipping=Clipping.PER_LAYER)
    assert terms.event == plan(clip=0.5).event
    model = made(build)
    mechanism = DpSgd(model, cross_entropy, terms, learning_rate=1.0)
    total = mechanism.clipped_sum(features, labels).total
    owners = [name.rpartition(".")[0] for name, _ in model.named_parameters()]
    parts = total.split([p.numel() for p in model.parameters()])
    for layer in set(owners):
        norm = torch.cat([p for p, own in zip(parts, owners, strict=True) if own == layer]).norm()
        assert float(norm) <= terms.bound / len(set(owners)) ** 0.5 * (1 + 1e-5)
    assert float(total.norm()) <= 0.5


@pytest.mark.parametrize("build", MODELS)
def test_a_batch_cut_into_small_ones_gives_the_same_step(
    build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = rows(17)
    states = []
    for numbers in (1 << 25, 1, 9 * 600):  # all at once, eight by eight, a few more at a time
        monkeypatch.setattr(engine, "HELD_AT_ONCE", numbers)
        mechanism = DpSgd(made(build), cross_entropy, plan(), learning_rate=1.0)
        source = StepSource(b"s" * 32, "train", 1)
        mechanism.step(features.numpy(), labels.numpy(), None, source)
        states.append(mechanism.state())
    for name, value in states[0].items():
        for other in states[1:]:
            torch.testing.assert_close(other[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.BatchNorm1d(4), "model"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "1"),
        (nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))), "0.1"),
        (nn.Sequential(nn.BatchNorm3d(4, track_running_stats=False)), "0"),
        (nn.Sequential(nn.SyncBatchNorm(4)), "0"),
        (nn.Sequential(nn.LazyBatchNorm2d()), "0"),
        (nn.Sequential(nn.InstanceNorm2d(4, track_running_stats=True)), "0"),
        (nn.Sequential(nn.BatchNorm1d(4).eval().requires_grad_(False)), "0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_module_in_which_rows_meet_is_refused_by_name(module: nn.Module, name: str) -> None:
    for refusal in (
        lambda: check_model(module),
        lambda: DpSgd(module, cross_entropy, plan(), learning_rate=1.0),
    ):
        with pytest.raises(UnsafeModel, match=f"module {name} is a ") as caught:
            refusal()
        assert caught.value.field == name and "GroupNorm" in caught.value.allowed


def test_a_module_without_per_sample_gradients_is_refused() -> None:
    with pytest.raises(UnsafeModel, match="per-sample gradients"):
        check_model(nn.Sequential(nn.LSTM(4, 4)))


@pytest.mark.parametrize(
    "module",
    [nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm2d(4), nn.Embedding(5, 4), cnn(), mlp()],
    ids=lambda module: type(module).__name__,
)
def test_normalisation_within_a_row_is_welcome(module: nn.Module) -> None:
    check_model(nn.Sequential(module))


class Remembers(nn.Module):
    """Keeps the largest value that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.zeros(()))
        self.linear = nn.Linear(4, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.largest.copy_(torch.maximum(self.largest, rows.detach().max()))
        return self.linear(rows)


class Centres(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.linear(rows - rows.mean(0))


def test_a_model_that_remembers_rows_or_lets_them_meet_is_refused() -> None:
    for module in (Remembers(), Centres()):
        check_model(module)  # nothing in its structure tells
    with pytest.raises(UnsafeModel, match="buffer largest") as caught:
        check_rows_apart(Remembers(), (4,))
    assert caught.value.field == "largest"
    with pytest.raises(UnsafeModel, match="depends on the other rows"):
        check_rows_apart(Centres(), (4,))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(8, 3), nn.Dropout(0.5), nn.Linear(3, 2)), (2, 4)),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten()), (1, 8, 8)),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (4,)),
    ],
)
def test_a_model_of_rows_apart_is_welcome_and_left_as_it_was(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    before = {name: value.clone() for name, value in module.state_dict().items()}
    check_rows_apart(module, shape)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.training


def test_what_a_buffer_saw_never_leaves() -> None:
    mechanism = DpSgd(Remembers(), cross_entropy, plan(), learning_rate=1.0)
    rows = np.full((8, 4), 17.25, dtype=np.float32)
    mechanism.step(
        rows, np.zeros(8, dtype=np.int64), None, StepSource(b"0" * 32, "train", "job", 0, 0, "a")
    )
    assert mechanism.state()["largest"] == 0
