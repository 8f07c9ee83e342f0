"""Activations that encrypted inference computes exactly, for training models with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Square(nn.Module):
    """x^2: one product of ciphertexts."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return the squares."""
        return rows * rows


class Quadratic(nn.Module):
    """a x^2 + b x + c with learned coefficients; encrypted it costs no more than the square.

    It starts at the least-squares fit of ReLU on [-1, 1], scaled by `bound`.
    """

    def __init__(self, bound: float = 1.0) -> None:
        super().__init__()
        # On [-1, 1], |x| is nearest to (15 x^2 + 3) / 16 in mean square.
        start = torch.tensor([15 / (32 * bound), 0.5, 3 * bound / 32])
        self.coefficients = nn.Parameter(start)

    def forward(self, rows: Tensor) -> Tensor:
        """Return a x^2 + b x + c."""
        a, b, c = self.coefficients
        result: Tensor = a * rows * rows + b * rows + c
        return result
