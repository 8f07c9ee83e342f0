"""Decoders: rotary positions, grouped-query attention, SwiGLU, RMSNorm (Llama and its like).

Keys, with x the residual stream, and g the gain of a norm:

- tokens: a permutation p of the vocabulary, the same for embedding and answer, so that a node can
  feed an answer back;
- residual stream: one orthogonal Q. RMSNorm(Q x) = Q RMSNorm(x) once g is folded into its readers;
- queries and keys of a head: s R(theta) in every rotary plane, and R(theta) / s for the key. Turns
  and scales of a plane commute with the turns that rotary positions are; heads of one key-value
  head share its planes;
- values of a head: D O with O orthogonal and D positive diagonal, undone in the output projection;
- heads: key-value heads change places, and query heads within their group;
- feed-forward: one permutation; the up branch also carries signs and factors, undone by down.

Readers become W' = K W diag(g) Q^T, writers W' = Q W K^-1, the embedding E'[p t] = E[t] Q^T. Scores
are unchanged: attention patterns, lengths, positions and equality of tokens stay visible.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from secure.equivariant.architecture import Architecture, Keys, Seen, Transformed
from secure.equivariant.errors import BadModel
from secure.equivariant.groups import ORTHOGONAL, PERMUTATION, Blocks, Monomial
from secure.equivariant.inputs import Inputs, Tokens
from secure.equivariant.operations import Shape, Weights
from secure.equivariant.stream import Stream


class Decoder(Architecture):
    """A causal transformer; weights are named `embed`, `layers.I.PART`, `norm`, `head`."""

    kind: Literal["decoder"] = "decoder"
    vocabulary: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_width: PositiveInt
    hidden: PositiveInt
    positions: PositiveInt
    theta: PositiveFloat = 10000.0
    epsilon: float = 1e-6
    bias: bool = False
    tied: bool = False

    @property
    def takes(self) -> Tokens:
        """Tokens of the vocabulary."""
        return Tokens(vocabulary=self.vocabulary, positions=self.positions)

    def tensors(self) -> dict[str, Shape]:
        """Names and shapes of all weights."""
        if self.heads % self.kv_heads or self.head_width % 2:
            raise BadModel(
                "heads: kv_heads must divide heads, and head_width be even",
                field="heads",
                value=[self.heads, self.kv_heads, self.head_width],
            )
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        shapes: dict[str, Shape] = {"embed": (self.vocabulary, self.width)}
        for i in range(self.layers):
            at = f"layers.{i}."
            shapes |= {at + "attention_norm": (self.width,), at + "mlp_norm": (self.width,)}
            shapes |= {at + "q": (queries, self.width), at + "o": (self.width, queries)}
            shapes |= {at + "k": (keys, self.width), at + "v": (keys, self.width)}
            if self.bias:
                shapes |= {at + "q_bias": (queries,), at + "k_bias": (keys,)}
                shapes |= {at + "v_bias": (keys,)}
            shapes |= {at + "gate": (self.hidden, self.width), at + "up": (self.hidden, self.width)}
            shapes |= {at + "down": (self.width, self.hidden)}
        shapes["norm"] = (self.width,)
        return shapes if self.tied else shapes | {"head": (self.vocabulary, self.width)}

    def forward(self, weights: Weights, inputs: Inputs, seen: Seen | None = None) -> Tensor:
        """Return the logits [n, length, vocabulary]; the states are named `layers.I`."""
        x = functional.embedding(inputs["tokens"], weights["embed"])
        turn = self._turns(x.shape[1], x.dtype)
        for i in range(self.layers):
            part = {name: weights.get(f"layers.{i}.{name}") for name in PARTS}
            x = x + self._attention(self._norm(x, part["attention_norm"]), part, turn)
            h = self._norm(x, part["mlp_norm"])
            x = x + _to(functional.silu(_to(h, part["gate"])) * _to(h, part["up"]), part["down"])
            if seen is not None:
                seen[f"layers.{i}"] = x
        return functional.linear(
            self._norm(x, weights["norm"]), weights["embed" if self.tied else "head"]
        )

    def _norm(self, x: Tensor, gain: Tensor | None) -> Tensor:
        return functional.rms_norm(x, (self.width,), gain, self.epsilon)

    def _attention(
        self, x: Tensor, part: dict[str, Tensor | None], turn: tuple[Tensor, Tensor]
    ) -> Tensor:
        n, length, _ = x.shape

        def heads(name: str, count: int) -> Tensor:
            flat = _to(x, part[name], part.get(f"{name}_bias"))
            return flat.view(n, length, count, self.head_width).transpose(1, 2)

        q, k = _turned(heads("q", self.heads), turn), _turned(heads("k", self.kv_heads), turn)
        v, share = heads("v", self.kv_heads), self.heads // self.kv_heads
        k, v = k.repeat_interleave(share, dim=1), v.repeat_interleave(share, dim=1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return _to(mixed.transpose(1, 2).reshape(n, length, -1), part["o"])

    def _turns(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines [length, head_width]; plane j is coordinates j and j + half."""
        planes = torch.arange(0, self.head_width, 2, dtype=torch.float64) / self.head_width
        angles = torch.arange(length, dtype=torch.float64)[:, None] * self.theta**-planes
        angles = torch.cat([angles, angles], dim=1)
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def transform(self, weights: Weights, secret: bytes) -> Transformed:
        """Seal all weights; gains become ones, and a tied embedding is untied."""
        keys = Keys(secret)
        tokens = cast(Monomial, keys.draw("tokens", PERMUTATION, self.vocabulary))
        q = keys.draw("residual", ORTHOGONAL, self.width)
        head = weights["embed" if self.tied else "head"] * weights["norm"]
        sealed = {
            "embed": tokens.rows(q.columns(weights["embed"])),
            "head": tokens.rows(q.columns(head)),
            "norm": torch.ones_like(weights["norm"]),
        }
        for i in range(self.layers):
            at = f"layers.{i}."
            part = {name: weights[at + name] for name in PARTS if at + name in weights}
            queries, shared, values, out = self._head_keys(keys, at)
            inner = cast(Monomial, keys.draw(at + "mlp", PERMUTATION, self.hidden))
            stream = keys.stream(at + "up")
            factors = stream.signs(self.hidden) * stream.scales(self.hidden)
            keys.note(at + "up", "signed scaled permutation, the order of mlp", self.hidden)
            up = Monomial(inner.order, factors)
            readers: dict[str, tuple[str, Blocks | Monomial]] = {
                "q": ("attention_norm", queries),
                "k": ("attention_norm", shared),
                "v": ("attention_norm", values),
                "gate": ("mlp_norm", inner),
                "up": ("mlp_norm", up),
            }
            for name, (norm, key) in readers.items():
                sealed[at + name] = key.rows(q.columns(part[name] * part[norm]))
                if f"{name}_bias" in part:
                    sealed[at + name + "_bias"] = key.rows(part[f"{name}_bias"])
                sealed[at + norm] = torch.ones_like(part[norm])
            sealed[at + "o"] = q.rows(out.columns(part["o"]))
            sealed[at + "down"] = q.rows(up.columns(part["down"]))
        architecture = self.model_copy(update={"tied": False})
        return Transformed(
            architecture, sealed, tokens, tokens, keys.by_name, tuple(keys.boundaries)
        )

    def _head_keys(self, keys: Keys, at: str) -> tuple[Blocks, Blocks, Blocks, Blocks]:
        """Return the keys of queries, keys, values, and of what enters the output projection."""
        stream, share = keys.stream(at + "heads"), self.heads // self.kv_heads
        groups = stream.permutation(self.kv_heads)
        within = torch.stack([stream.permutation(share) for _ in range(self.kv_heads)])
        order = (groups[:, None] * share + within).flatten()
        turns, inverse = _planes(keys.stream(at + "planes"), self.kv_heads, self.head_width)
        mixers, undo = mixers_of(keys.stream(at + "values"), self.kv_heads, self.head_width)
        keys.note(at + "heads", "permutation of key-value heads and of queries within", self.heads)
        keys.note(at + "planes", "turns and factors of rotary planes", self.head_width // 2)
        keys.note(at + "values", "scaled orthogonal, per key-value head", self.head_width)

        def per_query(blocks: Tensor) -> Tensor:
            return blocks.repeat_interleave(share, dim=0)

        return (
            Blocks(order, per_query(turns), per_query(inverse)),
            Blocks(groups, inverse.mT, turns.mT),
            Blocks(groups, mixers, undo),
            Blocks(order, per_query(mixers), per_query(undo)),
        )


PARTS = (
    "attention_norm",
    "q",
    "k",
    "v",
    "q_bias",
    "k_bias",
    "v_bias",
    "o",
    "mlp_norm",
    "gate",
    "up",
    "down",
)


def mixers_of(stream: Stream, heads: int, width: int) -> tuple[Tensor, Tensor]:
    """Return D O for every head, and the inverses: [heads, width, width], float64."""
    turns = torch.stack([stream.orthogonal(width) for _ in range(heads)])
    factors = stream.scales(heads * width).reshape(heads, width, 1)
    return factors * turns, turns.mT / factors.mT


def _planes(stream: Stream, heads: int, width: int) -> tuple[Tensor, Tensor]:
    """Return s R(theta) in every rotary plane of every head, and the inverses."""
    half = width // 2
    angles = (2 * torch.pi * stream.uniform(heads * half)).reshape(heads, half)
    factors = stream.scales(heads * half).reshape(heads, half)
    cos, sin = torch.diag_embed(angles.cos()), torch.diag_embed(angles.sin())
    turns = torch.cat([torch.cat([cos, -sin], dim=2), torch.cat([sin, cos], dim=2)], dim=1)
    both = torch.cat([factors, factors], dim=1)
    return both[:, :, None] * turns, turns.mT / both[:, None, :]


def _to(x: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
    assert weight is not None  # noqa: S101 - `Model` has checked that all weights are there
    return functional.linear(x, weight, bias)


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = turn
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
