"""Hidden-state inversion: tokens out of the states of the last layer, with the base model.

Turned back by the basis that weight matching found, sealed states are the base's own. A regression
from the base's states to its embeddings ranks the tokens at every position. In a decoder a state
depends on nothing that comes later, so the right token is then found by trying: with the prefix
known, run the base on each candidate and compare states (Thomas et al., arXiv 2505.18332, read
prompts from permuted states so, token by token).
"""

from __future__ import annotations

import torch
from torch import Tensor

from secure.equivariant.attacks.alignment import ridge
from secure.equivariant.model import Model

FIRST, ALL = 64, 4096
"""How many of the likeliest tokens are tried first, and how many at most."""
FOUND = 1e-3
"""A relative distance of states below which a candidate is the token."""


def last_states(model: Model, tokens: Tensor) -> Tensor:
    """Return the states [n, length, d] behind the last layer, float64."""
    states: dict[str, Tensor] = {}
    model.run({"tokens": tokens}, states)
    return list(states.values())[-1].double()


def ranked(states: Tensor, base: Model, reference: Tensor) -> Tensor:
    """Return all tokens [n, length, vocabulary], the likeliest of each plain state first."""
    table = base.weights["embed"].double()
    ours = last_states(base, reference)
    means = ours.mean(dim=(0, 1))
    weights = ridge((ours - means).flatten(0, 1), table[reference.flatten()])
    unit: Tensor = table / table.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return ((states - means) @ weights @ unit.T).argsort(dim=-1, descending=True)


def searched(states: Tensor, base: Model, ranking: Tensor) -> Tensor:
    """Return the tokens [n, length] of a decoder's plain states, found one after the other."""
    found = torch.empty(states.shape[:2], dtype=torch.int64)
    for row, place in ((r, p) for r in range(len(found)) for p in range(found.shape[1])):
        truth, best = states[row, place], torch.inf
        for candidates in (ranking[row, place, :FIRST], ranking[row, place, FIRST:ALL]):
            if best < FOUND * truth.norm() or not len(candidates):
                break
            prefix = found[row, :place].expand(len(candidates), -1)
            tried = last_states(base, torch.cat([prefix, candidates[:, None]], dim=1))[:, -1]
            distance, nearest = (tried - truth).norm(dim=1).min(dim=0)
            if distance < best:
                best, found[row, place] = float(distance), candidates[nearest]
    return found
