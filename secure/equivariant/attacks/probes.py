"""Inputs to attack with: half of them the node sees sealed, half the attacker has plain.

The two halves are different inputs from one source: observed traffic, and public data like it.
Without a sample from the owner both are synthetic, which the report says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from secure.equivariant.errors import BadInput
from secure.equivariant.inputs import Rows, Tokens

SYNTHETIC_TOKENS, LENGTH = 32_768, 64
FEWEST = 8


@dataclass(frozen=True)
class Probes:
    """Observed and reference inputs of one kind, plain; `source` is said in the report."""

    observed: Tensor
    reference: Tensor
    source: str

    @classmethod
    def of(cls, takes: Rows | Tokens, sample: Tensor) -> Probes:
        """Split a sample of inputs in two, every second one each."""
        name = takes.kind
        checked = takes.checked({name: sample}, torch.float64)[name]
        if len(checked) < FEWEST:
            raise BadInput(
                f"probes: {len(checked)} inputs are too few to attack with",
                field="probes",
                value=len(checked),
                allowed=f">= {FEWEST}",
            )
        return cls(checked[::2], checked[1::2], f"{len(checked)} inputs of the owner")

    @classmethod
    def synthetic(cls, takes: Rows | Tokens) -> Probes:
        """Make inputs up: words of a skewed language, or rows of a few skewed factors."""
        # Public numbers for a public experiment: nothing secret depends on this generator.
        rng = np.random.default_rng(20260101)
        if isinstance(takes, Tokens):
            length = min(LENGTH, takes.positions)
            drawn = _language(takes.vocabulary, 2 * SYNTHETIC_TOKENS // length, length, rng)
            return cls(drawn[::2], drawn[1::2], "a synthetic language of skewed words")
        drawn = _factors(takes.shape, rng)
        return cls(drawn[::2], drawn[1::2], "synthetic rows of skewed factors")


def _language(words: int, count: int, length: int, rng: np.random.Generator) -> Tensor:
    """Sequences [count, length]: word frequencies after Zipf, and favourite successors."""
    frequency = 1 / np.arange(1.0, words + 1)
    frequency = rng.permutation(frequency / frequency.sum())
    favourites = rng.choice(words, size=(words, 4), p=frequency)
    tokens = np.empty((count, length), dtype=np.int64)
    tokens[:, 0] = rng.choice(words, size=count, p=frequency)
    for place in range(1, length):
        follows = favourites[tokens[:, place - 1], rng.integers(0, 4, count)]
        fresh = rng.choice(words, size=count, p=frequency)
        tokens[:, place] = np.where(rng.random(count) < 0.5, follows, fresh)
    return torch.from_numpy(tokens)


def _factors(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Rows of independent skewed factors of falling strength, mixed; images are smoothed noise."""
    size = int(torch.Size(shape).numel())
    count = 2 * min(max(2 * size + 64, 1024), 2048)
    if len(shape) == 3:
        noise = torch.from_numpy(rng.exponential(size=(count, *shape)))
        return functional.avg_pool2d(noise, 5, stride=1, padding=2)
    strength = np.sqrt(1 / np.arange(1.0, size + 1))
    mixing = np.linalg.qr(rng.normal(size=(size, size)))[0]
    factors = (rng.exponential(size=(count, size)) - 1) * strength
    return torch.from_numpy(factors @ mixing.T).reshape(count, *shape)
