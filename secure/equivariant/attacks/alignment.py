"""Undoing an orthogonal matrix by what it leaves unchanged: second and third moments.

The states are X' = P X Q^T with an unknown order of rows P (or other rows of the same
distribution) and an unknown orthogonal Q. The axes of the second moment turn with Q; the third
moment along each axis fixes its sign. So both sides have the same coordinates in their own axes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def axes(rows: Tensor) -> Tensor:
    """Return the principal axes [d, d] of rows [n, d] as columns, signs by the third moment."""
    vectors: Tensor = torch.linalg.eigh(rows.T @ rows)[1]
    signs = torch.sign(((rows @ vectors) ** 3).sum(dim=0))
    return vectors * torch.where(signs == 0, 1.0, signs)


def procrustes(theirs: Tensor, ours: Tensor) -> Tensor:
    """Return the orthogonal Q [d, d] with theirs = ours Q^T, as near as can be.

    Schoenemann, "A generalized solution of the orthogonal Procrustes problem", 1966.
    """
    left, _, right = torch.linalg.svd(theirs.T @ ours)
    turn: Tensor = left @ right
    return turn


def nearest(rows: Tensor, among: Tensor, chunk: int = 1024) -> Tensor:
    """Return for each row the place of the nearest one in `among`, int64."""
    squares = (among**2).sum(dim=1)
    found = [(squares - 2 * part @ among.T).argmin(dim=1) for part in torch.split(rows, chunk)]
    return torch.cat(found)


def ridge(states: Tensor, targets: Tensor) -> Tensor:
    """Return the weights [d, k] of a ridge regression; the penalty is 1e-4 of the mean square."""
    n, d = states.shape
    if n < d:
        gram = states @ states.T
        penalty = 1e-4 * _mean_square(gram) * torch.eye(n, dtype=gram.dtype)
        return states.T @ _solved(gram + penalty, targets)
    gram = states.T @ states
    penalty = 1e-4 * _mean_square(gram) * torch.eye(d, dtype=gram.dtype)
    return _solved(gram + penalty, states.T @ targets)


def explained(truth: Tensor, guess: Tensor) -> float:
    """Return the share of the variance of `truth` that a guess explains; 0 at worst."""
    spread = (truth - truth.mean(dim=0)).square().sum().clamp(min=1e-300)
    return float((1 - (truth - guess).square().sum() / spread).clamp(min=0))


def _mean_square(gram: Tensor) -> Tensor:
    """The mean square of the states; not zero, where a dead layer makes them all equal."""
    return gram.diagonal().mean().clamp(min=1e-12)


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve(matrix, right)
    return solution
