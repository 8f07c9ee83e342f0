"""Plain networks: the plain model is torch's, the sealed one gives its answers."""

from __future__ import annotations

import pytest
import torch
from tests_models import NETWORKS, network, rows, torch_model
from torch import nn

from secure.equivariant import Model, Network, from_torch
from secure.equivariant.errors import BadModel, UnsupportedOperation
from secure.equivariant.groups import Dense
from secure.equivariant.operations import Activation, Convolution, Flatten, Linear

SECRET = b"n" * 32
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-4}


def answered(model, x, secret=SECRET):
    sealed, done = model.transform(secret)
    entering = model.architecture.takes.sealed(model.checked({"rows": x}), done.input.to(x.dtype))
    answer = sealed.run(entering)
    return done.output.to(answer.dtype).inverted().apply(answer)


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_sealed_network_answers_as_torchs_own(kind, dtype):
    reference, _ = torch_model(kind, dtype)
    model = network(kind, dtype)
    x = rows(model, 200).to(dtype)
    with torch.no_grad():
        expected = reference(x)
    assert torch.allclose(model.run({"rows": x}), expected, rtol=1e-5, atol=1e-6)
    found = answered(model, x)
    error = (found - expected).abs().max() / expected.abs().max()
    assert float(error) <= LIMITS[dtype]
    assert bool((found.argmax(1) == expected.argmax(1)).all())


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_weight_of_a_sealed_network_is_a_plain_one(kind):
    model = network(kind)
    sealed, _ = model.transform(SECRET)
    for name, tensor in sealed.weights.items():
        plain = model.weights.get(name)
        assert plain is None or not torch.allclose(tensor, plain, rtol=0.1), name


def test_the_groups_are_those_that_the_operations_allow():
    _, done = network("mlp").transform(SECRET)
    assert [b.group for b in done.boundaries] == [
        "orthogonal",
        "scaled permutation",
        "signed permutation",
        "permutation",
        "orthogonal",
    ]
    _, done = network("deep-linear").transform(SECRET)
    assert [b.group for b in done.boundaries] == ["orthogonal", "orthogonal", "permutation"]
    _, done = network("digits8").transform(SECRET)
    assert [(b.group, b.size) for b in done.boundaries] == [
        ("orthogonal", 1),
        ("scaled permutation", 8),
        ("scaled permutation", 12),
        ("orthogonal", 10),
    ]


def test_square_is_sealed_by_signs():
    layers = [
        Convolution(name="c", inputs=1, outputs=4, kernel=(7, 7), stride=(3, 3)),
        Activation(function="square"),
        Flatten(),
        Linear(name="f", inputs=256, outputs=64),
        Activation(function="square"),
        Linear(name="g", inputs=64, outputs=10),
    ]
    architecture = Network(input=(1, 28, 28), layers=tuple(layers))
    chance = torch.Generator().manual_seed(5)
    weights = {
        name: torch.randn(shape, generator=chance, dtype=torch.float64) / 8
        for name, shape in architecture.tensors().items()
    }
    model = Model(architecture, weights)
    x = rows(model, 20)
    with torch.no_grad():
        h = nn.functional.conv2d(x, weights["c.weight"], weights["c.bias"], stride=3) ** 2
        h = (h.flatten(1) @ weights["f.weight"].T + weights["f.bias"]) ** 2
        expected = h @ weights["g.weight"].T + weights["g.bias"]
    assert torch.allclose(answered(model, x), expected, rtol=1e-10)
    assert [b.group for b in model.transform(SECRET)[1].boundaries][1:3] == [
        "signed permutation"
    ] * 2


def test_a_very_wide_input_gets_a_cheap_key():
    wide, shape = nn.Sequential(nn.Linear(5000, 3)).double(), (5000,)
    model = from_torch(wide, shape)
    _, done = model.transform(SECRET)
    assert not isinstance(done.input, Dense) and done.boundaries[0].group == "signed permutation"
    x = rows(model, 3)
    assert torch.allclose(answered(model, x), wide(x).detach(), rtol=1e-10)


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (nn.PReLU(), "PReLU"),
        (nn.Hardswish(), "Hardswish"),
        (nn.LeakyReLU(0.3), "LeakyReLU"),
        (nn.LayerNorm(8), "LayerNorm"),
        (nn.Softmax(dim=0), "Softmax"),
        (nn.Bilinear(8, 8, 4), "Bilinear"),
    ],
)
def test_what_has_no_key_is_refused_by_name(module, named):
    with pytest.raises(UnsupportedOperation, match=named) as caught:
        from_torch(nn.Sequential(nn.Linear(4, 8), module, nn.Linear(8, 2)), (4,))
    assert (caught.value.exit_code, caught.value.field, caught.value.value) == (2, "1", named)


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (nn.Conv2d(2, 4, 3, groups=2), "Conv2d"),
        (nn.Conv2d(2, 4, 3, dilation=2), "Conv2d"),
        (nn.Conv2d(2, 4, 3, padding_mode="circular", padding=1), "Conv2d"),
        (nn.Conv2d(2, 4, 3, padding="same"), "Conv2d"),
        (nn.AvgPool2d(2, ceil_mode=True), "AvgPool2d"),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), "AvgPool2d"),
        (nn.MaxPool2d(2, dilation=2), "MaxPool2d"),
        (nn.ConvTranspose2d(2, 4, 3), "ConvTranspose2d"),
        (nn.BatchNorm2d(2, affine=False), "BatchNorm2d"),
    ],
)
def test_an_option_that_would_change_the_answer_is_refused(module, named):
    with pytest.raises(UnsupportedOperation, match=named):
        from_torch(nn.Sequential(module, nn.Flatten(), nn.LazyLinear(3)), (2, 9, 9))


def test_a_network_that_is_no_sequence_is_refused():
    with pytest.raises(UnsupportedOperation, match="TransformerEncoderLayer"):
        from_torch(nn.TransformerEncoderLayer(8, 2), (8,))


def test_a_batch_norm_that_cannot_be_folded_is_refused():
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2))
    model = from_torch(layers.eval(), (4,))
    with pytest.raises(UnsupportedOperation, match="batch_norm 2"):
        model.transform(SECRET)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(BadModel, match="layer 1"):
        from_torch(nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 2)), (4,))
    with pytest.raises(BadModel, match="layer 0"):
        from_torch(nn.Sequential(nn.Linear(4, 8)), (5,))
    with pytest.raises(BadModel, match="flat"):
        from_torch(nn.Sequential(nn.Conv2d(1, 2, 3)), (1, 8, 8))
