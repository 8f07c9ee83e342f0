"""A trained model as what CKKS can compute: affine maps with polynomials between them.

    >>> from torch import nn
    >>> from secure.ckks.modules import Square
    >>> model = nn.Sequential(nn.Linear(30, 16), Square(), nn.Linear(16, 2))
    >>> network = read(model, (30,))
    >>> [affine.weight.shape for affine in network.affines]
    [(16, 30), (2, 16)]

Everything between two activations (linear, convolution, average pooling, batch normalisation in
evaluation mode, flatten, dropout) is one affine map, read off by running it on the unit vectors in
double precision. Coefficients of activations go into the maps around them: a x^2 + b x + c is one
square after a shift, and a polynomial on [-B, B] takes u = x / B.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secure.ckks.modules import Quadratic, Square
from secure.ckks.polynomials import Polynomial, Reals, approximate
from secure.errors import BadParameters

MAX_ENTRIES = 1 << 26  # of one affine map: 512 MiB in double precision

LINEAR: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
)
APPROXIMATED: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
}


@dataclass(frozen=True)
class Approximation:
    """How one activation that is no polynomial is approximated: on [-bound, bound], by degree."""

    bound: float
    degree: int


@dataclass(frozen=True)
class Affine:
    """y = weight x + bias; weight [outputs, inputs]."""

    weight: Reals = field(repr=False)
    bias: Reals = field(repr=False)


@dataclass(frozen=True)
class Windows:
    """The windows of a first convolution: `index` [positions, windows] of inputs, -1 for padding.

    The client lays its row out by them, so that the convolution becomes a matrix with few
    diagonals. It shows the client kernel size, stride and padding.
    """

    index: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Network:
    """Affine maps, and between each two of them an activation: None is the plain square.

    `reference` is the model itself, in double precision: what answers are compared with.
    """

    shape: tuple[int, ...]
    affines: tuple[Affine, ...]
    activations: tuple[Polynomial | None, ...]
    windows: Windows | None
    reference: nn.Module = field(repr=False)

    @property
    def features(self) -> int:
        """Numbers in a row."""
        return int(self.affines[0].weight.shape[1])

    @property
    def outputs(self) -> int:
        """Numbers in an answer."""
        return int(self.affines[-1].weight.shape[0])

    @property
    def depth(self) -> int:
        """Levels of multiplication of the whole network."""
        inner = sum(1 if a is None else a.depth for a in self.activations)
        return len(self.affines) + inner

    def plain(self, rows: npt.ArrayLike) -> Reals:
        """Return the model's own answers [n, outputs] for rows [n, features]."""
        with torch.no_grad():
            batch = torch.as_tensor(np.asarray(rows, dtype=np.float64))
            answers = self.reference(batch.reshape(-1, *self.shape))
        return np.asarray(answers.reshape(len(batch), -1).numpy(), dtype=np.float64)

    def approximate(self, rows: npt.ArrayLike, *, hidden: bool = False) -> Reals:
        """Return what exact arithmetic gives for the network as it is compiled.

        `hidden` stops in front of the last affine map.
        """
        values = np.asarray(rows, dtype=np.float64).reshape(-1, self.features)
        for affine, activation in zip(self.affines[:-1], self.activations, strict=True):
            values = values @ affine.weight.T + affine.bias
            values = values**2 if activation is None else activation(values * activation.bound)
        last = self.affines[-1]
        return values if hidden else values @ last.weight.T + last.bias


def read(
    model: nn.Module,
    shape: tuple[int, ...],
    approximations: Approximation | Sequence[Approximation] = (),
    *,
    reshapes: tuple[type[nn.Module], ...] = (),
) -> Network:
    """Read a trained model that takes rows [n, *shape].

    `approximations` says how ReLU, GELU, SiLU, sigmoid and tanh are approximated, in their order,
    or one way for all. `reshapes` are the caller's own modules that only reshape.
    Errors: `BadParameters` names the first layer that has no encrypted form.
    """
    model = copy.deepcopy(model).double().eval()
    one = isinstance(approximations, Approximation)
    ways = iter(() if isinstance(approximations, Approximation) else tuple(approximations))
    affines: list[Affine] = []
    activations: list[Polynomial | None] = []
    segment: list[nn.Module] = []
    windows: Windows | None = None
    here = shape
    for place, layer in _leaves(model):
        if type(layer) in LINEAR or type(layer) in reshapes:
            segment.append(layer)
            continue
        affine, after = _affine(segment, here)
        if not affines:
            windows = _windows(segment, here, affine)
        name = APPROXIMATED.get(type(layer))
        if isinstance(layer, Square):
            activation = None
            scaled, factor, constant = affine, 1.0, 0.0
        elif isinstance(layer, Quadratic):
            activation, scaled, factor, constant = _quadratic(layer, affine)
        elif name is not None:
            way = approximations if one else next(ways, None)
            if not isinstance(way, Approximation):
                raise BadParameters(
                    f"model.{place}: {type(layer).__name__} is approximated by a polynomial, and "
                    "no bound and degree were declared for it",
                    field=f"model.{place}",
                    value=type(layer).__name__,
                )
            activation = approximate(name, bound=way.bound, degree=way.degree)
            scaled = Affine(affine.weight / way.bound, affine.bias / way.bound)
            factor, constant = 1.0, 0.0
        else:
            raise BadParameters(
                f"model.{place}: a layer of type {type(layer).__name__} has no encrypted form",
                field=f"model.{place}",
                value=type(layer).__name__,
                allowed=sorted(kind.__name__ for kind in (*LINEAR, *APPROXIMATED, Square)),
            )
        affines.append(scaled)
        activations.append(activation)
        segment, here = [_Scale(factor, constant)], after
    affine, _ = _affine(segment, here)
    if not affines:
        windows = _windows(segment, here, affine)
    affines.append(affine)
    return Network(shape, tuple(affines), tuple(activations), windows, model)


