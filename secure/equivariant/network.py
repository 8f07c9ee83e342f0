"""Plain networks: layers one after another, on rows of features or on images.

The key at each boundary is drawn from the largest group that commutes with everything up to the
next linear layer or convolution: W' = K_out W K_in^-1, b' = K_out b. The data silo keeps K_in of
the first and the inverse of K_out of the last.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from secure.equivariant.architecture import Architecture, Keys, Seen, Transformed
from secure.equivariant.errors import BadModel
from secure.equivariant.groups import ORTHOGONAL, SIGNED, Dense, Group, Monomial
from secure.equivariant.inputs import Inputs, Rows
from secure.equivariant.operations import BatchNorm, Layer, Shape, Weighted, Weights, groups

if TYPE_CHECKING:
    from secure.equivariant.model import Model

DENSE_LIMIT = 4096
"""The widest boundary that gets a dense key; wider ones a signed permutation."""


class Network(Architecture):
    """Layers applied in turn to rows of shape `input`."""

    kind: Literal["network"] = "network"
    input: tuple[PositiveInt, ...] = Field(min_length=1, max_length=3)
    layers: tuple[Annotated[Layer, Field(discriminator="op")], ...] = Field(min_length=1)

    def shapes(self) -> list[Shape]:
        """Return the shape of a row before each layer, and last the answer's."""
        shapes: list[Shape] = [self.input]
        for layer in self.layers:
            shapes.append(layer.shape(shapes[-1]))
        if len(shapes[-1]) != 1:
            raise BadModel(
                f"layers: the answer has shape {list(shapes[-1])}; end with a flat layer",
                field="layers",
                value=list(shapes[-1]),
                allowed="[classes]",
            )
        return shapes

    @property
    def takes(self) -> Rows:
        """Rows of the input's shape."""
        return Rows(shape=self.input)

    def tensors(self) -> dict[str, Shape]:
        """Names and shapes of all weights."""
        self.shapes()
        weighted = [part for part in self.layers if isinstance(part, Weighted | BatchNorm)]
        if len({part.name for part in weighted}) < len(weighted):
            raise BadModel("layers: two layers have one name", field="layers")
        return {name: shape for part in weighted for name, shape in part.tensors().items()}

    def forward(self, weights: Weights, inputs: Inputs, seen: Seen | None = None) -> Tensor:
        """Run the layers; the states are named by the layer's place and operation."""
        x = inputs["rows"]
        for place, layer in enumerate(self.layers):
            x = layer.run(x, weights)
            if seen is not None:
                seen[f"{place} {layer.op}"] = x
        return x

    def transform(self, weights: Weights, secret: bytes) -> Transformed:
        """Seal every layer; batch norms are folded into the layer before them first."""
        plain, folded = fold(self, weights)
        shapes, allowed = plain.shapes(), groups(plain.layers)
        keys = Keys(secret)
        key = entry = keys.draw("input", affordable(allowed[0], shapes[0][0]), shapes[0][0])
        sealed: dict[str, Tensor] = {}
        for place, layer in enumerate(plain.layers):
            if isinstance(layer, Weighted):
                group = affordable(allowed[place + 1], layer.outputs)
                following = keys.draw(layer.name, group, layer.outputs)
                weight = folded[f"{layer.name}.weight"]
                sealed[f"{layer.name}.weight"] = following.rows(key.columns(weight))
                if layer.bias:
                    sealed[f"{layer.name}.bias"] = following.rows(folded[f"{layer.name}.bias"])
                key = following
            else:
                key = layer.through(key, shapes[place])
        return Transformed(
            plain,
            sealed,
            cast(Monomial | Dense, entry),
            cast(Monomial | Dense, key),
            keys.by_name,
            tuple(keys.boundaries),
        )


def affordable(group: Group, size: int) -> Group:
    """Return the group to draw from: a dense key of a very wide boundary costs too much."""
    return SIGNED if group == ORTHOGONAL and size > DENSE_LIMIT else group


def folded(model: Model) -> Model:
    """Return a network without batch norms, as sealing leaves it."""
    network, weights = fold(cast(Network, model.architecture), model.weights)
    return replace(model, architecture=network, weights=weights)


def fold(network: Network, weights: Weights) -> tuple[Network, dict[str, Tensor]]:
    """Return the network without batch norms; each is folded into the layer before it."""
    layers: list[Layer] = []
    folded = dict(weights)
    for layer in network.layers:
        before = layers[-1] if layers else None
        if not isinstance(layer, BatchNorm) or not isinstance(before, Weighted):
            layers.append(layer)
            continue
        gain, shift, mean, variance = (folded.pop(name) for name in layer.tensors())
        factor = gain / (variance + layer.epsilon).sqrt()
        weight = folded[f"{before.name}.weight"]
        bias = folded.get(f"{before.name}.bias", torch.zeros_like(mean))
        folded[f"{before.name}.weight"] = weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
        folded[f"{before.name}.bias"] = (bias - mean) * factor + shift
        layers[-1] = before.model_copy(update={"bias": True})
    return network.model_copy(update={"layers": tuple(layers)}), folded
