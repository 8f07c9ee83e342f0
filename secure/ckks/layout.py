"""Where numbers lie: packed into the slots of one ciphertext, or one ciphertext per feature.

`Packed` (latency): a row fills the slots periodically, and matrices are products by rotations.
`Batched` (throughput): slot j belongs to row j, a feature is a ciphertext, and a matrix is sums of
ciphertexts times numbers, without a rotation. Each says how its noise spreads
(`secure.ckks.bounds`): a `spread` is the matrix from the slots, or features, that a result is read
from to those that it depends on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from secure.ckks.network import Affine, Network
from secure.ckks.noise import Noise, encoding_error, near, ties
from secure.ckks.packing import Matvec, padded
from secure.ckks.schedule import Stage
from secure.ckks.spread import Spread

Reals = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

DENSE = 1 << 22  # entries up to which the slots of a layer are followed one by one
WIDEST = 1 << 24  # entries of a padded matrix; beyond, its encoded diagonals take gigabytes


@dataclass(frozen=True)
class Rounding:
    """What encoding changes of a layer: `weights` [results, inputs], known but for `loose`; bias.

    Weights are complex where they share a polynomial: rounding a coefficient moves every slot.
    """

    weights: npt.NDArray[np.complex128] | Reals = field(repr=False)
    loose: Reals = field(repr=False)
    bias: Reals = field(repr=False)

    def fixed(self, error: float) -> Reals:
        """Bound what the bias, and an error of every input, make of it."""
        fixed: Reals = (np.abs(self.weights) + self.loose).sum(axis=1) * error + self.bias
        return fixed

    def over(self, low: Reals, high: Reals) -> Reals:
        """Bound the rest for inputs in a box: its middle with signs, its width without."""
        middle, radius = (high + low) / 2, (high - low) / 2
        real = self.weights.real
        over: Reals = np.abs(real @ middle) + np.abs(real) @ radius
        return over + self.loose @ (np.abs(middle) + radius)

    def per_input(self) -> Reals:
        """Return the largest change of a result per unit of each input."""
        largest: Reals = (np.abs(self.weights.real) + self.loose).max(axis=0)
        return largest


class Layout(Protocol):
    """What the bound of a network needs to know of where its numbers lie."""

    @property
    def slots(self) -> int:
        """Numbers in a ciphertext."""
        ...

    @property
    def spreads(self) -> tuple[Spread, ...]:
        """How the noise of each layer spreads."""
        ...

    def inputs(self, values: Reals) -> Reals:
        """Lay out what belongs to the features of a row."""
        ...

    def place(self, layer: int, values: Reals, empty: float = 0.0) -> Reals:
        """Lay out what belongs to the results of an affine map, and `empty` where there is none."""
        ...

    def input_rounding(self) -> Reals:
        """Bound what rounding a row to integers changes in each result of the first layer."""
        ...

    def window(self, values: Reals) -> Reals:
        """Return what belongs to a layer's places in the order in which its slots are read."""
        ...

    def read(self, layer: int, values: Reals) -> Reals:
        """Return the worst of what the copies of each result of a layer have."""
        ...

    def drift(self, layer: int, level: int, noise: Noise) -> Reals:
        """Drift of a key switch after a layer, per result; a bound for all slots."""
        ...

    def rounding(self, layer: int, stage: Stage) -> Rounding:
        """Follow what encoding changes of the weights and the bias of a layer."""
        ...


