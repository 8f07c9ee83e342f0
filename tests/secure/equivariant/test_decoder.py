"""Decoders: beside an independent implementation with complex turns and explicit attention."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_models import decoder, tokens

from secure.equivariant.errors import BadModel

SECRET = b"d" * 32


def reference(model, ids):
    """Logits by the textbook: one head after the other, rotary positions as complex numbers."""
    a, w = model.architecture, model.weights

    def norm(x, gain):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + a.epsilon) * gain

    def turned(x):  # [length, head width]: coordinates j and j + half are one complex number
        half = a.head_width // 2
        planes = torch.complex(x[:, :half], x[:, half:])
        speeds = torch.tensor(
            [a.theta ** (-2 * j / a.head_width) for j in range(half)], dtype=torch.float64
        )
        angles = torch.arange(len(x))[:, None] * speeds
        planes = planes * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([planes.real, planes.imag], dim=1)

    answers = []
    for row in ids:
        x = w["embed"][row].double()
        length = len(row)
        for i in range(a.layers):
            p = {
                n.split(".", 2)[2]: t.double() for n, t in w.items() if n.startswith(f"layers.{i}.")
            }
            h = norm(x, p["attention_norm"])
            q, k, v = (h @ p[n].T + p.get(f"{n}_bias", 0) for n in "qkv")
            heads = []
            for head in range(a.heads):
                group = head // (a.heads // a.kv_heads)
                own = slice(head * a.head_width, (head + 1) * a.head_width)
                kept = slice(group * a.head_width, (group + 1) * a.head_width)
                scores = turned(q[:, own]) @ turned(k[:, kept]).T / a.head_width**0.5
                future = torch.triu(torch.ones(length, length), 1).bool()
                heads.append(torch.softmax(scores.masked_fill(future, -torch.inf), 1) @ v[:, kept])
            x = x + torch.cat(heads, dim=1) @ p["o"].T
            h = norm(x, p["mlp_norm"])
            gate = h @ p["gate"].T
            x = x + (gate / (1 + torch.exp(-gate)) * (h @ p["up"].T)) @ p["down"].T
        head = w["embed" if a.tied else "head"].double()
        answers.append(norm(x, w["norm"].double()) @ head.T)
    return torch.stack(answers)


def answered(model, ids, secret=SECRET):
    sealed, done = model.transform(secret)
    answer = sealed.run(model.architecture.takes.sealed({"tokens": ids}, done.input))
    return done.output.inverted().apply(answer.double())


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias": True},
        {"tied": True},
        {"kv_heads": 6},
        {"kv_heads": 1},
        {"head_width": 10, "theta": 500.0, "layers": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_plain_and_sealed_answer_as_the_textbook(changes, dtype):
    model = decoder(dtype, **changes)
    ids = tokens(model, 3, 20)
    expected = reference(model, ids)
    limit = 1e-10 if dtype == torch.float64 else 1e-4
    assert relative(model.run({"tokens": ids}).double(), expected) < limit
    found = answered(model, ids)
    assert relative(found, expected) < limit
    assert bool((found.argmax(-1) == expected.argmax(-1)).all())


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([2, 6]),
    st.booleans(),
    st.booleans(),
    st.binary(min_size=32, max_size=32),
)
@settings(max_examples=15, deadline=None)
def test_any_shape_under_any_key(kv_heads, share, head_width, bias, tied, secret):
    model = decoder(
        vocabulary=37,
        width=12,
        layers=2,
        heads=kv_heads * share,
        kv_heads=kv_heads,
        head_width=head_width,
        hidden=20,
        bias=bias,
        tied=tied,
    )
    ids = tokens(model, 2, 7)
    assert relative(answered(model, ids, secret), model.run({"tokens": ids})) < 1e-11


def test_attention_is_causal():
    model = decoder()
    ids = tokens(model, 1, 12)
    changed = ids.clone()
    changed[0, 8:] = (changed[0, 8:] + 1) % 300
    one, other = (model.run({"tokens": t}) for t in (ids, changed))
    assert torch.equal(one[:, :8], other[:, :8]) and not torch.equal(one[:, 8:], other[:, 8:])


def test_a_node_can_go_on_with_its_own_answer():
    """Greedy text in sealed ids is the plain model's text: both ends bear one permutation."""
    model = decoder()
    sealed, done = model.transform(SECRET)
    seal = lambda t: model.architecture.takes.sealed({"tokens": t}, done.input)["tokens"]  # noqa: E731
    plain = tokens(model, 2, 4)
    hidden = seal(plain)
    for _ in range(10):
        plain = torch.cat([plain, model.run({"tokens": plain})[:, -1:].argmax(-1)], dim=1)
        hidden = torch.cat([hidden, sealed.run({"tokens": hidden})[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(hidden, seal(plain))


def test_the_manifest_names_the_group_of_every_boundary():
    _, done = decoder(layers=1).transform(SECRET)
    assert {b.at: b.group for b in done.boundaries} == {
        "tokens": "permutation",
        "residual": "orthogonal",
        "layers.0.heads": "permutation of key-value heads and of queries within",
        "layers.0.planes": "turns and factors of rotary planes",
        "layers.0.values": "scaled orthogonal, per key-value head",
        "layers.0.mlp": "permutation",
        "layers.0.up": "signed scaled permutation, the order of mlp",
    }


def test_sealed_weights_share_no_row_with_plain_ones():
    model = decoder()
    sealed, _ = model.transform(SECRET)
    for name in ("embed", "head", "layers.0.q", "layers.1.k", "layers.2.down", "layers.0.up"):
        distance = torch.cdist(sealed.weights[name], model.weights[name])
        assert float(distance.min()) > 0.05, name
    assert torch.equal(sealed.weights["norm"], torch.ones(48).double())


def test_the_up_branch_bears_signs_and_factors_of_its_own():
    model = decoder(hidden=200)
    sealed, done = model.transform(SECRET)
    order = done.keys["layers.0.mlp"].order
    plain = model.weights["layers.0.up"] * model.weights["layers.0.mlp_norm"]
    ratio = sealed.weights["layers.0.up"].norm(dim=1) / plain[order].norm(dim=1)
    assert 0.5 < float(ratio.min()) < 0.6 and 1.8 < float(ratio.max()) < 2
    q = done.keys["residual"]
    same = (sealed.weights["layers.0.up"] * q.columns(plain)[order]).sum(dim=1) > 0
    assert 0.3 < float(same.double().mean()) < 0.7


@pytest.mark.parametrize("changes", [{"heads": 5}, {"head_width": 7}])
def test_heads_that_do_not_fit_are_refused(changes):
    with pytest.raises(BadModel, match="heads"):
        decoder(**changes)
