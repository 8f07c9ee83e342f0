"""Fixed point: the stated error holds in exact arithmetic, and sums that wrap are refused."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure.aggregation.quantize import Quantizer, check_sum, normalised
from secure.errors import BadParameters, SecureError

RANGES = st.floats(1e-6, 1e6)
LEVELS = st.one_of(st.integers(3, 1000), st.integers(3, 1 << 52))


@given(st.data(), RANGES, LEVELS, st.integers(1, 12))
def test_the_error_of_a_sum_stays_below_its_bound_in_exact_arithmetic(data, top, levels, silos):
    quantizer = Quantizer(top, levels)
    values = data.draw(st.lists(st.floats(-2 * top, 2 * top), min_size=silos, max_size=silos))
    weights = data.draw(st.lists(st.floats(0, 1), min_size=silos, max_size=silos))
    total, exact = np.zeros(1, dtype=np.int64), Fraction(0)
    for value, weight in zip(values, weights, strict=True):
        quantized = quantizer.quantize(np.array([value]), weight=weight)
        assert quantized.clipped == (abs(value) > top)
        assert abs(int(quantized.values[0])) <= quantizer.bound
        total += quantized.values
        exact += Fraction(min(max(value, -top), top)) * Fraction(weight)
    error = abs(Fraction(float(quantizer.dequantize(total)[0])) - exact)
    assert error <= Fraction(quantizer.max_error(silos))


def test_the_bound_of_the_error_is_reached():
    quantizer = Quantizer(1.0, 3)  # the levels are -1, 0 and 1, and halves go to even
    total = sum(quantizer.quantize(np.array([0.5])).values for _ in range(10))
    assert total == 0
    assert quantizer.max_error(10) == pytest.approx(5.0)


def test_levels_zero_and_ends():
    quantizer = Quantizer(8.0, 1 << 22)
    assert quantizer.bound == (1 << 21) - 1
    values = quantizer.quantize(np.array([0.0, 8.0, -8.0, 9.0, -1e300])).values
    assert values.tolist() == [
        0,
        quantizer.bound,
        -quantizer.bound,
        quantizer.bound,
        -quantizer.bound,
    ]


@given(st.floats(1e-99, 1e99), st.sampled_from([1.0, 1 - 2**-53, 1 - 2**-52]))
def test_no_end_of_the_range_passes_the_last_level(top, weight):
    quantizer = Quantizer(top, 1 << 52)
    values = quantizer.quantize(np.array([-top, top]), weight=weight).values
    assert (np.abs(values) <= quantizer.bound).all()


def test_the_callers_array_is_not_changed():
    values = np.array([3.0, -20.0])
    Quantizer(1.0, 5).quantize(values)
    assert values.tolist() == [3.0, -20.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_and_not_named(bad):
    with pytest.raises(BadParameters, match="not finite") as caught:
        Quantizer(1.0, 5).quantize(np.array([123.456, bad]))
    assert "123.456" not in str(caught.value)


def test_what_was_clipped_shows_in_no_repr():
    assert "3" not in repr(Quantizer(1.0, 5).quantize(np.array([7.0, 7.0, 7.0])))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Quantizer(0.0, 5),
        lambda: Quantizer(float("nan"), 5),
        lambda: Quantizer(float("inf"), 5),
        lambda: Quantizer(1.0, 2),
        lambda: Quantizer(1.0, (1 << 52) + 1),
        lambda: Quantizer(1.0, 5.0),
        lambda: Quantizer(1.0, 5).quantize([0.0], weight=1.5),
        lambda: Quantizer(1.0, 5).quantize([0.0], weight=float("nan")),
        lambda: check_sum(3, 5, 16),
        lambda: normalised({"a": -1.0, "b": 2.0}),
        lambda: normalised({"a": 0.0}),
        lambda: normalised({"a": float("inf")}),
        lambda: normalised({"a": 1e308, "b": 1e308}),
    ],
)
def test_senseless_parameters_are_refused(make):
    with pytest.raises(SecureError) as caught:
        make()
    assert caught.value.exit_code == 2


def test_a_sum_that_could_wrap_is_refused_with_its_numbers():
    check_sum(4, (1 << 29) - 1, 32)
    with pytest.raises(BadParameters, match=r"4 silos.*536870912.*2147483648.*2147483648"):
        check_sum(4, 1 << 29, 32)
    check_sum(4, 1 << 29, 64)


def test_normalised_weights_sum_to_one():
    assert normalised({"a": 1, "b": 3}) == {"a": 0.25, "b": 0.75}
