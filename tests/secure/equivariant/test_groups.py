"""Every group commutes with its operation, and every key is the matrix it stands for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_models import decoder, encoder
from torch import nn

from secure.equivariant.architecture import Keys
from secure.equivariant.groups import (
    ORTHOGONAL,
    PERMUTATION,
    SCALED,
    SIGNED,
    SIGNED_SCALED,
    Blocks,
    Dense,
    Monomial,
)
from secure.equivariant.operations import (
    FUNCTIONS,
    Activation,
    Flatten,
    Pool,
    Softmax,
    groups,
)
from secure.equivariant.stream import Stream

SEEDS = st.binary(min_size=32, max_size=32)
GROUPS = (PERMUTATION, SIGNED, SCALED, SIGNED_SCALED, ORTHOGONAL)
REFERENCES = {
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(),
    "tanh": nn.Tanh(),
    "square": lambda x: x**2,
    "abs": lambda x: x.abs(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(),
    "elu": nn.ELU(),
    "sigmoid": nn.Sigmoid(),
}


def states(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def channels(key, maps):
    return key.apply(maps.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize("name", FUNCTIONS)
@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_function_commutes_with_its_group(name, seed):
    layer, x = Activation(function=name), states(9, 13)
    key = layer.before(ORTHOGONAL).draw(Stream(seed, name), 13)
    sealed = REFERENCES[name](key.apply(x))
    plain = layer.through(key, (13,)).apply(REFERENCES[name](x))
    assert torch.allclose(sealed, plain, atol=1e-12, rtol=1e-12)


def test_the_functions_are_torchs():
    x = states(50)
    for name, reference in REFERENCES.items():
        assert torch.equal(FUNCTIONS[name].run(x), reference(x)), name


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"tanh", "square", "abs"}))
def test_a_sign_commutes_with_no_function_that_is_not_told_odd_or_even(name):
    x = states(50)
    assert not FUNCTIONS[name].group.signs
    assert not torch.allclose(REFERENCES[name](-x).abs(), REFERENCES[name](x).abs())


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"relu", "leaky_relu", "abs", "square"}))
def test_a_factor_commutes_with_no_function_that_is_not_told_homogeneous(name):
    x = states(50)
    assert not FUNCTIONS[name].group.scales
    assert not torch.allclose(REFERENCES[name](2 * x), 2 * REFERENCES[name](x))


@pytest.mark.parametrize(
    ("layer", "reference"),
    [
        (Pool(op="max_pool", kernel=(2, 2), stride=(2, 2), padding=(1, 1)), nn.MaxPool2d(2, 2, 1)),
        (Pool(op="avg_pool", kernel=(3, 2), stride=(1, 2)), nn.AvgPool2d((3, 2), (1, 2))),
        (Flatten(), nn.Flatten()),
    ],
)
@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_pools_and_flatten_commute_with_their_groups(layer, reference, seed):
    maps = states(4, 5, 6, 8)
    key = layer.before(ORTHOGONAL).draw(Stream(seed, "pool"), 5)
    behind = layer.through(key, (5, 6, 8))
    plain, sealed = reference(maps), reference(channels(key, maps))
    assert torch.equal(layer.run(maps, {}), plain)
    assert layer.shape((5, 6, 8)) == plain.shape[1:]
    expected = behind.apply(plain) if plain.dim() == 2 else channels(behind, plain)
    assert torch.allclose(sealed, expected, atol=1e-12, rtol=1e-12)


def test_softmax_commutes_with_permutations_only():
    key, x = PERMUTATION.draw(Stream(b"s" * 32), 7), states(4, 7)
    assert Softmax().before(ORTHOGONAL) == PERMUTATION
    assert torch.allclose(torch.softmax(key.apply(x), 1), key.apply(torch.softmax(x, 1)))


def test_a_group_is_what_all_that_follows_allows():
    relu, tanh, gelu = (Activation(function=f) for f in ("relu", "tanh", "gelu"))
    square = Activation(function="square")
    most = Pool(op="max_pool", kernel=(2, 2), stride=(2, 2))
    mean = Pool(op="avg_pool", kernel=(2, 2), stride=(2, 2))
    for layers, group in (
        ((), ORTHOGONAL),
        ((mean, Flatten()), ORTHOGONAL),
        ((relu, most), SCALED),
        ((most, relu, mean), SCALED),
        ((tanh, mean), SIGNED),
        ((tanh, most), PERMUTATION),
        ((tanh, relu), PERMUTATION),
        ((square, most), SIGNED),
        ((relu, gelu), PERMUTATION),
        ((mean, Softmax()), PERMUTATION),
    ):
        assert groups(layers)[0] == group, layers


def matrix(key, n):
    return key.rows(torch.eye(n, dtype=torch.float64))


def keys_of(seed):
    for group in GROUPS:
        yield group.draw(Stream(seed, group.name), 12)
    for part in decoder(heads=4, kv_heads=2, head_width=6).architecture._head_keys(Keys(seed), "d"):
        yield part
    for part in encoder(width=12, heads=3).architecture._head_keys(Keys(seed), "e"):
        yield part


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_a_key_is_its_matrix_whatever_it_acts_on(seed):
    weight, bias = states(12, 12), states(12)
    for key in keys_of(seed):
        size = 24 if isinstance(key, Blocks) and key.blocks.shape[:2] == (4, 6) else 12
        weight, bias = states(size, size), states(size)
        k = matrix(key, size)
        assert torch.allclose(key.rows(weight), k @ weight, atol=1e-12)
        assert torch.allclose(key.rows(bias), k @ bias, atol=1e-12)
        assert torch.allclose(key.columns(weight) @ k, weight, atol=1e-12)
        # Two bits of accuracy at most.
        assert float(torch.linalg.cond(k)) <= 4 + 1e-9
        if not isinstance(key, Blocks):
            assert torch.allclose(key.apply(weight), weight @ k.T, atol=1e-12)
            assert torch.allclose(key.inverted().apply(key.apply(weight)), weight, atol=1e-12)
            kernels = states(3, size, 2, 2)
            back = torch.einsum("oihw,ij->ojhw", key.columns(kernels), k)
            assert torch.allclose(back, kernels, atol=1e-12)
            wide = torch.kron(k, torch.eye(3).double())
            assert torch.allclose(matrix(key.repeated(3), 3 * size), wide, atol=1e-12)


def test_a_group_is_drawn_from_whole():
    """Whatever a group allows is used: a key that moved nothing would be as exact."""
    for group in GROUPS[:4]:
        key = group.draw(Stream(b"w" * 32, group.name), 200)
        moved = (key.order != torch.arange(200)).double().mean()
        assert float(moved) > 0.9
        negative = float((key.scale < 0).double().mean())
        assert (0.3 < negative < 0.7) if group.signs else negative == 0
        sizes = key.scale.abs()
        spread = float(sizes.max() / sizes.min())
        assert (spread > 3) if group.scales else bool((sizes == 1).all())
    turn = ORTHOGONAL.draw(Stream(b"w" * 32), 50).matrix
    assert float(turn.abs().max()) < 0.8


def test_heads_are_drawn_whole():
    architecture = decoder(heads=24, kv_heads=8, head_width=16).architecture
    queries, shared, values, _ = architecture._head_keys(Keys(b"h" * 32), "at")
    assert sorted(queries.order.tolist()) == list(range(24))
    assert shared.order.tolist() != list(range(8))
    # Query heads follow their key-value head, and change places within.
    assert (queries.order // 3).tolist() == shared.order.repeat_interleave(3).tolist()
    assert any(t.tolist() != sorted(t.tolist()) for t in queries.order.reshape(8, 3))
    angles = torch.atan2(queries.blocks[::3, 8:, :8], queries.blocks[::3, :8, :8])
    angles = angles.diagonal(dim1=1, dim2=2).flatten()
    assert float(angles.max() - angles.min()) > 5 and len(angles.unique()) == 64
    factors = queries.blocks[::3].norm(dim=2)
    assert 0.5 < float(factors.min()) < 0.7 and 1.6 < float(factors.max()) < 2
    for blocks in (
        values.blocks,
        encoder().architecture._head_keys(Keys(b"h" * 32), "e")[0].blocks,
    ):
        sizes = blocks.norm(dim=2)  # rows of D O: the factors
        assert 0.5 < float(sizes.min()) < 0.7 and 1.5 < float(sizes.max()) < 2
        eye = torch.eye(blocks.shape[1]).double()
        turned = blocks / sizes[:, :, None]
        assert torch.allclose(turned @ turned.mT, eye.expand_as(turned), atol=1e-10)
        assert float(turned.abs().max()) < 0.999


def test_queries_and_keys_meet_unchanged_wherever_they_stand():
    """q'.k' = q.k after rotary positions: the planes turn and scale against one another."""
    architecture = decoder().architecture
    queries, shared, _, _ = architecture._head_keys(Keys(b"q" * 32), "at")
    turn = architecture._turns(10, torch.float64)
    from secure.equivariant.decoder import _turned

    q, k = states(6, 10, 8), states(3, 10, 8)  # heads, positions, width
    per_head = lambda key, x: torch.stack(  # noqa: E731
        [key.rows(x[:, t].reshape(-1)).reshape(x.shape[0], -1) for t in range(10)], dim=1
    )
    plain = [_turned(q[h], turn) @ _turned(k[h // 2], turn).T for h in range(6)]
    new_q, new_k = per_head(queries, q), per_head(shared, k)
    for h in range(6):
        sealed = _turned(new_q[h], turn) @ _turned(new_k[h // 2], turn).T
        assert torch.allclose(sealed, plain[int(queries.order[h])], atol=1e-11)


def test_names():
    assert [g.name for g in GROUPS] == [
        "permutation",
        "signed permutation",
        "scaled permutation",
        "signed scaled permutation",
        "orthogonal",
    ]
    assert isinstance(ORTHOGONAL.draw(Stream(b"n" * 32), 3), Dense)
    assert isinstance(SCALED.draw(Stream(b"n" * 32), 3), Monomial)
