"""Attacks on a sealed decoder or encoder, from what its node holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from secure.equivariant.architecture import Transformed
from secure.equivariant.attacks import inversion, matching, traffic
from secure.equivariant.attacks.probes import Probes
from secure.equivariant.decoder import Decoder
from secure.equivariant.groups import Monomial
from secure.equivariant.model import Model
from secure.equivariant.report import Finding

BASE, NO_BASE = "public base", "no base"
READ_TOKENS, SEARCHED = 4096, (2, 8)
"""How many tokens the attack on states ranks, and how many sequences and positions it searches."""


def on_tokens(
    plain: Model, sealed: Model, done: Transformed, base: Model, probes: Probes
) -> Iterator[Finding]:
    """Attack a decoder or encoder, one finding after the other."""
    true = cast(Monomial, done.input).order
    words = len(true)
    seen = plain.architecture.takes.sealed({"tokens": probes.observed}, done.input)["tokens"]
    common = float(torch.bincount(probes.reference.flatten()).max() / probes.reference.numel())

    guess, basis = matching.match_tokens(sealed, base)
    value = _share(guess, true)
    yield Finding(
        "weight matching",
        BASE,
        "share of the vocabulary",
        value,
        1 / words,
        f"with the base model {value:.1%} of {words} tokens are known, without any traffic",
    )
    blind = true.new_empty(words)
    blind[sealed.weights["embed"].double().norm(dim=1).argsort()] = torch.arange(words)
    value = _share(blind, true)
    yield Finding(
        "weight matching",
        NO_BASE,
        "share of the vocabulary",
        value,
        1 / words,
        f"without any base, the lengths of embeddings alone tell {value:.2%} of tokens",
    )
    half = len(seen) // 2
    known = traffic.dictionary(seen[:half], probes.observed[:half], words)
    value = _share(known[seen[half:]], probes.observed[half:])
    pairs = seen[:half].numel()
    yield Finding(
        "known plaintext",
        f"{pairs} tokens of sealed and plain text",
        "share of the tokens of other text",
        value,
        common,
        f"who knows {pairs} tokens of plain text reads {value:.1%} of the rest",
    )
    guess_by_use = traffic.read_by_frequency(seen, probes.reference, words)
    value = _share(guess_by_use[seen], probes.observed)
    yield Finding(
        "token frequency",
        f"{probes.reference.numel()} tokens of public text",
        "share of the tokens of the traffic",
        value,
        common,
        f"frequencies and successions alone read {value:.1%} of the traffic",
    )
    rows = max(1, READ_TOKENS // seen.shape[1])
    states = inversion.last_states(sealed, seen[:rows]) @ basis
    ranking = inversion.ranked(states, base, probes.reference[:rows])
    value = _share(ranking[..., 0], probes.observed[:rows])
    if isinstance(base.architecture, Decoder):
        few = (slice(SEARCHED[0]), slice(SEARCHED[1]))
        value = _share(inversion.searched(states[few], base, ranking[few]), probes.observed[few])
    yield Finding(
        "hidden-state inversion",
        BASE,
        "share of the tokens of the traffic",
        value,
        common,
        f"with the base model, the states of the last layer alone give back {value:.1%} of tokens",
    )


def _share(guess: Tensor, truth: Tensor) -> float:
    return float((guess == truth).double().mean())
