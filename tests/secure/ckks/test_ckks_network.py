"""Models read off against torch itself; ranges against rows tried by brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secure.ckks.modules import Quadratic, Square
from secure.ckks.network import Approximation, read
from secure.ckks.ranges import enclose
from secure.errors import BadParameters


def normalised(channels, kind):
    layer = kind(channels)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2.0)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


def learned(a, b, c):
    layer = Quadratic()
    with torch.no_grad():
        layer.coefficients.copy_(torch.tensor([a, b, c]))
    return layer


MODELS = {
    "linear": (lambda: nn.Linear(7, 3), (7,)),
    "fused": (lambda: nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 4), nn.Dropout()), (7,)),
    "mlp": (
        lambda: nn.Sequential(
            nn.Linear(7, 5), normalised(5, nn.BatchNorm1d), Square(), nn.Linear(5, 2)
        ),
        (7,),
    ),
    "quadratic": (
        lambda: nn.Sequential(nn.Linear(7, 5), learned(-0.7, 1.3, 0.2), nn.Linear(5, 2)),
        (7,),
    ),
    "ends with a square": (lambda: nn.Sequential(nn.Linear(7, 5), Square()), (7,)),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1),
            normalised(3, nn.BatchNorm2d),
            Square(),
            nn.AvgPool2d(2),
            nn.Conv2d(3, 2, 2),
            learned(0.5, -0.1, 0.3),
            nn.Sequential(nn.Flatten(), nn.Linear(2, 4)),
        ),
        (2, 7, 7),
    ),
    "unflatten": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 6, 6)), nn.Conv2d(1, 2, 3), Square(), nn.Flatten(), nn.Linear(32, 2)
        ),
        (36,),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_compiled_network_is_the_model(name):
    torch.manual_seed(3)
    make, shape = MODELS[name]
    model = make()
    network = read(model, shape)
    rows = torch.randn(20, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected = model.double().eval()(rows).reshape(20, -1).numpy()
    np.testing.assert_allclose(network.approximate(rows.numpy()), expected, atol=1e-9)
    np.testing.assert_allclose(network.plain(rows.numpy()), expected, atol=1e-12)


def test_approximated_activations_stay_within_what_is_stated():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2), nn.Sigmoid()
    )
    ways = [Approximation(4.0, 15), Approximation(12.0, 15), Approximation(6.0, 7)]
    network = read(model, (4,), ways)
    assert network.depth == 1 + 4 + 1 + 4 + 1 + 3 + 1
    ranges = enclose(network, -1.0, 1.0)
    rows = np.random.default_rng(0).uniform(-1, 1, (2000, 4))
    apart = np.abs(network.approximate(rows) - network.plain(rows))
    assert (apart <= ranges.approximation).all()
    assert (ranges.approximation <= 100 * apart.max()).all()


def test_one_shift_costs_no_more_than_a_square():
    network = read(nn.Sequential(nn.Linear(3, 3), Quadratic(), nn.Linear(3, 1)), (3,))
    assert network.activations == (None,)
    assert network.depth == 3


def test_the_windows_of_a_first_convolution_are_found():
    model = nn.Sequential(nn.Conv2d(1, 4, 7, stride=3), Square(), nn.Flatten(), nn.Linear(256, 4))
    windows = read(model, (1, 28, 28)).windows
    assert windows is not None and windows.index.shape == (49, 64)
    assert windows.index[0, :3].tolist() == [0, 3, 6]
    assert read(nn.Sequential(nn.Linear(4, 4), Square(), nn.Linear(4, 1)), (4,)).windows is None
    pooled = nn.Sequential(nn.Conv2d(1, 4, 7, stride=3), nn.AvgPool2d(2), Square(), nn.Flatten())
    assert read(pooled, (1, 28, 28)).windows is None  # the pool looks past each window


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(-2, 1), st.floats(0, 3))
def test_no_row_of_the_box_leaves_the_ranges(seed, low, width):
    torch.manual_seed(seed)
    network = read(
        nn.Sequential(nn.Linear(4, 5), Square(), nn.Linear(5, 4), Quadratic(), nn.Linear(4, 2)),
        (4,),
    )
    ranges = enclose(network, low, low + width)
    rng = np.random.default_rng(seed)
    corners = low + width * rng.integers(0, 2, (200, 4))
    values = np.vstack([corners, rng.uniform(low, low + width, (200, 4))])
    for place, affine in enumerate(network.affines):
        values = values @ affine.weight.T + affine.bias
        assert (np.abs(values) <= ranges.before[place] + 1e-9).all()
        if place < 2:
            values = values**2
            bottom, top = ranges.after[place]
            assert (values >= bottom - 1e-9).all() and (values <= top + 1e-9).all()


def test_one_linear_layer_is_enclosed_exactly():
    network = read(nn.Linear(5, 3), (5,))
    corners = np.array(np.meshgrid(*[[-1.0, 2.0]] * 5)).reshape(5, -1).T
    largest = np.abs(network.plain(corners)).max(axis=0)
    np.testing.assert_allclose(enclose(network, -1.0, 2.0).before[0], largest, rtol=1e-9)


def test_a_range_that_is_not_certified_is_refused_with_one_that_would_be():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1))
    network = read(model, (8,), Approximation(0.5, 7))
    with pytest.raises(BadParameters, match="can reach") as caught:
        enclose(network, -3.0, 3.0)
    assert caught.value.field == "approximations[0].bound"
    enough = float(str(caught.value.allowed).removeprefix("at least "))
    enclose(read(model, (8,), Approximation(enough, 7)), -3.0, 3.0)


@pytest.mark.parametrize("low, high", [(1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_a_box_that_is_none_is_refused(low, high):
    with pytest.raises(BadParameters) as caught:
        enclose(read(nn.Linear(2, 1), (2,)), low, high)
    assert caught.value.field == "box"


class Sneaky(nn.Linear):
    def forward(self, rows):
        return super().forward(rows).sin()


@pytest.mark.parametrize(
    "layer",
    [nn.MaxPool2d(2), nn.Softmax(1), nn.LayerNorm(4), nn.LSTM(4, 4), Sneaky(4, 4), nn.ELU()],
)
def test_layers_without_an_encrypted_form_are_named(layer):
    with pytest.raises(BadParameters, match=type(layer).__name__) as caught:
        read(nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Identity(), layer)), (4,))
    assert caught.value.field == "model.1.1"
    assert caught.value.value == type(layer).__name__


def test_an_activation_without_a_declared_range_is_refused():
    with pytest.raises(BadParameters, match="no bound and degree"):
        read(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)), (4,))


def test_weights_that_are_not_finite_and_flat_quadratics_are_refused():
    broken = nn.Linear(4, 1)
    with torch.no_grad():
        broken.weight[0, 0] = float("nan")
    with pytest.raises(BadParameters, match="not finite"):
        read(broken, (4,))
    with pytest.raises(BadParameters, match="linear layer"):
        read(nn.Sequential(nn.Linear(4, 4), learned(1e-6, 1.0, 0.0), nn.Linear(4, 1)), (4,))