@dataclass(frozen=True)
class Packed:
    """Every layer a product by rotations.

    `feature` [period] says what each slot of a row holds, -1 nothing; `results[i]` where the
    results of the i-th map lie. The answer is read from slot `start` on, where the slots behind it
    have the least drift; `rows[i]` is how many slots of the i-th result it depends on, 0 where that
    is too many to follow one by one.
    """

    slots: int
    feature: Places = field(repr=False)
    products: tuple[Matvec, ...]
    biases: tuple[Reals, ...] = field(repr=False)
    results: tuple[Places, ...] = field(repr=False)
    rows: tuple[int, ...]
    start: int

    @classmethod
    def of(cls, network: Network, slots: int) -> Packed | None:
        """Pack a network, its first layer in the cheaper of two ways; None where it is too wide."""
        first = network.affines[0]
        plain = np.arange(first.weight.shape[1])
        results = [np.arange(affine.weight.shape[0]) for affine in network.affines]
        feature = _filled(plain)
        product = _fitting(first.weight, plain, results[0], slots)
        if network.windows is not None and len(results) > 1:
            index = network.windows.index
            across = padded(index.shape[1])
            wide = np.full((padded(index.shape[0]), across), -1)
            wide[: index.shape[0], : index.shape[1]] = index
            spots = (
                np.arange(len(results[0])) // index.shape[1] * across
                + np.arange(len(results[0])) % index.shape[1]
            )
            looked = _through_windows(first, index, across, spots, wide.size, slots)
            if looked is not None and (product is None or looked.rotations < product.rotations):
                product, feature, results[0] = looked, wide.reshape(-1), spots
        products = [product]
        for before, after, affine in zip(results, results[1:], network.affines[1:], strict=False):
            products.append(_fitting(affine.weight, before, after, slots, products[-1]))
        if any(product is None for product in products):
            return None
        found = tuple(product for product in products if product is not None)
        biases = []
        for product, spots, affine in zip(found, results, network.affines, strict=True):
            bias = np.zeros(product.outputs)
            bias[spots] = affine.bias
            biases.append(bias)
        rows = _rows(found, network.outputs, slots)
        start = _start(rows, found[-1].outputs, slots)
        return cls(slots, feature, found, tuple(biases), tuple(results), rows, start)

    @property
    def period(self) -> int:
        """How many different numbers a fresh ciphertext holds."""
        return len(self.feature)

    @cached_property
    def spreads(self) -> tuple[Spread, ...]:
        """How the noise of each layer spreads."""
        pairs = zip(self.products, self.rows, strict=True)
        return tuple(_spread(product, rows, self.start, self.slots) for product, rows in pairs)

    def inputs(self, values: Reals) -> Reals:
        """Lay out a row: slot s holds feature `feature[s]`."""
        laid: Reals = np.where(self.feature < 0, 0.0, values[np.maximum(self.feature, 0)])
        return laid

    def place(self, layer: int, values: Reals, empty: float = 0.0) -> Reals:
        """Lay out what belongs to the results of an affine map, and `empty` where there is none."""
        laid = np.full(self.products[layer].outputs, empty)
        laid[self.results[layer]] = values
        return laid

    def input_rounding(self) -> Reals:
        """Half a unit in each of 2 n coefficients: by Cauchy and Schwarz n / sqrt(2) row norms.

        The values of a polynomial of degree 2n in n slots are an isometry up to sqrt(n).
        """
        norms = np.linalg.norm(self.products[0].matrix, axis=1)
        bound: Reals = self.period / np.sqrt(2.0) * norms
        return bound

    def window(self, values: Reals) -> Reals:
        """Return what belongs to a layer's places in the order in which its slots are read."""
        return np.roll(values, -self.start)

    def read(self, layer: int, values: Reals) -> Reals:
        """Return the worst of what the copies of each result of a layer have."""
        period = self.products[layer].outputs
        return copies(values, period)[(self.results[layer] - self.start) % period]

    def drift(self, layer: int, level: int, noise: Noise) -> Reals:
        """Drift of a key switch after a layer, per slot, or at worst over all copies."""
        if self.rows[layer]:
            read = (self.start + np.arange(self.rows[layer])) % self.slots
            return noise.switching_drift(level)[read]
        every = noise.switching_drift(level)
        worst: Reals = every.reshape(-1, self.products[layer].outputs).max(axis=0)
        return worst

    def rounding(self, layer: int, stage: Stage) -> Rounding:
        """Follow every encoded diagonal: each weight lies in one of them."""
        product = self.products[layer]
        slots = np.arange(max(product.inputs, product.outputs))
        values = np.stack([diagonal.values for diagonal in product.diagonals])
        errors, slack = encoding_error(values, stage.plain)
        weights = np.zeros((product.outputs, product.inputs), dtype=np.complex128)
        loose = np.zeros((product.outputs, product.inputs))
        for place, diagonal in enumerate(product.diagonals):
            spots = slots % product.outputs
            read = (slots + diagonal.giant + diagonal.baby) % product.inputs
            weights[spots, read] = errors[place, (slots + diagonal.giant) % len(slots)]
            loose[spots, read] = slack[place]
        bias, more = encoding_error(self.biases[layer][None, :], stage.after)
        return Rounding(weights, loose, np.abs(bias[0]) + more[0])


@dataclass(frozen=True)
class Batched:
    """A row per slot, a ciphertext per feature."""

    slots: int
    affines: tuple[Affine, ...] = field(repr=False)

    @cached_property
    def spreads(self) -> tuple[Spread, ...]:
        """The matrices themselves: ciphertexts have independent noise, and nothing rotates."""
        found = []
        for affine in self.affines:
            rows = len(affine.bias)
            shared = int(max(affine.weight.size, rows * rows) > DENSE)
            turned = np.zeros(rows if shared else (rows, rows))
            absolute = np.abs(affine.weight)
            found.append(Spread(affine.weight, absolute, shared, turned, np.zeros((rows, 1)), 0))
        return tuple(found)

    def inputs(self, values: Reals) -> Reals:
        """Features are ciphertexts in their own order."""
        return values

    def place(self, layer: int, values: Reals, empty: float = 0.0) -> Reals:
        """Results are ciphertexts in their own order."""
        return values

    def input_rounding(self) -> Reals:
        """Each feature has its own polynomial, at worst half a unit in each coefficient."""
        bound: Reals = self.slots * np.abs(self.affines[0].weight).sum(axis=1)
        return bound

    def window(self, values: Reals) -> Reals:
        """Results are read in their own order."""
        return values

    def read(self, layer: int, values: Reals) -> Reals:
        """There is one copy."""
        return values

    def drift(self, layer: int, level: int, noise: Noise) -> Reals:
        """The worst slot holds for every row."""
        worst = noise.switching_drift(level).max()
        return np.full(len(self.affines[layer].bias), worst)

    def rounding(self, layer: int, stage: Stage) -> Rounding:
        """Follow every weight; a row of zeros gets one unit, as in the server."""
        affine = self.affines[layer]
        units = affine.weight * stage.plain
        rounded = np.rint(units)
        rounded[~rounded.any(axis=1), 0] = 1.0
        bias = np.full(len(affine.bias), 1.0 / stage.after)
        return Rounding((rounded - units) / stage.plain, ties(units) / stage.plain, bias)


