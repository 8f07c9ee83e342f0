"""The operations of a plain network, and the group that commutes with each.

| operation | group before it | after it |
|---|---|---|
| linear, convolution | any (orthogonal is drawn) | any |
| ReLU, leaky ReLU, max-pool | positive factors and a permutation | the same |
| tanh | signs and a permutation | the same |
| square | signs and a permutation | the permutation |
| abs | signs, factors and a permutation | factors and the permutation |
| GELU, SiLU, softplus, ELU, sigmoid, softmax | a permutation | the same |
| average pool, flatten | any, per channel | the same, at every position |
| batch norm (evaluation) | folded into the layer before it | |

A convolution's key acts on channels. A permutation of pixels commutes with no convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor
from torch.nn import functional

from secure.equivariant.errors import BadModel, UnsupportedOperation
from secure.equivariant.groups import (
    ORTHOGONAL,
    PERMUTATION,
    SCALED,
    SIGNED,
    SIGNED_SCALED,
    Group,
    Key,
    Monomial,
)

Weights = Mapping[str, Tensor]
Shape = tuple[int, ...]
Pair = tuple[PositiveInt, PositiveInt]


class Part(BaseModel):
    """Part of a description: frozen, strict, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@dataclass(frozen=True)
class Function:
    """A function of one coordinate at a time, and the group that commutes with it."""

    run: Callable[[Tensor], Tensor]
    group: Group
    even: bool = False


FUNCTIONS: dict[str, Function] = {
    "relu": Function(functional.relu, SCALED),
    "leaky_relu": Function(functional.leaky_relu, SCALED),
    "tanh": Function(torch.tanh, SIGNED),
    # A factor d would leave as d^2, with twice its logarithm: signs are what is taken.
    "square": Function(torch.square, SIGNED, even=True),
    "abs": Function(torch.abs, SIGNED_SCALED, even=True),
    "gelu": Function(functional.gelu, PERMUTATION),
    "gelu_tanh": Function(lambda x: functional.gelu(x, approximate="tanh"), PERMUTATION),
    "silu": Function(functional.silu, PERMUTATION),
    "softplus": Function(functional.softplus, PERMUTATION),
    "elu": Function(functional.elu, PERMUTATION),
    "sigmoid": Function(torch.sigmoid, PERMUTATION),
}
FunctionName = Literal[
    "relu",
    "leaky_relu",
    "tanh",
    "square",
    "abs",
    "gelu",
    "gelu_tanh",
    "silu",
    "softplus",
    "elu",
    "sigmoid",
]


class Linear(Part):
    """y = W x + b."""

    op: Literal["linear"] = "linear"
    name: str
    inputs: PositiveInt
    outputs: PositiveInt
    bias: bool = True

    def tensors(self) -> dict[str, Shape]:
        """Names and shapes of the weights."""
        return _weighted(self.name, (self.outputs, self.inputs), self.bias)

    def shape(self, entering: Shape) -> Shape:
        """The shape of one row's output."""
        if entering != (self.inputs,):
            raise _unfit(self.name, entering, (self.inputs,))
        return (self.outputs,)

    def run(self, x: Tensor, weights: Weights) -> Tensor:
        """Apply the layer to rows."""
        return functional.linear(
            x, weights[f"{self.name}.weight"], weights.get(f"{self.name}.bias")
        )


class Convolution(Part):
    """A two-dimensional convolution with zero padding."""

    op: Literal["convolution"] = "convolution"
    name: str
    inputs: PositiveInt
    outputs: PositiveInt
    kernel: Pair
    stride: Pair = (1, 1)
    padding: tuple[int, int] = (0, 0)
    bias: bool = True

    def tensors(self) -> dict[str, Shape]:
        """Names and shapes of the weights."""
        return _weighted(self.name, (self.outputs, self.inputs, *self.kernel), self.bias)

    def shape(self, entering: Shape) -> Shape:
        """The shape of one row's output."""
        if len(entering) != 3 or entering[0] != self.inputs:
            raise _unfit(self.name, entering, (self.inputs, "height", "width"))
        return (self.outputs, *_slid(self.name, entering, self.kernel, self.stride, self.padding))

    def run(self, x: Tensor, weights: Weights) -> Tensor:
        """Apply the layer to rows."""
        bias = weights.get(f"{self.name}.bias")
        return functional.conv2d(x, weights[f"{self.name}.weight"], bias, self.stride, self.padding)


class BatchNorm(Part):
    """Batch normalisation in evaluation mode; it must follow a linear layer or convolution."""

    op: Literal["batch_norm"] = "batch_norm"
    name: str
    features: PositiveInt
    epsilon: float = 1e-5

    def tensors(self) -> dict[str, Shape]:
        """Names and shapes of the weights."""
        names = ("weight", "bias", "running_mean", "running_var")
        return {f"{self.name}.{name}": (self.features,) for name in names}

    def shape(self, entering: Shape) -> Shape:
        """The shape of one row's output."""
        if entering[0] != self.features:
            raise _unfit(self.name, entering, (self.features,))
        return entering

    def run(self, x: Tensor, weights: Weights) -> Tensor:
        """Apply the layer to rows."""
        weight, bias, mean, variance = (weights[name] for name in self.tensors())
        return functional.batch_norm(x, mean, variance, weight, bias, eps=self.epsilon)

    def before(self, after: Group) -> Group:
        """One that was not folded has no key: its factors differ from feature to feature."""
        raise self._unfolded()

    def through(self, key: Key, entering: Shape) -> Key:
        """As `before`."""
        raise self._unfolded()

    def _unfolded(self) -> UnsupportedOperation:
        return UnsupportedOperation(
            f"batch_norm {self.name}: it must follow a linear layer or convolution",
            field=self.name,
            value=self.op,
            allowed="directly behind linear or convolution",
        )


