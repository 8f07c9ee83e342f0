"""Networks from `torch.nn.Sequential`: every module is translated or refused by its name."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from secure.equivariant.errors import UnsupportedOperation
from secure.equivariant.model import Model
from secure.equivariant.network import Network
from secure.equivariant.operations import (
    Activation,
    BatchNorm,
    Convolution,
    Flatten,
    FunctionName,
    Layer,
    Linear,
    Pool,
    Shape,
    Softmax,
)

_FUNCTIONS: dict[type[nn.Module], FunctionName] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
}
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""What does nothing in evaluation."""


def from_torch(module: nn.Module, shape: Shape) -> Model:
    """Describe a network in evaluation mode; `shape` is that of one row.

    Raises `UnsupportedOperation` with the name and the type of the first module that has no
    translation, or that has an option which would change the result.
    """
    if not isinstance(module, nn.Sequential):
        raise _unknown("model", module)
    shape = tuple(shape)
    layers: list[Layer] = []
    entering = shape
    for name, part in _flat(module, ""):
        if isinstance(part, nn.Flatten) and not layers:
            # Rows that are flattened first get a key over all their features.
            entering = shape = Flatten().shape(shape)
            continue
        for layer in _layer(name, part, entering):
            layers.append(layer)
            entering = layer.shape(entering)
    network = Network(input=shape, layers=tuple(layers))
    wanted = network.tensors()
    state = module.state_dict()
    return Model(network, {name: state[name].detach().clone() for name in wanted})


def _flat(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, part in module.named_children():
        if type(part) is nn.Sequential:
            yield from _flat(part, f"{prefix}{name}.")
        else:
            yield prefix + name, part


def _layer(name: str, part: nn.Module, entering: Shape) -> list[Layer]:
    """Return the layer of a module, none for one that does nothing, or refuse it."""
    layer: Layer
    match part:
        case nn.Linear():
            layer = Linear(
                name=name,
                inputs=part.in_features,
                outputs=part.out_features,
                bias=part.bias is not None,
            )
        case nn.Conv2d() if (
            part.groups == 1
            and part.dilation == (1, 1)
            and part.padding_mode == "zeros"
            and not isinstance(part.padding, str)
        ):
            layer = Convolution(
                name=name,
                inputs=part.in_channels,
                outputs=part.out_channels,
                kernel=_pair(part.kernel_size),
                stride=_pair(part.stride),
                padding=_pair(part.padding),
                bias=part.bias is not None,
            )
        case nn.BatchNorm1d() | nn.BatchNorm2d() if part.affine and part.track_running_stats:
            layer = BatchNorm(name=name, features=part.num_features, epsilon=part.eps)
        case nn.MaxPool2d() if part.dilation in (1, (1, 1)) and not part.ceil_mode:
            layer = _pool("max_pool", part)
        case nn.AvgPool2d() if (
            not part.ceil_mode
            and part.divisor_override is None
            and (part.count_include_pad or _pair(part.padding) == (0, 0))
        ):
            layer = _pool("avg_pool", part)
        case nn.AdaptiveAvgPool2d() if part.output_size in (1, (1, 1)) and len(entering) == 3:
            layer = Pool(op="avg_pool", kernel=entering[1:], stride=entering[1:])
        case nn.Flatten() if part.start_dim == 1 and part.end_dim == -1:
            layer = Flatten()
        case nn.GELU():
            layer = Activation(function="gelu_tanh" if part.approximate == "tanh" else "gelu")
        case nn.LeakyReLU() if part.negative_slope == 0.01:
            layer = Activation(function="leaky_relu")
        case nn.ELU() if part.alpha == 1:
            layer = Activation(function="elu")
        case nn.Softplus() if part.beta == 1 and part.threshold == 20:
            layer = Activation(function="softplus")
        case nn.Softmax() if part.dim in (1, -1):
            layer = Softmax()
        case _ if type(part) in _FUNCTIONS:
            layer = Activation(function=_FUNCTIONS[type(part)])
        case _ if isinstance(part, _NOTHING):
            return []
        case _:
            raise _unknown(name, part)
    return [layer]


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _pool(op: str, part: nn.MaxPool2d | nn.AvgPool2d) -> Pool:
    kernel, stride = _pair(part.kernel_size), _pair(part.stride)
    return Pool.model_validate(
        {"op": op, "kernel": kernel, "stride": stride, "padding": _pair(part.padding)}
    )


def _unknown(name: str, part: nn.Module) -> UnsupportedOperation:
    return UnsupportedOperation(
        f"module {name}: {type(part).__name__}({part.extra_repr()}) has no exact sealing",
        field=name,
        value=type(part).__name__,
        allowed="a Sequential of Linear, Conv2d, BatchNorm, pools, Flatten, Softmax, Dropout, "
        "ReLU, LeakyReLU, Tanh, GELU, SiLU, ELU, Softplus, Sigmoid, with default options",
    )
