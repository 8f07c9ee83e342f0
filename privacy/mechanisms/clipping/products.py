"""Layers whose gradient is a sum of products over positions: choose how to hold it, by shape.

With T positions, p outputs and d inputs, one unit's gradient sum_t g_t a_t^T takes T p d
multiplications to write out, after which norm and sum cost a pass over p d numbers each. Its
ghost norm takes T^2 (p + d) and the sum T p d, both in float64 (twice as dear), and nothing is
written out. At T = 1 the norm is |a| |g|.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from privacy.mechanisms.clipping.parts import Gram, Part, Place, RankOne, room
from privacy.mechanisms.clipping.recorder import Recorder

PASS = 24
"""What a number of a written-out gradient costs, in multiplications, for norm and sum."""

LARGEST = 900_000
"""Most inputs + outputs + T^2 of a `Gram`, which keeps its error within its bound."""


def ghost_is_cheaper(positions: int, outputs: int, inputs: int) -> bool:
    """Whether norms from Gram matrices beat gradients that are written out.

    Never at `PASS` positions or more, so that T^2 and T stay small in the errors of `parts`.
    """
    grams = 2 * positions**2 * (outputs + inputs) + positions * outputs * inputs
    small = inputs + outputs + positions**2 <= LARGEST
    return small and grams < PASS * outputs * inputs


def products(
    recorder: Recorder,
    weight: Place | None,
    bias: Place | None,
    inputs: Callable[[slice], Tensor],
    grads: Tensor,
    width: int,
) -> Iterator[Part]:
    """Yield the parts of a weight [blocks times out, in] and a bias [blocks times out].

    `inputs` gives rows of [rows, blocks, T, in]; grads are [rows, blocks, T, out]; width is `in`.
    """
    rows, blocks, positions, outputs = grads.shape
    units = recorder.units
    most = positions * (1 if units is None else units.most)
    if weight is not None and most == blocks == 1:
        yield RankOne(weight, bias, inputs(slice(rows))[:, 0, 0], grads[:, 0, 0])
        return
    if bias is not None:
        yield recorder.written_out(bias, grads.sum(2).flatten(1))
    if weight is None:
        return
    if ghost_is_cheaper(most, outputs, width):
        found = inputs(slice(rows))
        if units is not None:
            found = units.gather(found, weighted=False)
            grads = units.gather(grads, weighted=True)
        yield Gram(weight, found, grads)
        return
    values = grads.new_empty((rows, blocks, outputs, width))
    step = max(1, room(grads) // (blocks * positions * width))
    for start in range(0, rows, step):
        some = slice(start, start + step)
        torch.matmul(grads[some].mT, inputs(some), out=values[some])
    yield recorder.written_out(weight, values.flatten(1))
