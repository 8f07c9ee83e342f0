"""Approximations against published errors and a grid of their own; evaluation against numpy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure.ckks.polynomials import Polynomial, approximate, evaluate
from secure.errors import BadParameters


def relu(x):
    return np.maximum(x, 0)


def gelu(x):
    return np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


# Minimax errors by an independent Remez/Lawson computation, to the digits that it gave.
ERRORS = [
    ("relu", relu, 4, {2: 0.250, 4: 0.135, 7: 0.092, 15: 0.040}),
    ("gelu", gelu, 4, {2: 0.232, 4: 0.085, 7: 0.030}),
    ("silu", silu, 4, {2: 0.154, 4: 0.035, 7: 0.008}),
    ("sigmoid", sigmoid, 4, {2: 0.100, 3: 0.023}),
    ("tanh", np.tanh, 4, {2: 0.412, 4: 0.179, 7: 0.038}),
    ("relu", relu, 8, {4: 0.271, 7: 0.184, 15: 0.080}),
    ("tanh", np.tanh, 8, {4: 0.369, 7: 0.159, 15: 0.033}),
]


@pytest.mark.parametrize("name, function, bound, errors", ERRORS)
def test_errors_are_certified_and_minimax(name, function, bound, errors):
    for degree, published in errors.items():
        polynomial = approximate(name, bound=bound, degree=degree)
        assert published - 5e-4 <= polynomial.error <= published + 3e-3
        x = np.linspace(-bound, bound, 9973)  # a grid that shares no point with the one certified
        seen = np.abs(polynomial(x) - function(x)).max()
        assert seen <= polynomial.error
        assert seen >= polynomial.error - 3e-3
        slopes = np.abs(np.diff(function(x))) / np.diff(x)
        assert slopes.max() <= polynomial.lipschitz


class Number:
    def __init__(self, value, level, scale):
        self.value, self.level, self.scale = value, level, scale


class Reals:
    """An evaluation in plain numbers that holds levels and scales to their rules."""

    def level(self, x):
        return x.level

    def scale(self, x):
        return x.scale

    def prime(self, level):
        return 2.0**30 + 16384 * level + 1

    def linear(self, x, factor, constant, level, scale):
        assert x.level > level
        return Number(factor * x.value + constant, level, scale)

    def product(self, x, y, level, scale):
        assert min(x.level, y.level) > level
        assert x.scale * y.scale / self.prime(level + 1) == pytest.approx(scale, rel=1e-12)
        return Number(x.value * y.value, level, scale)

    def double_less_one(self, x):
        return Number(2 * x.value - 1, x.level, x.scale)

    def add(self, x, y):
        if isinstance(y, float):
            return Number(x.value + y, x.level, x.scale)
        assert x.level == y.level
        assert x.scale == pytest.approx(y.scale, rel=1e-12)
        return Number(x.value + y.value, x.level, x.scale)


@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=32).filter(lambda c: c[-1] != 0),
    st.floats(-1, 1),
)
@settings(deadline=None)
def test_evaluation_takes_its_depth_and_lands_on_its_scale(coefficients, u):
    polynomial = Polynomial(tuple(coefficients), 1.0)
    result = evaluate(polynomial, Number(u, 9, 2.0**30), Reals(), 2.0**33)
    assert result.level == 9 - math.ceil(math.log2(len(coefficients)))
    assert result.scale == 2.0**33
    expected = np.polynomial.chebyshev.chebval(u, coefficients)
    assert result.value == pytest.approx(expected, abs=1e-9)


@given(
    st.lists(st.floats(-3, 3), min_size=3, max_size=16).filter(lambda c: c[-1] != 0),
    st.floats(-1, 1),
    st.floats(-math.pi, math.pi),
    st.floats(1e-6, 0.05),
)
@settings(deadline=None)
def test_what_a_complex_error_does_is_bounded(coefficients, u, angle, distance):
    polynomial = Polynomial(tuple(coefficients), 1.0)
    e = distance * complex(math.cos(angle), math.sin(angle))
    chebval, chebder = np.polynomial.chebyshev.chebval, np.polynomial.chebyshev.chebder
    moved = chebval(u + e, coefficients) - chebval(u, coefficients)
    linear = chebval(u, chebder(coefficients)) * e
    assert abs(moved - linear) <= polynomial.remainder(distance) + 1e-12
    assert abs(linear) <= polynomial.steepest() * distance + 1e-12


def test_intervals_hold_what_the_polynomial_gives():
    polynomial = approximate("gelu", bound=5.0, degree=9)
    for low, high in [(-1.0, 1.0), (-0.3, 0.2), (0.1, 0.1001)]:
        bottom, top = polynomial.interval(low, high)
        values = polynomial(np.linspace(5 * low, 5 * high, 5000))
        assert bottom <= values.min() and values.max() <= top
        assert top - values.max() < 1e-2


@pytest.mark.parametrize(
    "name, bound, degree",
    [
        ("softmax", 4.0, 7),
        ("relu", 0.0, 7),
        ("relu", math.nan, 7),
        ("relu", 4.0, 1),
        ("relu", 4.0, 32),
        ("relu", 4.0, 3.0),
    ],
)
def test_senseless_approximations_are_refused(name, bound, degree):
    with pytest.raises(BadParameters) as caught:
        approximate(name, bound=bound, degree=degree)
    assert caught.value.exit_code == 2
