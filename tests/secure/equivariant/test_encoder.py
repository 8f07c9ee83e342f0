"""Encoders: beside torch's own transformer layers, whose weights they are given."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_models import encoder, tokens
from torch import nn

from secure.equivariant.errors import BadModel

SECRET = b"e" * 32


def reference(model, ids, mask=None, types=None):
    """The same by torch.nn's embeddings, encoder layers and linear layers."""
    a, w = model.architecture, model.weights
    act = {"gelu": nn.functional.gelu, "relu": nn.functional.relu}[a.activation]
    embedded = w["embed"][ids] + w["positions"][: ids.shape[1]]
    embedded = embedded + w["types"][torch.zeros_like(ids) if types is None else types]

    def norm(x, name):
        layer = nn.LayerNorm(a.width, eps=a.epsilon, dtype=model.dtype)
        layer.load_state_dict({k: w[f"{name}.{k}"] for k in ("weight", "bias")})
        return layer(x)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = norm(embedded, "embed_norm")
    for i in range(a.layers):
        at = f"layers.{i}."
        layer = nn.TransformerEncoderLayer(
            a.width,
            a.heads,
            a.hidden,
            dropout=0.0,
            activation=act,
            layer_norm_eps=a.epsilon,
            batch_first=True,
            dtype=model.dtype,
        )
        state = {
            f"self_attn.in_proj_{p}": torch.cat([w[f"{at}{n}.{p}"] for n in "qkv"])
            for p in ("weight", "bias")
        }
        for theirs, ours in (
            ("self_attn.out_proj", "o"),
            ("linear1", "up"),
            ("linear2", "down"),
            ("norm1", "attention_norm"),
            ("norm2", "mlp_norm"),
        ):
            state |= {f"{theirs}.{p}": w[f"{at}{ours}.{p}"] for p in ("weight", "bias")}
        layer.load_state_dict(state)
        # Training mode, without dropout: the fused path of evaluation would zero what is masked.
        x = layer(x, src_key_padding_mask=None if mask is None else ~mask)
    if a.head == "sequence":
        return linear(torch.tanh(linear(x[:, 0], "pooler")), "classifier")
    if a.head == "tokens":
        return linear(x, "classifier")
    return linear(norm(act(linear(x, "word")), "word_norm"), "words")


def answered(model, inputs, secret=SECRET):
    sealed, done = model.transform(secret)
    answer = sealed.run(model.architecture.takes.sealed(model.checked(inputs), done.input))
    return done.output.inverted().apply(answer.double())


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


CASES = [
    {},
    {"activation": "relu"},
    {"head": "tokens", "classes": 5},
    {"head": "sequence", "classes": 3},
]


@pytest.mark.parametrize("changes", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_plain_and_sealed_answer_as_torchs_layers(changes, dtype):
    model = encoder(dtype, **changes)
    ids = tokens(model, 3, 20)
    types = (torch.arange(20) > 9).long().expand(3, 20)
    mask = torch.ones(3, 20, dtype=torch.bool)
    mask[0, 15:] = False
    with torch.no_grad():
        expected = reference(model, ids, mask, types).double()
    inputs = {"tokens": ids, "types": types, "mask": mask}
    limit = 1e-10 if dtype == torch.float64 else 1e-4
    assert relative(model.run(inputs).double(), expected) < limit
    found = answered(model, inputs)
    assert relative(found, expected) < limit
    assert bool((found.argmax(-1) == expected.argmax(-1)).all())


@given(
    st.integers(1, 3),
    st.sampled_from([2, 4]),
    st.sampled_from(CASES),
    st.binary(min_size=32, max_size=32),
)
@settings(max_examples=12, deadline=None)
def test_any_shape_under_any_key(heads, size, changes, secret):
    model = encoder(vocabulary=31, width=heads * size, heads=heads, layers=2, hidden=11, **changes)
    ids = tokens(model, 2, 6)
    assert relative(answered(model, {"tokens": ids}, secret), model.run({"tokens": ids})) < 1e-11


def test_a_stream_with_gains_allows_no_more_than_permutations():
    """ADR 15: LayerNorm commutes with turns that keep the mean, its gain does not."""
    width = 12
    chance = torch.Generator().manual_seed(1)
    x = torch.randn(40, width, generator=chance, dtype=torch.float64)
    gain = 1 + torch.rand(width, generator=chance, dtype=torch.float64)
    # An orthogonal matrix that keeps the all-ones vector.
    basis = torch.linalg.qr(
        torch.cat(
            [torch.ones(width, 1), torch.randn(width, width - 1, generator=chance)], 1
        ).double()
    )[0]
    inner = torch.linalg.qr(torch.randn(width - 1, width - 1, generator=chance).double())[0]
    turn = basis @ torch.block_diag(torch.ones(1, 1).double(), inner) @ basis.T

    def norm(rows, scale):
        return nn.functional.layer_norm(rows, (width,), scale)

    assert torch.allclose(norm(x @ turn.T, None), norm(x, None) @ turn.T, atol=1e-10)
    # With a gain, the map behind would have to be turn diag(gain) turn^T, which is not diagonal.
    wanted = turn @ torch.diag(gain) @ turn.T
    assert float((wanted - torch.diag(wanted.diagonal())).abs().max()) > 0.05


def test_the_manifest_names_the_group_of_every_boundary():
    _, done = encoder(layers=1, head="sequence", classes=3).transform(SECRET)
    assert {b.at: b.group for b in done.boundaries} == {
        "tokens": "permutation",
        "residual": "permutation",
        "layers.0.heads": "permutation",
        "layers.0.scores": "scaled orthogonal, per head",
        "layers.0.values": "scaled orthogonal, per head",
        "layers.0.mlp": "permutation",
        "classes": "orthogonal",
        "pooler": "signed permutation",
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"heads": 5}, "heads"),
        ({"head": "tokens"}, "classes"),
        ({"classes": 4}, "classes"),
        ({"activation": "square"}, "activation"),
    ],
)
def test_descriptions_that_make_no_model_are_refused(changes, named):
    with pytest.raises(BadModel, match=named):
        encoder(**changes)
