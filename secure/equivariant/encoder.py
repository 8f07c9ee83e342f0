"""Encoders in the BERT style: learned positions, LayerNorm behind each residual sum.

Keys:

- tokens: a permutation of the vocabulary; a masked-word head answers under the same one;
- residual stream: one permutation. LayerNorm subtracts the mean and its gain acts on coordinates
  that stay in the stream, so of the matrices that it commutes with only permutations keep the gain
  diagonal (ADR 15);
- queries and keys of a head: D O and its inverse transpose; values: D O, undone in the output;
- heads: a permutation; feed-forward: the group of its activation;
- a pooled state behind tanh: signs and a permutation; classes: an orthogonal matrix.

Positions, token types, masks, lengths and equality of tokens stay visible.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional

from secure.equivariant.architecture import Architecture, Keys, Seen, Transformed
from secure.equivariant.decoder import mixers_of
from secure.equivariant.errors import BadModel
from secure.equivariant.groups import ORTHOGONAL, PERMUTATION, SIGNED, Blocks, Dense, Key, Monomial
from secure.equivariant.inputs import Inputs, Tokens
from secure.equivariant.operations import FUNCTIONS, FunctionName, Shape, Weights


class Encoder(Architecture):
    """A bidirectional transformer; `head` says what it answers.

    `tokens`: classes of every token; `sequence`: classes of the whole, from the first token;
    `masked`: the vocabulary at every token.
    """

    kind: Literal["encoder"] = "encoder"
    vocabulary: PositiveInt
    positions: PositiveInt
    types: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    hidden: PositiveInt
    epsilon: float = 1e-12
    activation: FunctionName = "gelu"
    head: Literal["tokens", "sequence", "masked"]
    classes: NonNegativeInt = 0

    @property
    def takes(self) -> Tokens:
        """Tokens of the vocabulary, with a mask and types where wanted."""
        return Tokens(vocabulary=self.vocabulary, positions=self.positions, types=self.types)

    def tensors(self) -> dict[str, Shape]:
        """Names and shapes of all weights."""
        if self.width % self.heads or (self.head == "masked") != (self.classes == 0):
            raise BadModel(
                "heads must divide width; classes is given for tokens and sequence only",
                field="classes" if self.width % self.heads == 0 else "heads",
                value=[self.width, self.heads, self.head, self.classes],
            )
        if FUNCTIONS[self.activation].even:
            raise BadModel(
                f"activation: {self.activation} is for plain networks",
                field="activation",
                value=self.activation,
            )
        d = self.width
        shapes: dict[str, Shape] = {
            "embed": (self.vocabulary, d),
            "positions": (self.positions, d),
            "types": (self.types, d),
            **_norm("embed_norm", d),
        }
        for i in range(self.layers):
            at = f"layers.{i}."
            for name in ("q", "k", "v", "o"):
                shapes |= _linear(at + name, d, d)
            shapes |= _norm(at + "attention_norm", d) | _norm(at + "mlp_norm", d)
            shapes |= _linear(at + "up", self.hidden, d) | _linear(at + "down", d, self.hidden)
        if self.head == "sequence":
            shapes |= _linear("pooler", d, d)
        if self.head == "masked":
            shapes |= _linear("word", d, d) | _norm("word_norm", d)
            return shapes | _linear("words", self.vocabulary, d)
        return shapes | _linear("classifier", self.classes, d)

    def forward(self, weights: Weights, inputs: Inputs, seen: Seen | None = None) -> Tensor:
        """Return logits [n, length, width of the answer], or [n, classes] of a sequence."""
        tokens = inputs["tokens"]
        types = inputs.get("types", torch.zeros_like(tokens))
        x = functional.embedding(tokens, weights["embed"]) + functional.embedding(
            types, weights["types"]
        )
        x = self._norm(x + weights["positions"][: tokens.shape[1]], weights, "embed_norm")
        mask = inputs["mask"][:, None, None, :] if "mask" in inputs else None
        act = FUNCTIONS[self.activation].run
        for i in range(self.layers):
            at = f"layers.{i}."
            mixed = self._attention(x, weights, at, mask)
            x = self._norm(x + mixed, weights, at + "attention_norm")
            fed = _apply(act(_apply(x, weights, at + "up")), weights, at + "down")
            x = self._norm(x + fed, weights, at + "mlp_norm")
            if seen is not None:
                seen[f"layers.{i}"] = x
        if self.head == "sequence":
            x = torch.tanh(_apply(x[:, 0], weights, "pooler"))
        if self.head == "masked":
            x = self._norm(act(_apply(x, weights, "word")), weights, "word_norm")
            return _apply(x, weights, "words")
        return _apply(x, weights, "classifier")

    def _norm(self, x: Tensor, weights: Weights, name: str) -> Tensor:
        gain, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(x, (self.width,), gain, shift, self.epsilon)

    def _attention(self, x: Tensor, weights: Weights, at: str, mask: Tensor | None) -> Tensor:
        n, length, width = x.shape
        q, k, v = (
            _apply(x, weights, at + name).view(n, length, self.heads, -1).transpose(1, 2)
            for name in ("q", "k", "v")
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return _apply(mixed.transpose(1, 2).reshape(n, length, width), weights, at + "o")

    def transform(self, weights: Weights, secret: bytes) -> Transformed:
        """Seal all weights."""
        keys = Keys(secret)
        tokens = cast(Monomial, keys.draw("tokens", PERMUTATION, self.vocabulary))
        stream = keys.draw("residual", PERMUTATION, self.width)
        sealed: dict[str, Tensor] = {}

        def linear(name: str, out: Key | Blocks, into: Key | Blocks) -> None:
            sealed[f"{name}.weight"] = out.rows(into.columns(weights[f"{name}.weight"]))
            sealed[f"{name}.bias"] = out.rows(weights[f"{name}.bias"])

        def norm(name: str, key: Key) -> None:
            for part in ("weight", "bias"):
                sealed[f"{name}.{part}"] = key.rows(weights[f"{name}.{part}"])

        sealed["embed"] = tokens.rows(stream.columns(weights["embed"]))
        for name in ("positions", "types"):
            sealed[name] = stream.columns(weights[name])
        norm("embed_norm", stream)
        for i in range(self.layers):
            at = f"layers.{i}."
            queries, shared, values = self._head_keys(keys, at)
            inner = keys.draw(at + "mlp", FUNCTIONS[self.activation].group, self.hidden)
            linear(at + "q", queries, stream)
            linear(at + "k", shared, stream)
            linear(at + "v", values, stream)
            linear(at + "o", stream, values)
            linear(at + "up", inner, stream)
            linear(at + "down", stream, inner)
            norm(at + "attention_norm", stream)
            norm(at + "mlp_norm", stream)
        answer: Key = tokens
        if self.head == "masked":
            word = keys.draw("word", PERMUTATION, self.width)
            linear("word", word, stream)
            norm("word_norm", word)
            linear("words", tokens, word)
        else:
            answer = keys.draw("classes", ORTHOGONAL, self.classes)
            into = stream
            if self.head == "sequence":
                into = keys.draw("pooler", SIGNED, self.width)
                linear("pooler", into, stream)
            linear("classifier", answer, into)
        return Transformed(
            self,
            sealed,
            tokens,
            cast(Monomial | Dense, answer),
            keys.by_name,
            tuple(keys.boundaries),
        )

    def _head_keys(self, keys: Keys, at: str) -> tuple[Blocks, Blocks, Blocks]:
        """Return the keys of queries, of keys, and of values and what attention makes of them."""
        size = self.width // self.heads
        order = keys.stream(at + "heads").permutation(self.heads)
        scores, unscored = mixers_of(keys.stream(at + "scores"), self.heads, size)
        values, unvalued = mixers_of(keys.stream(at + "values"), self.heads, size)
        keys.note(at + "heads", "permutation", self.heads)
        keys.note(at + "scores", "scaled orthogonal, per head", size)
        keys.note(at + "values", "scaled orthogonal, per head", size)
        return (
            Blocks(order, scores, unscored),
            Blocks(order, unscored.mT, scores.mT),
            Blocks(order, values, unvalued),
        )


def _linear(name: str, outputs: int, inputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _apply(x: Tensor, weights: Weights, name: str) -> Tensor:
    return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
