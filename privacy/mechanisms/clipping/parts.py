"""What the gradients of units are made of: their norms, and their weighted sum.

A part holds, for every unit of a batch, its gradient of one parameter in the form in which the
layer left it. Two questions are asked of it: `squares`, the squared norms, and, when the norms of
all parts have become factors, `add`, which adds the factor-weighted sum of the units to the total.
Both are in float64 whatever the model computes in.

What bounds a unit is the norm of what is *added*, not of what would have been added without
rounding. So a part either holds the gradient itself (`Samples`, `Words`), whose norm is that of
the very numbers added, or is a product whose error is bounded here (`RankOne`, `Gram`). With
u = 2^-53, n <= 1024 units in a call, B units in a step of at most B / 8 calls, and C the clip:

- `Samples`: norms by blocks of `BLOCK` float32 squares, which cannot cancel, so a relative error
  of at most (BLOCK + 1) 2^-25 < 2e-6, and of d u beyond them.
- `RankOne`: a norm is a product of two norms; relative error (inputs + outputs + 3) u.
- `Gram`: the squared norm is a sum of T^2 products that may cancel. It is off by at most K u M^2,
  where K = inputs + outputs + T^2 + 4 and M = sum_t |a_t| |g_t|. Taking no less than
  (M / CANCELLING)^2 keeps that below K u CANCELLING^2 of the square: 1e-6 for K up to 9e5, beyond
  which a layer is not of this kind. The sum adds L = `LONGEST` products at a time and is off by
  L u sum_i f_i M_i <= L u B CANCELLING C, in each of two data sets: 4.6e-6 C for B = 2e5.
- All: every call adds its sum to a coordinate of the total once, `Gram` once for L products and
  `Samples` once for `ROWS` units, of which a call of 8 or more has no more than one for every 8; so
  sums are off by (n + B / 8) u B C, in each of two data sets: 1.2e-6 C for B = 2e5.

The norm's error and the sums' together stay below `plan.ETA` = 1e-5. Norms below 2^-60 in float32
lose digits to underflow, which `plan` keeps small beside the clip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

BLOCK = 64
"""Squares that are added in float32 before the rest is in float64."""

CANCELLING = 100.0
"""How much longer than its gradient a unit's terms may be together before it is scaled down.

Terms of random signs at T positions are about sqrt(T) times as long as their sum.
"""

ROWS = 16
"""Rows of `Samples` that are added up at once: few, so that what they are read from lies together.

Twice the 8 units for which the bound above counts one sum, so that a last block of fewer is in it.
"""

LONGEST = 1024
"""Products that one matrix product of `Gram` adds up."""


def room(values: Tensor) -> int:
    """Entries that are converted to float64 at once.

    What a processor's cache holds. On a GPU, where every call takes the same microseconds, more.
    """
    return 1 << (24 if values.is_cuda else 18)


class Place(NamedTuple):
    """Where a gradient belongs: a trainable parameter, or some of its leading rows."""

    parameter: int
    layer: int
    start: int
    size: int

    def of(self, flat: Tensor) -> Tensor:
        """The place's stretch of a flat vector."""
        return flat[self.start : self.start + self.size]


class Part(Protocol):
    """The gradients of all units with respect to one parameter, or a weight and its bias."""

    place: Place

    def places(self) -> list[Place]:
        """Return the places of all its parameters."""
        ...

    def squares(self) -> Tensor:
        """Return the squared norms, float64 [units]."""
        ...

    def add(self, factors: Tensor, total: Tensor) -> None:
        """Add sum_i factors_i g_i to the flat float64 total."""
        ...

    def drop(self, units: Tensor) -> None:
        """Make the gradients of these units, a mask, zero."""
        ...

    def samples(self) -> Iterable[Samples]:
        """Return the same gradients written out, one part per parameter."""
        ...

    def held(self) -> int:
        """How many numbers the part keeps."""
        ...


class _Placed:
    """A part of one parameter."""

    place: Place

    def places(self) -> list[Place]:
        """Its one place."""
        return [self.place]


