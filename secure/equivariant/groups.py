"""Groups that commute with operations, and the keys drawn from them.

A key is an invertible matrix K at one boundary between two operations. The node's state there is
K h where the plain model's is h. A nonlinearity f between two linear maps needs f(K h) = K' f(h);
the group of an operation is the set of K for which such a K' exists and is known.

Every key here has condition number at most 4, so sealing costs at most two bits of accuracy:
orthogonal matrices have 1, and scales lie in (1/2, 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from secure.equivariant.stream import Stream


class Key(Protocol):
    """An invertible linear map of one boundary; weights are float64."""

    @property
    def size(self) -> int:
        """How many coordinates the key acts on."""

    def rows(self, tensor: Tensor) -> Tensor:
        """Return K times a weight or bias whose first dimension is the boundary's."""

    def columns(self, tensor: Tensor) -> Tensor:
        """Return a weight times the inverse of K, along the second dimension."""

    def repeated(self, times: int) -> Key:
        """Return the key after every coordinate became `times` coordinates (a flattened map)."""

    def apply(self, states: Tensor) -> Tensor:
        """Return K times every state; the last dimension is the boundary's."""

    def inverted(self) -> Key:
        """Return the inverse of K."""

    def to(self, dtype: torch.dtype) -> Key:
        """Return the key with its numbers in another type."""


@dataclass(frozen=True)
class Monomial:
    """A permutation with a factor for each coordinate: (K h)_i = scale_i h_order(i)."""

    order: Tensor
    scale: Tensor

    @property
    def size(self) -> int:
        """How many coordinates the key acts on."""
        return len(self.order)

    def rows(self, tensor: Tensor) -> Tensor:
        """Return K times a tensor along its first dimension."""
        return tensor[self.order] * self.scale.reshape(-1, *[1] * (tensor.dim() - 1))

    def columns(self, tensor: Tensor) -> Tensor:
        """Return a tensor times the inverse of K along its second dimension."""
        return tensor[:, self.order] / self.scale.reshape(-1, *[1] * (tensor.dim() - 2))

    def repeated(self, times: int) -> Monomial:
        """Return the key of a map of `times` positions per channel that was flattened."""
        order = self.order[:, None] * times + torch.arange(times)
        return Monomial(order.flatten(), self.scale.repeat_interleave(times))

    def apply(self, states: Tensor) -> Tensor:
        """Return K times every state, along the last dimension."""
        return states.index_select(-1, self.order) * self.scale

    def inverted(self) -> Monomial:
        """Return the inverse of K."""
        order = self.order.argsort()
        return Monomial(order, 1 / self.scale[order])

    def to(self, dtype: torch.dtype) -> Monomial:
        """Return the key with its factors in another type."""
        return Monomial(self.order, self.scale.to(dtype))


@dataclass(frozen=True)
class Dense:
    """Any invertible matrix, with its inverse."""

    matrix: Tensor
    inverse: Tensor

    @property
    def size(self) -> int:
        """How many coordinates the key acts on."""
        return len(self.matrix)

    def rows(self, tensor: Tensor) -> Tensor:
        """Return K times a tensor along its first dimension."""
        turned: Tensor = torch.tensordot(self.matrix, tensor, dims=([1], [0]))
        return turned

    def columns(self, tensor: Tensor) -> Tensor:
        """Return a tensor times the inverse of K along its second dimension."""
        turned: Tensor = torch.tensordot(tensor, self.inverse, dims=([1], [0]))
        return turned.movedim(-1, 1)

    def repeated(self, times: int) -> Dense:
        """Return the key of a map of `times` positions per channel that was flattened."""
        eye = torch.eye(times, dtype=torch.float64)
        matrix, inverse = (m.contiguous() for m in (self.matrix, self.inverse))
        return Dense(torch.kron(matrix, eye), torch.kron(inverse, eye))

    def apply(self, states: Tensor) -> Tensor:
        """Return K times every state, along the last dimension."""
        return states @ self.matrix.T

    def inverted(self) -> Dense:
        """Return the inverse of K."""
        return Dense(self.inverse, self.matrix)

    def to(self, dtype: torch.dtype) -> Dense:
        """Return the key with its matrices in another type."""
        return Dense(self.matrix.to(dtype), self.inverse.to(dtype))


@dataclass(frozen=True)
class Blocks:
    """Heads that change places, each with a matrix of its own: (K h)_i = B_i h_order(i)."""

    order: Tensor
    blocks: Tensor
    inverses: Tensor

    def rows(self, tensor: Tensor) -> Tensor:
        """Return K times a matrix or vector along its first dimension."""
        heads, width, _ = self.blocks.shape
        parts = tensor.reshape(heads, width, -1)[self.order]
        return (self.blocks @ parts).reshape(tensor.shape)

    def columns(self, tensor: Tensor) -> Tensor:
        """Return a matrix times the inverse of K."""
        heads, width, _ = self.blocks.shape
        parts = tensor.reshape(-1, heads, width)[:, self.order].transpose(0, 1)
        return (parts @ self.inverses).transpose(0, 1).reshape(tensor.shape)


@dataclass(frozen=True)
class Group:
    """Permutations, and what may come on top: signs, positive scales, or any dense matrix."""

    signs: bool = False
    scales: bool = False
    dense: bool = False

    @property
    def name(self) -> str:
        """The group in words, as the manifest has it."""
        if self.dense:
            return "orthogonal"
        extra = ("signed " if self.signs else "") + ("scaled " if self.scales else "")
        return extra + "permutation"

    def draw(self, stream: Stream, size: int) -> Key:
        """Draw a key; of the dense matrices only orthogonal ones, whose condition number is 1."""
        if self.dense:
            matrix = stream.orthogonal(size)
            return Dense(matrix, matrix.T)
        order = stream.permutation(size)
        scale = torch.ones(size, dtype=torch.float64)
        if self.signs:
            scale = scale * stream.signs(size)
        if self.scales:
            scale = scale * stream.scales(size)
        return Monomial(order, scale)


PERMUTATION = Group()
SIGNED = Group(signs=True)
SCALED = Group(scales=True)
SIGNED_SCALED = Group(signs=True, scales=True)
ORTHOGONAL = Group(signs=True, scales=True, dense=True)
"""Written with every part allowed, so that what an operation forbids can be taken away."""


def permutation(order: Tensor) -> Monomial:
    """Return a permutation as a key."""
    return Monomial(order, torch.ones(len(order), dtype=torch.float64))


@dataclass(frozen=True)
class Boundary:
    """One line of a manifest: where a key lies, from which group, and how many it acts on."""

    at: str
    group: str
    size: int

    def document(self) -> dict[str, str | int]:
        """The line as plain JSON."""
        return {"at": self.at, "group": self.group, "size": self.size}
