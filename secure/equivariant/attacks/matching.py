"""Weight matching: the keys out of the sealed weights and a base model.

Tokens: embedding rows are permuted and turned; `axes` finds the turn, the nearest row the token,
and a few steps of matching and Procrustes correct what a fine-tuned base has moved. (Cf. Thomas et
al., arXiv 2505.18332; on fine-tuned models, ArrowMatch, USENIX Security 2025.)

Networks: layer by layer. What enters the first layer is turned, which leaves the angles between
units; every later layer is compared unit by unit, once the layer before it is known.
"""

from __future__ import annotations

from typing import cast

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from secure.equivariant.attacks.alignment import axes, nearest, procrustes
from secure.equivariant.groups import Dense, Group, Key, Monomial
from secure.equivariant.model import Model
from secure.equivariant.network import Network, affordable
from secure.equivariant.operations import Activation, Weighted, groups

STEPS = 5
LEADING = 128
"""In how many of the principal coordinates rows are compared: enough to tell tokens apart."""
CLOSE = 0.01
"""A relative distance of tables below which the match is right beyond doubt."""


def match_tokens(sealed: Model, base: Model) -> tuple[Tensor, Tensor]:
    """Return the token of each row of the sealed embedding, and the basis Q [d, d] of the states.

    The base must have the same vocabulary and width.
    """
    theirs, ours = sealed.weights["embed"].double(), base.weights["embed"].double()
    frame = axes(theirs)[:, -LEADING:]
    by_axes = nearest(theirs @ frame, ours @ axes(ours)[:, -LEADING:])
    guess, basis, distance = _refined(theirs, ours, by_axes, frame)
    if distance > CLOSE:  # a base that is not quite the model's: begin once more, by lengths
        by_length = torch.empty_like(by_axes)
        by_length[theirs.norm(dim=1).argsort()] = ours.norm(dim=1).argsort()
        again = _refined(theirs, ours, by_length, frame)
        guess, basis, _ = min((guess, basis, distance), again, key=lambda tried: tried[2])
    return guess, basis


def _refined(
    theirs: Tensor, ours: Tensor, guess: Tensor, frame: Tensor
) -> tuple[Tensor, Tensor, float]:
    """Match and turn in steps until nothing changes; also return what distance is left."""
    basis = procrustes(theirs, ours[guess])
    for _ in range(STEPS):
        better = nearest(theirs @ frame, ours @ basis.T @ frame)
        if bool((better == guess).all()):
            break
        guess, basis = better, procrustes(theirs, ours[better])
    left = (theirs - ours[guess] @ basis.T).norm() / theirs.norm()
    return guess, basis, float(left)


def match_network(sealed: Model, base: Model) -> dict[str, Key]:
    """Return the guessed key behind every weighted layer, by the layer's name.

    The base is of the same description, its batch norms folded.
    """
    network = cast(Network, sealed.architecture)
    allowed, shapes = groups(network.layers), network.shapes()
    known: Key | None = None
    found: dict[str, Key] = {}
    for place, layer in enumerate(network.layers):
        if not isinstance(layer, Weighted):
            known = layer.through(known, shapes[place]) if known is not None else None
            continue
        theirs, ours = (m.weights[f"{layer.name}.weight"].double() for m in (sealed, base))
        none = torch.zeros(layer.outputs)
        biases = [m.weights.get(f"{layer.name}.bias", none).double() for m in (sealed, base)]
        group = affordable(allowed[place + 1], layer.outputs)
        if known is not None:
            # A dense key is known only where states can lie; both sides are compared there.
            theirs = known.inverted().columns(theirs)
            ours = known.inverted().columns(known.columns(ours))
            known = _behind_known(theirs.flatten(1), ours.flatten(1), group)
        else:
            known = _behind_turned(theirs.flatten(1), ours.flatten(1), biases, group)
        found[layer.name] = known
    return found


def _behind_known(theirs: Tensor, ours: Tensor, group: Group) -> Key:
    """The key K with theirs = K ours."""
    if group.dense:
        matrix = theirs @ torch.linalg.pinv(ours)
        return Dense(matrix, torch.linalg.pinv(matrix))
    cosines = _unit(theirs) @ _unit(ours).T
    order = _assigned(-(cosines.abs() if group.signs else cosines))
    matched = ours[order]
    scale = (theirs * matched).sum(dim=1) / matched.square().sum(dim=1)
    return Monomial(order, torch.where(scale == 0, 1.0, scale))


def _behind_turned(theirs: Tensor, ours: Tensor, biases: list[Tensor], group: Group) -> Key:
    """The key K with theirs = K ours Q^T for an unknown orthogonal Q, and biases b' = K b."""
    if group.dense:
        left, right = (torch.linalg.svd(w, full_matrices=False)[0] for w in (theirs, ours))
        signs = torch.sign((left.T @ biases[0]) * (right.T @ biases[1]))
        matrix = left * torch.where(signs == 0, 1.0, signs) @ right.T
        return Dense(matrix, matrix.T)
    lengths = [w.norm(dim=1).clamp(min=1e-300) for w in (theirs, ours)]
    angles = [_unit(w) @ _unit(w).T for w in (theirs, ours)]
    # A unit is known by its angles to all others and by its bias in its own length: neither
    # changes under the order, the factors or the turn.
    marks = [
        torch.cat([a.abs().sort(dim=1)[0], (b / n).abs()[:, None]], dim=1)
        for a, b, n in zip(angles, biases, lengths, strict=True)
    ]
    order = _assigned(torch.cdist(marks[0], marks[1]))
    scale = lengths[0] / lengths[1][order]
    if group.signs:
        both = angles[0] * angles[1][order][:, order]
        signs = torch.sign(torch.linalg.eigh(both)[1][:, -1])
        signs = torch.where(signs == 0, 1.0, signs)
        agree = (biases[0] * signs * scale * biases[1][order]).sum()
        scale = scale * (signs if agree >= 0 else -signs)
    return Monomial(order, scale)


def unturned(sealed: Model, base: Model, found: dict[str, Key]) -> tuple[Tensor, Tensor]:
    """Return the map from sealed to plain inputs that follows, and the part of inputs it sees.

    Both act on features or channels. What lies outside the second is what the first layer
    discards, and no weight tells of it.
    """
    network = cast(Network, sealed.architecture)
    name = next(layer.name for layer in network.layers if isinstance(layer, Weighted))
    theirs, ours = (m.weights[f"{name}.weight"].double() for m in (sealed, base))
    theirs = found[name].inverted().rows(theirs)
    # Every output and kernel position is one equation on the features or channels.
    flat = [w.movedim(1, -1).reshape(-1, w.shape[1]) for w in (theirs, ours)]
    back: Tensor = torch.linalg.pinv(flat[1])
    return back @ flat[0], back @ flat[1]


def first_hidden(network: Network, found: dict[str, Key]) -> tuple[int, Key]:
    """Return the place of the first hidden states in a network, and the guessed key there."""
    shapes, last = network.shapes(), 0
    key: Key | None = None
    for place, layer in enumerate(network.layers):
        if isinstance(layer, Weighted) and key is None:
            key = found[layer.name]
        elif isinstance(layer, Activation) and key is not None:
            key = layer.through(key, shapes[place])
        elif key is not None:
            break
        last = place
    return last, cast(Key, key)


def _unit(rows: Tensor) -> Tensor:
    scaled: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300)
    return scaled


def _assigned(cost: Tensor) -> Tensor:
    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])
