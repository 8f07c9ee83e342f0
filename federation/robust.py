"""Rules that combine a round's models so that a few hostile silos cannot steer the result.

A rule sees released models only: it is post-processing and costs no privacy. Every silo counts
once, whatever size it declares, because a declared size would be a lever. `faulty` is the number
of silos that may send anything; the others may differ as honest silos do.

=============  =======================================  ====================================
rule           combines                                 needs of n silos
=============  =======================================  ====================================
median         every coordinate: the median             faulty < n / 2 (it takes no number)
trimmed_mean   every coordinate: the mean without the   2 faulty < n
               `faulty` least and greatest
krum           one silo's model: the one nearest to     2 faulty + 2 < n
               its n - faulty - 2 nearest others
flag           the mean of the changes, each cut to     a majority of honest silos
               their median norm, along the line that
               most silos' directions share
=============  =======================================  ====================================

Sources: Yin et al. 2018 (median, trimmed mean), Blanchard et al. 2017 (Krum), Almasi et al. 2024
(Flag Aggregator).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

State = dict[str, Tensor]
Updates = list[tuple[float, State]]
"""Weight and released model of each silo; weights need not add up to one."""
Rule = Callable[[State, Updates], State]
"""Combines the models that silos made of the present one."""

_SMOOTH = 1e-6
_CONVERGED = 1e-10
_ITERATIONS = 1000


def make_rule(name: str, faulty: int | None) -> Rule:
    """The rule of a spec's `aggregation` block; `mean` weighs silos, the others do not."""
    match name:
        case "median":
            return median
        case "trimmed_mean":
            return partial(trimmed_mean, faulty=faulty or 0)
        case "krum":
            return partial(krum, faulty=faulty or 0)
        case "flag":
            return flag
    return mean


def mean(state: State, updates: Updates) -> State:
    """The weighted mean of models, computed in float64; integer buffers are the first silo's."""
    total = sum(weight for weight, _ in updates)
    combined = {}
    for name, value in updates[0][1].items():
        if not value.is_floating_point():
            combined[name] = value.clone()
            continue
        sum_ = torch.zeros_like(value, dtype=torch.float64)
        for weight, model in updates:
            sum_.add_(model[name], alpha=weight / total)
        combined[name] = sum_.to(value.dtype)
    return combined


def median(state: State, updates: Updates) -> State:
    """The median of every coordinate; of an even number, the middle of the two in the middle."""
    silos = len(updates)
    return trimmed_mean(state, updates, faulty=(silos - 1) // 2)


def trimmed_mean(state: State, updates: Updates, *, faulty: int) -> State:
    """The mean of every coordinate without its `faulty` least and greatest values."""

    def combine(values: Tensor) -> Tensor:
        ordered = values.sort(dim=0).values
        return ordered[faulty : len(values) - faulty].mean(dim=0)

    return {
        name: combine(torch.stack([model[name].double() for _, model in updates])).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for name, value in state.items()
    }


def krum(state: State, updates: Updates, *, faulty: int) -> State:
    """The model with the least sum of squared distances to its n - faulty - 2 nearest others."""
    gram = _gram(state, updates)
    norms = gram.diagonal()
    distances = norms[:, None] + norms[None, :] - 2 * gram
    distances.fill_diagonal_(torch.inf)
    nearest = distances.sort(dim=1).values[:, : len(updates) - faulty - 2]
    chosen = updates[int(nearest.sum(dim=1).argmin())][1]
    return {
        name: chosen[name] if value.is_floating_point() else value.clone()
        for name, value in state.items()
    }


def flag(state: State, updates: Updates) -> State:
    """The mean change, each silo's cut to the median norm, projected on the flag median.

    The flag median is the line y that minimises, over silos, sum sqrt(1 - (y' g)^2) of the unit
    changes g (Almasi et al. 2024 with their implementation's defaults: one dimension, no pairwise
    term). It bounds neither length nor sign, hence the cut. In more dimensions silos that agree
    with one another alone keep a direction of their own. Everything happens in the span of the
    changes: y is never made, only the n coefficients of the result.
    """
    gram = _gram(state, updates)
    norms = gram.diagonal().clamp_min(0).sqrt()
    unit = 1 / torch.where(norms > 0, norms, torch.ones_like(norms))
    line = unit * _flag_median(gram * unit[:, None] * unit[None, :])
    cut = torch.minimum(torch.ones_like(norms), norms.quantile(0.5) * unit) / len(updates)
    coefficients = line * (line @ gram @ cut)
    return {
        name: value
        + sum(
            (
                float(share) * (model[name].double() - value.double())
                for share, (_, model) in zip(coefficients, updates, strict=True)
            ),
            torch.zeros_like(value, dtype=torch.float64),
        ).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for name, value in state.items()
    }


def _flag_median(correlations: Tensor) -> Tensor:
    """Coefficients b [n] with y = G b, from the Gram matrix [n, n] of unit vectors G.

    By iteratively reweighted least squares; each step's minimum is the first eigenvector.
    """
    still = (correlations.diagonal() == 0).double()  # who changed nothing has no direction
    weights = torch.ones(len(correlations), dtype=torch.float64)
    best, lowest = torch.zeros_like(weights), torch.inf
    for _ in range(_ITERATIONS):
        root = weights.sqrt()
        values, vectors = torch.linalg.eigh(root[:, None] * correlations * root[None, :])
        if values[-1] <= 0:
            break
        line = root * vectors[:, -1] / values[-1].sqrt()
        rest = (1 - (line @ correlations) ** 2 - still).clamp_min(0)
        loss = float((rest + _SMOOTH).sqrt().sum())
        if loss >= lowest - _CONVERGED:
            break
        best, lowest = line, loss
        weights = (rest + _SMOOTH).rsqrt()
    return best


def _gram(state: State, updates: Updates) -> Tensor:
    """The products [n, n] of the silos' changes with one another, in float64."""
    gram = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    for name, value in state.items():
        if value.is_floating_point():
            changes = torch.stack(
                [(model[name] - value).double().flatten() for _, model in updates]
            )
            gram += changes @ changes.T
    return gram