def _leaves(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(model, nn.Sequential):
        yield prefix or "0", model
        return
    for name, child in model.named_children():
        yield from _leaves(child, f"{prefix}.{name}" if prefix else name)


class _Scale(nn.Module):
    """What of an activation is left to the next affine map: factor z + constant."""

    def __init__(self, factor: float, constant: float) -> None:
        super().__init__()
        self.factor, self.constant = factor, constant

    def forward(self, rows: Tensor) -> Tensor:
        return self.factor * rows + self.constant


def _quadratic(layer: Quadratic, affine: Affine) -> tuple[Polynomial | None, Affine, float, float]:
    """Complete the square: a x^2 + b x + c = a (x + b / 2a)^2 + c - b^2 / 4a."""
    a, b, c = (float(value) for value in layer.coefficients.detach())
    if not abs(a) * 64 >= abs(b) or a == 0.0:
        # The shift would be far larger than what it is added to, and eat the precision.
        raise BadParameters(
            "a learned quadratic whose x^2 has lost its weight beside x is a linear layer; "
            "leave it out or train it again",
            field="model",
            value="Quadratic",
        )
    shift = b / (2 * a)
    shifted = Affine(affine.weight, affine.bias + shift)
    return None, shifted, a, c - a * shift * shift


def _affine(segment: list[nn.Module], shape: tuple[int, ...]) -> tuple[Affine, tuple[int, ...]]:
    run = nn.Sequential(*segment).double().eval()
    size = int(np.prod(shape))
    with torch.no_grad():
        zero = run(torch.zeros(1, *shape, dtype=torch.float64))
        after = tuple(zero.shape[1:])
        outputs = zero.numel()
        if size * outputs > MAX_ENTRIES:
            raise BadParameters(
                f"model: a layer from {size} to {outputs} numbers is too large",
                field="model",
                value=size * outputs,
                allowed=MAX_ENTRIES,
            )
        columns = []
        for start in range(0, size, 256):
            unit = torch.zeros(min(256, size - start), size, dtype=torch.float64)
            unit[torch.arange(len(unit)), start + torch.arange(len(unit))] = 1.0
            columns.append(
                run(unit.reshape(-1, *shape)).reshape(len(unit), -1) - zero.reshape(1, -1)
            )
        weight = torch.cat(columns).T
    if not bool(torch.isfinite(weight).all() and torch.isfinite(zero).all()):
        raise BadParameters("model: weights that are not finite", field="model")
    return Affine(weight.contiguous().numpy(), zero.reshape(-1).numpy()), after


def _windows(segment: list[nn.Module], shape: tuple[int, ...], affine: Affine) -> Windows | None:
    """The windows of the first convolution, where the whole first map looks through them."""
    first = next((layer for layer in segment if isinstance(layer, nn.Conv2d)), None)
    if first is None:
        return None
    before = nn.Sequential(*segment[: segment.index(first)])
    with torch.no_grad():
        image = tuple(before(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
    if len(image) != 3 or np.prod(image) != affine.weight.shape[1]:
        return None
    if isinstance(first.padding, str) or first.padding_mode != "zeros":
        return None
    numbers = torch.arange(1, int(np.prod(image)) + 1, dtype=torch.float64).reshape(1, *image)
    unfolded = nn.functional.unfold(
        numbers, first.kernel_size, first.dilation, first.padding, first.stride
    )
    index = unfolded[0].round().long().numpy() - 1
    count = index.shape[1]
    if affine.weight.shape[0] % count:
        return None
    rows = np.arange(affine.weight.shape[0]) % count
    seen = np.zeros((count, affine.weight.shape[1] + 1), dtype=bool)
    seen[np.arange(count)[None, :], index] = True
    if (affine.weight[~seen[rows][:, :-1]] != 0).any():
        return None
    return Windows(index)
