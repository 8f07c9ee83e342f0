"""Freivalds' test: exact in integers against Python's own, honest about floats."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure.errors import BadParameters, NotVerified
from secure.verification.fixed import BITS, LIMIT, FixedLinear, FixedNetwork, between
from secure.verification.freivalds import (
    PRIME,
    Checker,
    NetworkChecker,
    Residues,
    check_float,
    soundness_error,
)

RNG = np.random.default_rng(5)


def layer(outputs: int, inputs: int, size: int = 1 << 15, bound: int = 1 << 15) -> FixedLinear:
    weight = RNG.integers(-size, size, (outputs, inputs), endpoint=True)
    return FixedLinear(weight, RNG.integers(-size, size, outputs), bound)


def rows(of: FixedLinear, count: int) -> np.ndarray:
    return RNG.integers(-of.bound, of.bound, (count, of.weight.shape[1]), endpoint=True)


integers = st.integers(-(1 << 59), 1 << 59)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.integers(1, 6), st.data())
def test_a_product_modulo_the_prime_is_that_of_python_s_integers(
    n: int, k: int, data: st.DataObject
) -> None:
    matrix = [[data.draw(integers) for _ in range(k)] for _ in range(n)]
    residues = [data.draw(st.integers(0, PRIME - 1)) for _ in range(k)]
    found = np.array(matrix, np.int64).reshape(n, k) @ Residues(residues)
    assert found.tolist() == [
        sum(a * r for a, r in zip(line, residues, strict=True)) % PRIME for line in matrix
    ]


@pytest.mark.parametrize("value", [LIMIT - 1, -LIMIT + 1, (1 << 30) - 1, -(1 << 30), 1 << 30])
def test_the_largest_sums_do_not_wrap(value: int) -> None:
    k = 5000
    matrix = np.full((1, k), value, np.int64)
    residues = np.full(k, PRIME - 1, object)
    assert (matrix @ Residues(residues))[0] == value * (PRIME - 1) * k % PRIME


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (64, 256, 32), (10, 300, 1)])
def test_honest_products_pass_and_are_python_s(shape: tuple[int, int, int]) -> None:
    outputs, inputs, count = shape
    made = layer(outputs, inputs)
    x = rows(made, count)
    y = made.compute(x)
    exact = x.astype(object) @ made.weight.T.astype(object) + made.bias.astype(object)
    assert np.array_equal(y.astype(object), exact)
    Checker(made)(x, y)


def test_products_beyond_doubles_are_exact_too() -> None:
    made = layer(4, 8, size=1 << 28, bound=1 << 27)
    assert made.reach >= 1 << 53
    x = rows(made, 6)
    y = made.compute(x)
    exact = x.astype(object) @ made.weight.T.astype(object) + made.bias.astype(object)
    assert np.array_equal(y.astype(object), exact)
    Checker(made)(x, y)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_change_of_any_entry_is_found(data: st.DataObject) -> None:
    made = layer(6, 11)
    x = rows(made, 4)
    y = made.compute(x)
    for _ in range(data.draw(st.integers(1, 3))):
        place = (data.draw(st.integers(0, 3)), data.draw(st.integers(0, 5)))
        y[place] += data.draw(st.sampled_from([1, -1, 1 << 20, -(1 << 40)]))
    wrong = int((y != made.compute(x)).any(axis=1).sum())
    if not wrong:
        return
    with pytest.raises(NotVerified) as caught:
        Checker(made)(x, y)
    assert caught.value.value == wrong and caught.value.exit_code == 4


def test_the_soundness_error_is_that_of_counting() -> None:
    """In a small field, the share of secrets that miss an error is exactly one in p."""
    p, d = 7, (3, 5)
    missed = sum((a * d[0] + b * d[1]) % p == 0 for a in range(p) for b in range(p))
    assert missed / p**2 == 1 / p
    assert soundness_error(1) == pytest.approx(1 / PRIME) and soundness_error(1) < 2**-60
    assert soundness_error(1 << 20, layers=3) < 2**-39


def test_an_answer_off_by_a_multiple_of_the_prime_is_refused() -> None:
    made = FixedLinear(np.array([[1]]), np.array([0]), 10)
    x = np.array([[3]])
    for y in (3 + PRIME, 3 - PRIME, LIMIT, -LIMIT, np.iinfo(np.int64).min):
        with pytest.raises(NotVerified):
            Checker(made)(x, np.array([[y]], dtype=np.int64))


@pytest.mark.parametrize(
    "y", [np.zeros((2, 3)), np.zeros((2, 4), np.int64), np.zeros((1, 3), np.int64)]
)
def test_products_of_another_shape_or_type_are_refused(y: np.ndarray) -> None:
    made = layer(3, 2)
    with pytest.raises(NotVerified):
        Checker(made)(rows(made, 2), y)


@pytest.mark.parametrize(
    "x",
    [np.zeros((2, 3), np.int64), np.zeros((2, 2)), np.full((1, 2), (1 << 15) + 1)],
    ids=["shape", "type", "bound"],
)
def test_inputs_that_do_not_fit_are_refused(x: np.ndarray) -> None:
    made = layer(3, 2)
    for use in (made.compute, lambda bad: Checker(made)(bad, np.zeros((len(bad), 3), np.int64))):
        with pytest.raises(BadParameters):
            use(x)


@pytest.mark.parametrize(
    ("weight", "bias", "bound"),
    [
        (np.full((1, 2), 1 << 40), np.zeros(1, np.int64), 1 << 20),
        (np.full((1, 1), np.iinfo(np.int64).min), np.zeros(1, np.int64), 1),
        (np.ones((1, 1), np.int64), np.full(1, LIMIT), 1),
        (np.ones((1, 1)), np.zeros(1, np.int64), 1),
        (np.ones((2, 1), np.int64), np.zeros(1, np.int64), 1),
        (np.ones((1, 1), np.int64), np.zeros(1, np.int64), 0),
    ],
    ids=["product", "lowest", "bias", "type", "shape", "bound"],
)
def test_a_layer_that_could_leave_its_range_is_refused(
    weight: np.ndarray, bias: np.ndarray, bound: int
) -> None:
    with pytest.raises(BadParameters):
        FixedLinear(weight, bias, bound)


def trained(*sizes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (RNG.normal(size=(out, into)) / np.sqrt(into), RNG.normal(size=out) / 10)
        for into, out in pairwise(sizes)
    ]


def forward(layers: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray) -> np.ndarray:
    for number, (weight, bias) in enumerate(layers):
        x = (np.maximum(x, 0) if number else x) @ weight.T + bias
    return x


def test_a_fixed_point_network_is_near_the_floating_point_one() -> None:
    layers = trained(20, 64, 32, 10)
    network = FixedNetwork.from_floats(layers, bound=4.0)
    values = np.clip(RNG.normal(size=(100, 20)), -4, 4)
    products = network.compute(network.integers(values))
    assert np.abs(network.reals(products[-1]) - forward(layers, values)).max() < 0.01
    NetworkChecker(network)(network.integers(values), products)


def test_a_lie_in_any_layer_is_found_there() -> None:
    network = FixedNetwork.from_floats(trained(5, 8, 6, 3), bound=1.0)
    x = network.integers(RNG.uniform(-1, 1, size=(4, 5)))
    check = NetworkChecker(network)
    for number in range(3):
        products = [product.copy() for product in network.compute(x)]
        products[number][2, 1] += 1
        # An honest continuation of a lie does not hide it.
        for later in range(number + 1, 3):
            products[later] = network.layers[later].compute(between(products[later - 1]))
        with pytest.raises(NotVerified) as caught:
            check(x, products)
        assert caught.value.value == number
    with pytest.raises(NotVerified):
        check(x, products[:2])


def test_another_model_is_found() -> None:
    layers = trained(5, 8, 3)
    network = FixedNetwork.from_floats(layers, bound=1.0)
    nudged = [(layers[0][0] + 2.0**-BITS, layers[0][1]), layers[1]]
    x = network.integers(RNG.uniform(-1, 1, size=(4, 5)))
    with pytest.raises(NotVerified):
        NetworkChecker(network)(x, FixedNetwork.from_floats(nudged, bound=1.0).compute(x))


def test_no_input_within_its_bound_leaves_a_later_layer_s() -> None:
    network = FixedNetwork.from_floats([(np.full((3, 4), 2.0), np.ones(3))] * 1, bound=3.0)
    deep = FixedNetwork.from_floats(
        [(np.full((3, 4), 2.0), np.ones(3)), (np.full((2, 3), -1.5), np.zeros(2))], bound=3.0
    )
    x = deep.integers(np.full((1, 4), 3.0))
    assert deep.reals(network.compute(x)[-1])[0, 0] == 25.0
    assert deep.reals(deep.compute(x)[-1])[0, 0] == -1.5 * 75


@pytest.mark.parametrize("value", [4.1, np.nan, np.inf])
def test_rows_outside_the_declared_bound_are_refused(value: float) -> None:
    network = FixedNetwork.from_floats(trained(2, 3), bound=4.0)
    with pytest.raises(BadParameters):
        network.integers([[value, 0.0]])


def test_networks_without_room_are_refused() -> None:
    with pytest.raises(BadParameters):
        FixedNetwork.from_floats([(np.full((2, 2), 1e6), np.zeros(2))] * 5, bound=1.0)
    with pytest.raises(BadParameters):
        FixedNetwork.from_floats([(np.full((2, 2), np.nan), np.zeros(2))], bound=1.0)
    with pytest.raises(BadParameters):
        FixedNetwork.from_floats([(np.full((2, 2), 1e30), np.zeros(2))], bound=1.0)


# Floats


def float_layer(inputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weight = RNG.normal(size=(30, inputs)).astype(np.float32)
    return (
        weight,
        RNG.normal(size=30).astype(np.float32),
        RNG.normal(size=(50, inputs)).astype("f4"),
    )


@pytest.mark.parametrize("inputs", [3, 64, 1000])
def test_honest_floats_pass_in_whatever_order_they_are_summed(inputs: int) -> None:
    weight, bias, x = float_layer(inputs)
    order = RNG.permutation(inputs)
    one_by_one = np.zeros((50, 30), np.float32)
    for column in order:
        one_by_one += x[:, column : column + 1] * weight[:, column]
    for y in (x @ weight.T + bias, one_by_one + bias):
        found = check_float(weight, bias, x, y)
        assert found.failed == 0 and found.sound is False and found.trials == 40


def test_an_error_above_the_bound_is_found_and_one_below_passes_as_said() -> None:
    weight, bias, x = float_layer(64)
    y = (x @ weight.T + bias).astype(np.float64)
    hidden = check_float(weight, bias, x, y).hidden
    assert 0 < hidden < 0.1
    y[7, 3] += 1.01 * hidden
    assert check_float(weight, bias, x, y).failed == 1
    y[7, 3] += (0.1 - 1.01) * hidden
    assert check_float(weight, bias, x, y).failed == 0


def test_one_trial_misses_an_error_that_cancels_half_the_time() -> None:
    weight, bias, x = float_layer(8)
    y = (x @ weight.T + bias).astype(np.float64)
    y[0, 0] += 1
    y[0, 1] -= 1
    found = sum(check_float(weight, bias, x, y, trials=1).failed for _ in range(400))
    assert 140 < found < 260  # a fair coin, false alarm 1e-9
    assert check_float(weight, bias, x, y).failed == 1


def test_floats_that_are_not_finite_never_pass() -> None:
    weight, bias, x = float_layer(8)
    y = x @ weight.T + bias
    for value in (np.nan, np.inf):
        y[3, 3] = value
        assert check_float(weight, bias, x, y).failed == 1
    with pytest.raises(NotVerified):
        check_float(weight, bias, x, y[:, :-1])
    with pytest.raises(BadParameters):
        check_float(weight * np.nan, bias, x, y)
    with pytest.raises(BadParameters):
        check_float(weight, bias[:-1], x, y)
