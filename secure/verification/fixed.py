"""Fixed-point networks: integers from end to end, so that honest answers are equal to the bit.

    network = FixedNetwork.from_floats([(weight, bias), (weight2, bias2)], bound=4.0)
    products = network.compute(network.integers(rows))
    logits = network.reals(products[-1])

A network of linear layers with ReLU between. Values carry 2^-12 per unit, weights 2^-12; a product
carries 2^-24, and the ReLU after it shifts back by 12 bits, rounding to nearest, ties up. Whoever
computes returns the product of every layer; whoever checks (`freivalds`) redoes the cheap steps
between them and checks the products without redoing them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secure.errors import BadParameters

Integers = npt.NDArray[np.int64]

BITS = 12
"""Bits after the point, of values and of weights."""

LIMIT = 1 << 60
"""Products stay below this, half of the prime of `freivalds`: equal there, they are equal."""


@dataclass(frozen=True)
class FixedLinear:
    """y = x W^T + b over the integers.

    Shapes: `weight` [outputs, inputs], `bias` [outputs], x [rows, inputs] with entries at most
    `bound` in absolute value, y [rows, outputs]. No output or partial sum exceeds `reach`.
    Errors: `BadParameters` where some product could reach 2^60.
    """

    weight: Integers = field(repr=False)
    bias: Integers = field(repr=False)
    bound: int
    reach: int = field(init=False)

    def __post_init__(self) -> None:
        shapes = (self.weight.ndim, self.bias.shape) == (2, self.weight.shape[:1])
        if not shapes or self.weight.dtype != np.int64 or self.bias.dtype != np.int64:
            raise BadParameters(
                "a layer has int64 weights [outputs, inputs] and a bias [outputs]", field="weight"
            )
        # Python's integers: nothing that is given here may wrap around before it is refused.
        sums = np.abs(self.weight.astype(object)).sum(axis=1) * self.bound
        reach = int((sums + np.abs(self.bias.astype(object))).max())
        object.__setattr__(self, "reach", reach)
        if self.bound < 1 or self.reach >= LIMIT:
            raise BadParameters(
                f"a product could reach {self.reach}; take fewer bits or a smaller bound",
                field="bound",
                value=self.bound,
                allowed=f"products below {LIMIT}",
            )

    def compute(self, x: Integers) -> Integers:
        """Return the product, exactly; entries of x above the bound are `BadParameters`."""
        self.check_input(x)
        if self.reach < 1 << 53:  # doubles are exact, in any order of summation, and faster
            product = x.astype(np.float64) @ self.weight.T.astype(np.float64)
            return product.astype(np.int64) + self.bias
        return x @ self.weight.T + self.bias

    def check_input(self, x: Integers) -> None:
        """Refuse inputs of another shape or type or above the bound with `BadParameters`."""
        if x.dtype != np.int64 or x.ndim != 2 or x.shape[1] != self.weight.shape[1]:
            raise BadParameters(
                "inputs of a layer are int64 [rows, inputs]",
                field="x",
                value=[str(x.dtype), *x.shape],
                allowed=["int64", "rows", self.weight.shape[1]],
            )
        if x.size and int(max(x.max(), -x.min())) > self.bound:
            raise BadParameters(
                "an input is above the declared bound", field="x", allowed=self.bound
            )


@dataclass(frozen=True)
class FixedNetwork:
    """Linear layers with ReLU between them, over integers."""

    layers: tuple[FixedLinear, ...]

    @classmethod
    def from_floats(
        cls,
        layers: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]],
        *,
        bound: float,
    ) -> FixedNetwork:
        """Round trained layers (weight [outputs, inputs], bias [outputs]) to the fixed point.

        `bound` is the declared largest absolute value of an input. Bounds of later layers follow by
        interval arithmetic, so no input within it can overflow. Errors: `BadParameters` for weights
        that are not finite, or too deep or wide a network for 60 bits.
        """
        made: list[FixedLinear] = []
        largest = int(np.ceil(bound * (1 << BITS)))
        for weight, bias in layers:
            w, b = np.asarray(weight, dtype=np.float64), np.asarray(bias, dtype=np.float64)
            if not (np.isfinite(w).all() and np.isfinite(b).all()):
                raise BadParameters("a weight is not finite", field="weight")
            layer = FixedLinear(_rounded(w, BITS), _rounded(b, 2 * BITS), largest)
            made.append(layer)
            largest = max(1, (layer.reach >> BITS) + 1)
        return cls(tuple(made))

    def integers(self, rows: npt.ArrayLike) -> Integers:
        """Return rows [rows, inputs] as integers; `BadParameters` outside the declared bound."""
        values = np.asarray(rows, dtype=np.float64)
        if not np.isfinite(values).all():
            raise BadParameters("a row holds values that are not finite", field="rows")
        x = _rounded(values, BITS)
        self.layers[0].check_input(x)
        return x

    def reals(self, product: Integers) -> npt.NDArray[np.float64]:
        """Return the reals that a layer's products stand for."""
        return product.astype(np.float64) / (1 << 2 * BITS)

    def compute(self, x: Integers) -> list[Integers]:
        """Return the product of every layer, the last one being the answer."""
        products = [self.layers[0].compute(x)]
        for layer in self.layers[1:]:
            products.append(layer.compute(between(products[-1])))
        return products


def between(product: Integers) -> Integers:
    """ReLU, and the shift from a product's scale back to that of values."""
    return (np.maximum(product, 0) + (1 << (BITS - 1))) >> BITS


def _rounded(values: npt.NDArray[np.float64], bits: int) -> Integers:
    scaled = np.rint(values * float(1 << bits))
    if scaled.size and np.abs(scaled).max() >= float(1 << 52):
        raise BadParameters("a value has no room in the fixed point", field="values")
    return scaled.astype(np.int64)