def copies(values: Reals, size: int) -> Reals:
    """Fit per-slot values to `size` slots: the same slots, or the worst of all copies."""
    if len(values) > size:
        spare = -len(values) % size
        worst: Reals = np.pad(values, (0, spare)).reshape(-1, size).max(axis=0)
        return worst
    return np.resize(values, size)


def _filled(index: Places) -> Places:
    feature = np.full(padded(len(index)), -1)
    feature[: len(index)] = index
    return feature


def _fitting(
    weight: Reals, inputs: Places, outputs: Places, slots: int, before: Matvec | None = None
) -> Matvec | None:
    """The product of a matrix whose rows and columns lie at these places; None if too wide."""
    columns = before.outputs if before is not None else padded(int(inputs.max()) + 1)
    rows = padded(int(outputs.max()) + 1)
    if max(rows, columns) > slots or rows * columns > WIDEST:
        return None
    matrix = np.zeros((rows, columns))
    matrix[outputs[:, None], inputs[None, :]] = weight
    return Matvec.of(matrix)


def _through_windows(
    affine: Affine, index: Places, across: int, spots: Places, size: int, slots: int
) -> Matvec | None:
    """The first layer on a row laid out window by window: slot p * across + w."""
    rows = padded(int(spots.max()) + 1)
    if max(rows, size) > slots or rows * size > WIDEST:
        return None
    matrix = np.zeros((rows, size))
    windows = np.arange(len(spots)) % index.shape[1]
    for position, features in enumerate(index):
        read = features[windows]
        values = affine.weight[np.arange(len(spots)), np.maximum(read, 0)]
        matrix[spots, position * across + windows] = np.where(read < 0, 0.0, values)
    return Matvec.of(matrix)


def _rows(products: tuple[Matvec, ...], outputs: int, slots: int) -> tuple[int, ...]:
    """How many slots of each result the next layers read; 0 where that is too many to follow."""
    rows: list[int] = []
    needed = outputs
    for product in reversed(products):
        columns = min(slots, needed - 1 + product.inputs)
        if needed * columns > DENSE:
            needed = 0
        rows.append(needed)
        needed = columns if needed else 0
    return tuple(reversed(rows))


def _start(rows: tuple[int, ...], period: int, slots: int) -> int:
    """The copy of the answer whose slots, and those that it depends on, drift the least."""
    if 0 in rows:
        return 0
    drift = near(2 * slots) ** -1.0
    starts = np.arange(0, slots, period)
    total = np.zeros(len(starts))
    for count in rows:
        read = (starts[:, None] + np.arange(count)[None, :]) % slots
        total += drift[read].max(axis=1)
    return int(starts[total.argmin()])


def _spread(product: Matvec, rows: int, start: int, slots: int) -> Spread:
    """Follow the slots that a product reads: row j reads slots j to j + inputs - 1, in order."""
    coarse = rows == 0
    rows = rows or product.outputs
    at = start + np.arange(rows)[:, None]
    steps = np.arange(product.inputs)[None, :]
    read = at + steps
    weights = product.matrix[at % product.outputs, read % product.inputs]
    turned = np.where(steps % product.step == 0, 0.0, weights)
    # A rotated copy's noise lies where the copy does: back by the baby step.
    origin = np.zeros((rows, slots))
    np.add.at(
        origin,
        (np.broadcast_to(at - start, read.shape), (read - steps % product.step) % slots),
        np.abs(turned),
    )
    after = (len(product.giants) + 1) * 2 ** len(product.folds)
    if coarse:
        shared = max(1, product.inputs // product.outputs)
        absolute = np.abs(product.matrix)
        sums = shared * (absolute @ absolute.sum(axis=0))
        return Spread(product.matrix, absolute, shared, sums, origin.sum(axis=1)[:, None], after)
    columns = min(slots, rows - 1 + product.inputs)
    spots = (np.broadcast_to(at - start, read.shape), (read - start) % columns)
    matrix, moved = np.zeros((rows, columns)), np.zeros((rows, columns))
    np.add.at(matrix, spots, weights)
    np.add.at(moved, spots, turned)
    # Two results share the noise of a rotated copy only where they use the same baby step.
    same = (at - at.T) % product.step == 0
    covariance = np.where(same, moved @ moved.T, 0.0)
    return Spread(matrix, np.abs(matrix), 0, covariance, origin, after)
