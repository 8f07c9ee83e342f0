"""Attacks on a sealed plain network, from what its node holds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from secure.equivariant.architecture import Transformed
from secure.equivariant.attacks import features, matching, traffic
from secure.equivariant.attacks.alignment import explained, ridge
from secure.equivariant.attacks.probes import Probes
from secure.equivariant.groups import Key, Monomial
from secure.equivariant.model import Model
from secure.equivariant.network import Network, folded
from secure.equivariant.report import Finding

BASE, NO_BASE = "public base", "no base"
READ_ROWS, IMAGES = 1024, 32
"""How many rows and images the attacks on states look at."""


def on_rows(
    plain: Model, sealed: Model, done: Transformed, base: Model, probes: Probes
) -> Iterator[Finding]:
    """Attack a plain network, one finding after the other."""
    base = folded(base)
    checked = plain.architecture.takes.checked({"rows": probes.observed}, torch.float64)
    reference = plain.architecture.takes.checked({"rows": probes.reference}, torch.float64)["rows"]
    rows, seen = checked["rows"], plain.architecture.takes.sealed(checked, done.input)["rows"]

    found = matching.match_network(sealed, base)
    units = {n: key for n, key in done.keys.items() if n in found and isinstance(key, Monomial)}
    if units:
        total = sum(key.size for key in units.values())
        value = sum(_hits(found[name], key) for name, key in units.items()) / total
        yield Finding(
            "weight matching",
            BASE,
            "share of hidden units",
            value,
            len(units) / total,
            f"with the base model {value:.1%} of {total} hidden units are known",
        )
        other = matching.match_network(sealed, _stranger(base))
        value = sum(_hits(other[name], key) for name, key in units.items()) / total
        yield Finding(
            "weight matching",
            NO_BASE,
            "share of hidden units",
            value,
            len(units) / total,
            f"without any base, a stranger's weights in its place tell {value:.1%} of units",
        )
    back, visible = matching.unturned(sealed, base, found)
    mean = reference.movedim(1, -1).flatten(0, -2).mean(dim=0)
    value = explained(
        _flat(rows), _flat(seen) @ back.T + mean @ (torch.eye(len(mean)).double() - visible).T
    )
    yield Finding(
        "weight matching on inputs",
        BASE,
        "share of the inputs' variance",
        value,
        0.0,
        f"with the base model {value:.1%} of the variance of every input is read from the input "
        "itself; the rest is what the first layer discards",
    )
    flat_rows, flat_seen = _flat(rows), _flat(seen)
    positions = len(flat_rows) // len(rows)  # of one image; a row has one
    inputs = min(len(rows) // 2, math.ceil((rows.shape[1] + 20) / positions))
    pairs = inputs * positions
    unit = ("image" if rows.dim() == 4 else "row") + ("s" if inputs > 1 else "")
    value = explained(
        flat_rows[pairs:], flat_seen[pairs:] @ traffic.solved(flat_seen[:pairs], flat_rows[:pairs])
    )
    yield Finding(
        "known plaintext",
        f"{inputs} known {unit}",
        "share of the variance of other inputs",
        value,
        0.0,
        f"{inputs} known {unit}: they give back {value:.1%} of all others",
    )
    flat_reference = _flat(reference)
    turned = traffic.turned_back(flat_seen, flat_reference)
    value = explained(
        flat_rows, (flat_seen - flat_seen.mean(dim=0)) @ turned + flat_reference.mean(dim=0)
    )
    yield Finding(
        "input statistics",
        f"{len(reference)} public inputs of the same kind",
        "share of the inputs' variance",
        value,
        0.0,
        f"moments of public inputs alone give back {value:.1%} of the variance",
    )
    value = _inverted_rows(sealed, base, found, seen, rows, reference)
    yield Finding(
        "hidden-state inversion",
        BASE,
        "share of the inputs' variance",
        value,
        0.0,
        f"with the base model, the first hidden states alone give back {value:.1%} of the variance",
    )
    if rows.dim() == 4:
        yield from _maps(sealed, seen, rows)


def _inverted_rows(
    sealed: Model,
    base: Model,
    found: dict[str, Key],
    seen: Tensor,
    rows: Tensor,
    reference: Tensor,
) -> float:
    """Read inputs from the first hidden states: undo the guessed key, regress on the base's own."""
    place, key = matching.first_hidden(cast(Network, sealed.architecture), found)
    theirs, ours = _states(sealed, seen, place), _states(base, reference, place)
    theirs = key.inverted().apply(theirs.movedim(1, -1)).movedim(-1, 1).flatten(1)
    ours = ours.flatten(1)
    targets, truth = reference[:READ_ROWS].flatten(1), rows[:READ_ROWS].flatten(1)
    weights = ridge(ours - ours.mean(dim=0), targets - targets.mean(dim=0))
    return explained(truth, (theirs - ours.mean(dim=0)) @ weights + targets.mean(dim=0))


def _states(model: Model, rows: Tensor, place: int) -> Tensor:
    states: dict[str, Tensor] = {}
    model.run({"rows": rows[:READ_ROWS]}, states)
    return list(states.values())[place].double()


def _maps(sealed: Model, seen: Tensor, rows: Tensor) -> Iterator[Finding]:
    states: dict[str, Tensor] = {"the input": seen[:IMAGES]}
    sealed.run({"rows": seen[:IMAGES]}, states)
    for name, maps in states.items():
        if maps.dim() == 4 and min(maps.shape[-2:]) >= 4 and "activation" not in name:
            own, others, identified = features.recognised(maps.double(), rows[:IMAGES])
            yield Finding(
                "feature maps",
                f"the states of {name}",
                "structural similarity to the image",
                own,
                others,
                f"the best map of {name} is like its image by {own:.2f} and like others by "
                f"{others:.2f}; {identified:.0%} of images are told apart by it",
            )


def _hits(guess: Key, truth: Monomial) -> int:
    return int((guess.order == truth.order).sum()) if isinstance(guess, Monomial) else 0


def _flat(rows: Tensor) -> Tensor:
    """Rows of what the key acts on: features, or the channels of every pixel."""
    return rows.movedim(1, -1).flatten(0, -2)


def _stranger(base: Model) -> Model:
    """A model of the same description and no relation: weights of a public random start."""
    chance = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(tensor.shape, generator=chance, dtype=tensor.dtype)
        for name, tensor in base.weights.items()
    }
    return Model(base.architecture, weights)
