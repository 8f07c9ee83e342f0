"""Models as data: digests, what is read back, what is refused, and any network at all."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests_models import decoder, encoder, network, rows
from torch import nn

from secure.equivariant import Model, attack, from_torch
from secure.equivariant.errors import BadModel, UnsupportedOperation
from secure.errors import SecureError


@pytest.mark.parametrize("model", [network("digits8"), decoder(), encoder()], ids=["n", "d", "e"])
def test_a_model_is_read_back_whole(model):
    read = Model.read(model.description, model.tensors())
    assert read.architecture == model.architecture and read.digest == model.digest
    assert all(torch.equal(read.weights[name], w) for name, w in model.weights.items())


def test_a_digest_is_of_every_weight_and_the_description():
    model = decoder(torch.float32)
    digests = {
        model.digest,
        decoder(torch.float64).digest,
        decoder(torch.float32, theta=9.0).digest,
    }
    for name in ("embed", "layers.1.up", "norm"):
        weights = dict(model.weights)
        weights[name] = weights[name].clone()
        weights[name].view(-1)[3] += 1
        digests.add(Model(model.architecture, weights).digest)
    assert len(digests) == 6
    assert Model(model.architecture, dict(reversed(model.weights.items()))).digest == model.digest


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"layers": "3"},
        {"layers": 0},
        {"more": 1},
        {"theta": -1.0},
        {"kv_heads": None},
    ],
    ids=str,
)
def test_a_description_that_is_none_is_refused(change):
    model = decoder()
    description = json.loads(model.description) | change
    with pytest.raises(BadModel) as caught:
        Model.read(json.dumps(description).encode(), model.tensors())
    assert caught.value.field


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xff"])
def test_bytes_that_are_no_model_are_refused(data):
    model = network("logistic")
    with pytest.raises(SecureError):
        Model.read(data, model.tensors())
    with pytest.raises(BadModel, match="weights"):
        Model.read(model.description, data)


def test_weights_of_two_types_are_refused():
    model = network("logistic")
    weights = dict(model.weights)
    weights["1.bias"] = weights["1.bias"].float()
    with pytest.raises(UnsupportedOperation, match="float32, float64"):
        Model(model.architecture, weights)


ACTIVATIONS = st.sampled_from(
    [nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus, nn.Sigmoid, nn.Identity]
)


@st.composite
def any_network(draw):
    """A network of random layers, some with a single unit, some on images."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    shape = draw(st.sampled_from([(1,), (5,), (1, 6, 6), (3, 5, 7)]))
    layers, entering = [], shape[0]
    if len(shape) == 3:
        smallest = min(shape[1:])
        for _ in range(draw(st.integers(1, 2))):
            out = draw(st.integers(1, 4))
            layers.append(nn.Conv2d(entering, out, 2, padding=draw(st.integers(0, 1))))
            smallest += 2 * layers[-1].padding[0] - 1
            layers += [nn.BatchNorm2d(out)] * draw(st.integers(0, 1))
            layers.append(draw(ACTIVATIONS)())
            if smallest >= 4 and draw(st.booleans()):
                layers.append(draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))(2))
                smallest //= 2
            entering = out
        layers.append(nn.Flatten())
        with torch.no_grad():
            entering = nn.Sequential(*layers).eval()(torch.zeros(1, *shape)).shape[1]
    for _ in range(draw(st.integers(0, 2))):
        out = draw(st.integers(1, 6))
        layers += [nn.Linear(entering, out, bias=draw(st.booleans())), draw(ACTIVATIONS)()]
        entering = out
    layers.append(nn.Linear(entering, draw(st.integers(1, 4)), bias=draw(st.booleans())))
    return nn.Sequential(*layers).double().eval(), shape


@given(any_network(), st.binary(min_size=32, max_size=32))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_network_is_sealed_exactly_and_attacked(made, secret):
    torch_network, shape = made
    model = from_torch(torch_network, shape)
    sealed, done = model.transform(secret)
    x = rows(model, 9)
    with torch.no_grad():
        expected = torch_network(x)
    entering = model.architecture.takes.sealed({"rows": x}, done.input)
    found = done.output.inverted().apply(sealed.run(entering))
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-10)
    report = attack(model, sealed, done, base=model)
    assert all(-1 <= f.value <= 1.001 for f in report.findings), report.findings


@pytest.mark.parametrize(
    "changes", [{"vocabulary": 1}, {"vocabulary": 2, "positions": 1}, {"width": 1, "hidden": 1}]
)
@pytest.mark.parametrize("make", [decoder, encoder])
def test_the_smallest_transformers_are_sealed_and_attacked(make, changes):
    small = {"width": 4, "layers": 1, "heads": 1} | changes
    if make is decoder:
        small |= {"kv_heads": 1, "head_width": 2}
    model = make(**small)
    sealed, done = model.transform(b"s" * 32)
    report = attack(model, sealed, done, base=model)
    assert all(0 <= f.value <= 1 for f in report.findings)
