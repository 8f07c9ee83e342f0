"""Models by name, built from a public seed; weights travel as safetensors only.

`logistic`, `mlp` and `cnn` are here; any other name is an entry point of group `tacit.models` of
an installed package: a callable `(input_shape, n_classes) -> nn.Module`. Whether a silo runs it
is the silo's policy (`model_packages`). Every model takes rows [n, *input_shape] and gives one
logit per class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import torch
from torch import Tensor, nn

from federation.errors import BadInput
from secure.ckks.modules import Quadratic, Square

GROUP = "tacit.models"
OWN = ("logistic", "mlp", "cnn")


def build_model(
    spec: Mapping[str, Any], input_shape: tuple[int, ...], n_classes: int, *, seed: int
) -> nn.Module:
    """Build a model; the same spec, shape and seed give the same weights everywhere.

    Raises `BadInput` for an unknown name, or a cnn on rows that are no images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match spec["name"]:
            case "logistic":
                return _logistic(input_shape, n_classes)
            case "mlp":
                return _mlp(spec, input_shape, n_classes)
            case "cnn":
                return _cnn(spec, input_shape, n_classes)
            case name:
                factory = _entry_point(str(name)).load()
                model: nn.Module = factory(input_shape, n_classes)
                return model


def package_of(name: str) -> str | None:
    """The distribution that a model's name comes from; None for our own."""
    if name in OWN:
        return None
    distribution = _entry_point(name).dist
    return distribution.name if distribution is not None else ""


def _entry_point(name: str) -> EntryPoint:
    found = entry_points(group=GROUP)
    for point in found:
        if point.name == name:
            return point
    known = [*OWN, *sorted(found.names)]
    raise BadInput(
        f"model.name: no model {name!r}; known: {', '.join(known)}",
        field="model.name",
        value=name,
        allowed=known,
    )


def _logistic(input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """Multinomial logistic regression; convex, so it starts at zero."""
    linear = nn.Linear(_size(input_shape), n_classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.Flatten(), linear)


def _mlp(spec: Mapping[str, Any], input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    width = _size(input_shape)
    for hidden in spec["hidden"]:
        layers += [nn.Linear(width, hidden), _activation(spec)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, n_classes))


def _cnn(spec: Mapping[str, Any], input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """Three-by-three convolutions, each followed by average pooling; no normalisation."""
    if len(input_shape) not in (2, 3):
        raise BadInput(
            f"model.name: a cnn needs images, not rows of shape {list(input_shape)}",
            field="model.name",
            value="cnn",
            allowed=["logistic", "mlp"],
        )
    image = input_shape if len(input_shape) == 3 else (1, *input_shape)
    layers: list[nn.Module] = [Image(image)]
    channels, height, width = image
    for wider in spec["channels"]:
        layers += [nn.Conv2d(channels, wider, 3, padding=1), _activation(spec), nn.AvgPool2d(2)]
        channels, height, width = wider, height // 2, width // 2
        if min(height, width) == 0:
            raise BadInput(
                f"model.channels: {len(spec['channels'])} halvings leave nothing of an image of "
                f"{image[1]} by {image[2]}",
                field="model.channels",
                value=list(spec["channels"]),
            )
    last = channels * height * width
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(last, 32), _activation(spec), nn.Linear(32, n_classes)
    )


class Image(nn.Module):
    """Give every row its channel dimension."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows as [n, channels, height, width]."""
        return rows.reshape(len(rows), *self.shape)


def _activation(spec: Mapping[str, Any]) -> nn.Module:
    return _ACTIVATIONS[spec["activation"]]()


_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "square": Square,
    "quadratic": Quadratic,
}


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