class Activation(Part):
    """A function of every coordinate."""

    op: Literal["activation"] = "activation"
    function: FunctionName

    def shape(self, entering: Shape) -> Shape:
        """The shape of one row's output."""
        return entering

    def run(self, x: Tensor, weights: Weights) -> Tensor:
        """Apply the function."""
        return FUNCTIONS[self.function].run(x)

    def before(self, after: Group) -> Group:
        """The group before the function, where `after` is allowed behind it."""
        known = FUNCTIONS[self.function]
        return Group(
            signs=known.group.signs and (known.even or after.signs),
            scales=known.group.scales and after.scales,
        )

    def through(self, key: Key, entering: Shape) -> Key:
        """The key behind the function, of the key before it."""
        if FUNCTIONS[self.function].even and isinstance(key, Monomial):
            return Monomial(key.order, FUNCTIONS[self.function].run(key.scale))
        return key


class Pool(Part):
    """Maximum or average over windows; an average counts its padding."""

    op: Literal["max_pool", "avg_pool"]
    kernel: Pair
    stride: Pair
    padding: tuple[int, int] = (0, 0)

    def shape(self, entering: Shape) -> Shape:
        """The shape of one row's output."""
        if len(entering) != 3:
            raise _unfit(self.op, entering, ("channels", "height", "width"))
        return (entering[0], *_slid(self.op, entering, self.kernel, self.stride, self.padding))

    def run(self, x: Tensor, weights: Weights) -> Tensor:
        """Apply the pool to rows."""
        pool = functional.max_pool2d if self.op == "max_pool" else functional.avg_pool2d
        return pool(x, self.kernel, self.stride, self.padding)

    def before(self, after: Group) -> Group:
        """The group before the pool, where `after` is allowed behind it."""
        return Group(scales=after.scales) if self.op == "max_pool" else after

    def through(self, key: Key, entering: Shape) -> Key:
        """The key behind the pool."""
        return key


class Flatten(Part):
    """Channels and positions become one dimension."""

    op: Literal["flatten"] = "flatten"

    def shape(self, entering: Shape) -> Shape:
        """The shape of one row's output."""
        return (_positions(entering) * entering[0],)

    def run(self, x: Tensor, weights: Weights) -> Tensor:
        """Flatten rows."""
        return x.flatten(1)

    def before(self, after: Group) -> Group:
        """The group before the flattening."""
        return after

    def through(self, key: Key, entering: Shape) -> Key:
        """The key behind the flattening."""
        return key.repeated(_positions(entering))


class Softmax(Part):
    """Probabilities over the features."""

    op: Literal["softmax"] = "softmax"

    def shape(self, entering: Shape) -> Shape:
        """The shape of one row's output."""
        if len(entering) != 1:
            raise _unfit(self.op, entering, ("features",))
        return entering

    def run(self, x: Tensor, weights: Weights) -> Tensor:
        """Apply the softmax to rows."""
        return torch.softmax(x, dim=-1)

    def before(self, after: Group) -> Group:
        """The group before the softmax: a factor or a sign would change the probabilities."""
        return PERMUTATION

    def through(self, key: Key, entering: Shape) -> Key:
        """The key behind the softmax."""
        return key


Weighted = Linear | Convolution
Layer = Linear | Convolution | BatchNorm | Activation | Pool | Flatten | Softmax


def groups(layers: tuple[Layer, ...]) -> list[Group]:
    """Return the group allowed before each layer, and last the one at the output."""
    allowed = [ORTHOGONAL]
    for layer in reversed(layers):
        allowed.append(ORTHOGONAL if isinstance(layer, Weighted) else layer.before(allowed[-1]))
    return allowed[::-1]


def _weighted(name: str, shape: Shape, bias: bool) -> dict[str, Shape]:
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def _positions(shape: Shape) -> int:
    return int(torch.Size(shape[1:]).numel())


def _slid(name: str, entering: Shape, kernel: Pair, stride: Pair, padding: Pair) -> Shape:
    """Height and width behind a window that slides."""
    left = tuple(
        (size + 2 * pad - window) // step + 1
        for size, window, step, pad in zip(entering[1:], kernel, stride, padding, strict=True)
    )
    if min(left) < 1 or min(padding) < 0:
        raise _unfit(name, entering, "at least the window")
    return left


def _unfit(name: str, found: Shape, wanted: object) -> BadModel:
    return BadModel(
        f"layer {name}: it is entered by rows of shape {list(found)} and takes {wanted}",
        field=name,
        value=list(found),
        allowed=str(wanted),
    )
