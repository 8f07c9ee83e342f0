"""The self-test stops models whose backward pass leaves out a row or mixes two, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from privacy.errors import UnsafeModel
from privacy.events import Unit
from privacy.mechanisms.clipping.selftest import self_test, synthetic
from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.plan import DpSgdPlan

WIDTH, CLASSES = 6, 3


def backward_is(change: Callable[[Tensor], Tensor]) -> type[nn.Module]:
    """A layer that passes rows on and gives back another gradient than its own."""

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, rows: Tensor) -> Tensor:
            return rows.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return change(gradient.clone())

    class Layer(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return Wrong.apply(rows)

    return Layer


def forward_is(change: Callable[[Tensor], Tensor]) -> type[nn.Module]:
    class Layer(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return change(rows)

    return Layer


def without(row: int) -> Callable[[Tensor], Tensor]:
    def change(gradient: Tensor) -> Tensor:
        if len(gradient) > 1:
            gradient[row] = 0.0
        return gradient

    return change


def adds_the_next(gradient: Tensor) -> Tensor:
    return gradient + gradient.roll(1, 0)


def swaps(gradient: Tensor) -> Tensor:
    return gradient.flip(0)


def middle(layer: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(WIDTH, 5), layer, nn.Tanh(), nn.Linear(5, CLASSES))


def check(model: nn.Module, loss: Callable[..., Tensor] = cross_entropy) -> None:
    self_test(model, loss, *synthetic((WIDTH,), CLASSES))


WRONG = {
    "leaves out the first row": backward_is(without(0)),
    "leaves out the second row": backward_is(without(1)),
    "leaves out the last row": backward_is(without(-1)),
    "adds the next row's": backward_is(adds_the_next),
    "swaps rows": backward_is(swaps),
    "centres gradients": backward_is(lambda g: g - g.mean(0) if len(g) > 1 else g),
    "mean over rows": backward_is(lambda g: g / len(g)),
    "adds a thousandth of another": backward_is(lambda g: g + 1e-3 * g.roll(1, 0)),
    "centres rows": forward_is(lambda x: x - x.mean(0)),
    "batch normalisation by function": forward_is(
        lambda x: functional.batch_norm(x, None, None, training=True) if len(x) > 1 else x
    ),
    "sorts rows": forward_is(lambda x: x.sort(0).values),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_layer_that_gets_rows_wrong_is_caught(name: str) -> None:
    with pytest.raises(UnsafeModel, match="not those of each alone") as caught:
        check(middle(WRONG[name]()))
    assert caught.value.code == "PRIVACY-004" and caught.value.exit_code == 2


class Places(nn.Module):
    """Changes a last bit by a row's place, as kernels do where it begins elsewhere in memory."""

    def forward(self, rows: Tensor) -> Tensor:
        odd = (torch.arange(len(rows)) % 3 == 1).to(rows)[:, None]
        return rows * (1 + 2**-23 * odd)


def test_a_last_bit_that_depends_on_the_place_is_caught() -> None:
    with pytest.raises(UnsafeModel, match="on its place in a batch") as caught:
        check(middle(Places()))
    assert caught.value.field == "model"


def test_a_last_bit_that_depends_on_the_size_of_the_batch_is_caught() -> None:
    class Sizes(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return rows * (1 + (2**-23 if len(rows) > 100 else 0))

    with pytest.raises(UnsafeModel, match="on its place in a batch"):
        check(middle(Sizes()))


@pytest.mark.parametrize("width", [1, 2, 3, 5, 7, 13, 30, 33, 100])
@pytest.mark.parametrize(
    "activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Softplus, nn.ELU]
)
def test_widths_and_activations_that_people_take_pass(
    width: int, activation: type[nn.Module]
) -> None:
    torch.manual_seed(width)
    model = nn.Sequential(nn.Linear(width, width), activation(), nn.Linear(width, 2))
    self_test(model, cross_entropy, *synthetic((width,), 2))


def test_a_loss_that_mixes_rows_is_caught() -> None:
    def relative(outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
        losses = cross_entropy(outputs, labels, reduction="none")
        return losses / losses.detach().mean()

    with pytest.raises(UnsafeModel, match="not those of each alone"):
        check(middle(nn.Identity()), relative)


RIGHT = {
    "as it is": nn.Identity(),
    "dropout": nn.Dropout(0.5),
    "normalisation within a row": nn.LayerNorm(5),
    "a parameter of its own": None,
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_a_model_of_rows_apart_passes_and_stays_as_it_was(name: str) -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(5))

        def forward(self, rows: Tensor) -> Tensor:
            return rows * self.weight

    model = middle(RIGHT[name] or Scale())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters())


def test_weights_that_begin_at_zero_hide_nothing() -> None:
    model = middle(backward_is(without(1))())
    nn.init.zeros_(model[3].weight)  # nothing comes back to the layers below
    with pytest.raises(UnsafeModel, match="not those of each alone"):
        check(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_deep_model_passes_at_its_own_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True)
    model = nn.Sequential(layer, layer, nn.Flatten(), nn.Linear(80, CLASSES)).to(dtype)
    self_test(model, cross_entropy, *synthetic((5, 16), CLASSES, dtype))


def test_the_mechanism_asks_for_its_own_model() -> None:
    plan = DpSgdPlan(
        unit=Unit.RECORD, rate=0.1, noise_multiplier=1.0, clip=1.0, denominator=3.0, steps=1
    )
    DpSgd(middle(nn.Tanh()), cross_entropy, plan, learning_rate=0.1).self_test((WIDTH,), CLASSES)
    wrong = DpSgd(middle(backward_is(swaps)()), cross_entropy, plan, learning_rate=0.1)
    with pytest.raises(UnsafeModel, match="not those of each alone"):
        wrong.self_test((WIDTH,), CLASSES)
