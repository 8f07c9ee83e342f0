"""Attacks that read sealed traffic: known plaintext and token frequencies.

Tokens under one permutation are a substitution cipher, and rows under one matrix are a linear one.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import quadratic_assignment
from torch import Tensor

from secure.equivariant.attacks.alignment import axes

MOST = 400
"""How many of the commonest tokens the frequency attack tells apart."""


def dictionary(sealed: Tensor, plain: Tensor, vocabulary: int) -> Tensor:
    """Return the token of each sealed id as known pairs say, -1 where none does: int64."""
    known = torch.full((vocabulary,), -1, dtype=torch.int64)
    known[sealed.flatten()] = plain.flatten()
    return known


def solved(sealed: Tensor, plain: Tensor) -> Tensor:
    """Return the map [d, d] from sealed rows to plain ones that fits known pairs [m, d]."""
    solution: Tensor = torch.linalg.lstsq(sealed, plain, driver="gelsd").solution
    return solution


def read_by_frequency(sealed: Tensor, reference: Tensor, vocabulary: int) -> Tensor:
    """Return the guessed token of each sealed id, -1 where none is guessed: int64 [vocabulary].

    The commonest ids are put beside the commonest tokens of a reference text, then moved until
    their successions agree too: a quadratic assignment of the two tables of successors, by the
    Frank-Wolfe method of Vogelstein et al. (PLOS ONE, 2015) in SciPy.
    """
    tops = [_commonest(ids, vocabulary) for ids in (sealed, reference)]
    size = min(len(top) for top in tops)
    tops = [top[:size] for top in tops]
    tables = [
        np.sqrt(_successors(ids, top, vocabulary))
        for ids, top in zip((sealed, reference), tops, strict=True)
    ]
    start = 0.9 * np.eye(size) + 0.1 * np.full((size, size), 1 / size)
    options = {"maximize": True, "P0": start, "rng": np.random.default_rng(0)}
    found = quadratic_assignment(tables[0], tables[1], method="faq", options=options)
    guess = torch.full((vocabulary,), -1, dtype=torch.int64)
    guess[tops[0]] = tops[1][torch.from_numpy(found.col_ind)]
    return guess


def turned_back(sealed: Tensor, reference: Tensor) -> Tensor:
    """Return the map [d, d] from sealed rows to plain ones, from public rows like them alone.

    The mean and the axes of the second moment turn with the key; third moments fix the signs.
    """
    centred = [rows - rows.mean(dim=0) for rows in (sealed, reference)]
    return axes(centred[0]) @ axes(centred[1]).T


def _commonest(ids: Tensor, vocabulary: int) -> Tensor:
    counts = torch.bincount(ids.flatten(), minlength=vocabulary)
    order = counts.argsort(descending=True, stable=True)[:MOST]
    return order[counts[order] > 0]


def _successors(ids: Tensor, top: Tensor, vocabulary: int) -> np.ndarray:
    """How often each of the top tokens follows each, as a share of all pairs; [top, top]."""
    place = torch.full((vocabulary,), -1, dtype=torch.int64)
    place[top] = torch.arange(len(top))
    first, second = place[ids[:, :-1].flatten()], place[ids[:, 1:].flatten()]
    both = (first >= 0) & (second >= 0)
    pairs = torch.bincount(first[both] * len(top) + second[both], minlength=len(top) ** 2)
    shares: np.ndarray = (pairs.double() / max(len(first), 1)).reshape(len(top), -1).numpy()
    return shares