@dataclass
class Samples(_Placed):
    """Gradients written out, [units, size]."""

    place: Place
    values: Tensor

    def squares(self) -> Tensor:
        """Return the squared norms of the values."""
        whole = self.values.shape[1] // BLOCK * BLOCK
        if self.values.dtype is torch.float64 or not whole:
            return self.values.double().square().sum(1)
        blocks = self.values[:, :whole].reshape(len(self.values), -1, BLOCK)
        squares: Tensor = torch.linalg.vector_norm(blocks, dim=2).double().square().sum(1)
        return squares + self.values[:, whole:].double().square().sum(1)

    def add(self, factors: Tensor, total: Tensor) -> None:
        """Add the weighted sum of the values."""
        target = self.place.of(total)
        rows = len(factors) if self.values.is_cuda else ROWS
        step = max(64, room(self.values) // min(rows, len(factors)))
        for start in range(0, self.place.size, step):
            goal = target[start : start + step]
            for first in range(0, len(factors), rows):
                some = slice(first, first + rows)
                block = self.values[some, start : start + step].double()
                goal.addmv_(block.t(), factors[some])

    def drop(self, units: Tensor) -> None:
        """Make the gradients of these units zero."""
        self.values = _without(self.values, units)

    def samples(self) -> Iterable[Samples]:
        """It is written out."""
        return [self]

    def held(self) -> int:
        """One number for each entry."""
        return self.values.numel()


@dataclass
class RankOne:
    """Gradients g_i a_i^T of a weight and g_i of a bias: inputs [units, in], grads [units, out]."""

    place: Place
    bias: Place | None
    inputs: Tensor
    grads: Tensor

    def places(self) -> list[Place]:
        """The weight's, and the bias's if there is one."""
        return [self.place] if self.bias is None else [self.place, self.bias]

    def __post_init__(self) -> None:
        self.inputs, self.grads = self.inputs.double(), self.grads.double()

    def squares(self) -> Tensor:
        """Return |g|^2 |a|^2, and |g|^2 more with a bias."""
        inputs = torch.linalg.vector_norm(self.inputs, dim=1).square()
        grads = torch.linalg.vector_norm(self.grads, dim=1).square()
        return grads * inputs if self.bias is None else torch.addcmul(grads, grads, inputs)

    def add(self, factors: Tensor, total: Tensor) -> None:
        """Add a product of matrices."""
        scaled = self.grads * factors[:, None]
        weight = self.place.of(total).view(self.grads.shape[1], self.inputs.shape[1])
        weight.addmm_(scaled.t(), self.inputs)
        if self.bias is not None:
            self.bias.of(total).add_(scaled.sum(0))

    def drop(self, units: Tensor) -> None:
        """Make the gradients of these units zero."""
        self.inputs, self.grads = _without(self.inputs, units), _without(self.grads, units)

    def samples(self) -> Iterable[Samples]:
        """Return the products, and the bias."""
        yield Samples(self.place, (self.grads[:, :, None] * self.inputs[:, None, :]).flatten(1))
        if self.bias is not None:
            yield Samples(self.bias, self.grads)

    def held(self) -> int:
        """Inputs and gradients, in float64."""
        return 2 * (self.inputs.numel() + self.grads.numel())


@dataclass
class Gram(_Placed):
    """Gradients sum_t g_it a_it^T, in blocks: inputs [units, blocks, T, in], grads [.., T, out]."""

    place: Place
    inputs: Tensor
    grads: Tensor

    def squares(self) -> Tensor:
        """Return sum_ts (a_t . a_s) (g_t . g_s), the ghost norm, or more where terms cancel."""
        inputs, grads = self.inputs.double(), self.grads.double()
        products = (inputs @ inputs.mT).mul_(grads @ grads.mT)
        lengths = products.diagonal(dim1=-2, dim2=-1).sqrt().sum(-1)
        return torch.maximum(products.sum((-2, -1)), (lengths / CANCELLING).square()).sum(1)

    def add(self, factors: Tensor, total: Tensor) -> None:
        """Add products of matrices, `LONGEST` terms at a time."""
        _, blocks, positions, width = self.inputs.shape
        target = self.place.of(total).view(blocks, -1, width)
        step = max(1, LONGEST // positions)
        for start in range(0, len(factors), step):
            some = slice(start, start + step)
            scaled = self.grads[some].double() * factors[some, None, None, None]
            left = scaled.transpose(0, 1).flatten(1, 2)
            right = self.inputs[some].double().transpose(0, 1).flatten(1, 2)
            target.add_(left.mT @ right)

    def drop(self, units: Tensor) -> None:
        """Make the gradients of these units zero."""
        self.inputs, self.grads = _without(self.inputs, units), _without(self.grads, units)

    def samples(self) -> Iterable[Samples]:
        """Return the products."""
        return [Samples(self.place, (self.grads.mT @ self.inputs).flatten(1))]

    def held(self) -> int:
        """Inputs and gradients."""
        return self.inputs.numel() + self.grads.numel()


class Words(_Placed):
    """Gradients of an embedding: of each unit only the words that it has, summed per word."""

    def __init__(self, place: Place, words: Tensor, grads: Tensor, width: int) -> None:
        """Words [units, T], grads [units, T, width]."""
        self.place, self._units = place, len(words)
        self._vocabulary = place.size // width
        units = torch.arange(len(words), device=words.device)[:, None]
        keys, back = torch.unique(units * self._vocabulary + words, return_inverse=True)
        self._owners, self._words = keys // self._vocabulary, keys % self._vocabulary
        self._sums = grads.new_zeros((len(keys), width), dtype=torch.float64)
        self._sums.index_add_(0, back.reshape(-1), grads.double().reshape(-1, width))

    def squares(self) -> Tensor:
        """Return the squared norms of the sums per word."""
        squares = self._sums.new_zeros(self._units)
        return squares.index_add_(0, self._owners, self._sums.square().sum(1))

    def add(self, factors: Tensor, total: Tensor) -> None:
        """Add every word's weighted sums to its row."""
        scaled = self._sums * factors[self._owners, None]
        words, back = torch.unique(self._words, return_inverse=True)
        sums = scaled.new_zeros((len(words), scaled.shape[1])).index_add_(0, back, scaled)
        self.place.of(total).view(self._vocabulary, -1).index_add_(0, words, sums)

    def drop(self, units: Tensor) -> None:
        """Make the gradients of these units zero."""
        self._sums[units[self._owners]] = 0.0

    def samples(self) -> Iterable[Samples]:
        """Return them with the zeros of all other words."""
        values = self._sums.new_zeros((self._units, self.place.size))
        rows = values.view(self._units * self._vocabulary, -1)
        rows[self._owners * self._vocabulary + self._words] = self._sums
        return [Samples(self.place, values)]

    def held(self) -> int:
        """The sums, in float64."""
        return 2 * self._sums.numel()


def _without(values: Tensor, units: Tensor) -> Tensor:
    shape = (-1, *[1] * (values.dim() - 1))
    return values.masked_fill(units.view(shape), 0.0)


def merge(parts: list[Part]) -> list[Part]:
    """Write out the gradients of parameters that are used more than once, and add them up."""
    times = Counter(place.parameter for part in parts for place in part.places())
    if max(times.values(), default=0) < 2:
        return parts
    merged: list[Part] = []
    shared: dict[int, list[Samples]] = {}
    for part in parts:
        if all(times[place.parameter] < 2 for place in part.places()):
            merged.append(part)
            continue
        for sample in part.samples():
            if times[sample.place.parameter] < 2:
                merged.append(sample)
            else:
                shared.setdefault(sample.place.parameter, []).append(sample)
    return merged + [_sum(samples) for samples in shared.values()]


def _sum(samples: list[Samples]) -> Samples:
    """Add up gradients of (parts of) one parameter."""
    first = min(s.place.start for s in samples)
    last = max(s.place.start + s.place.size for s in samples)
    place = samples[0].place._replace(start=first, size=last - first)
    dtype = reduce(torch.promote_types, (s.values.dtype for s in samples))
    total = samples[0].values.new_zeros((len(samples[0].values), place.size), dtype=dtype)
    for sample in samples:
        at = sample.place.start - first
        total[:, at : at + sample.place.size] += sample.values
    return Samples(place, total)
