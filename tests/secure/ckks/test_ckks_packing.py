"""Products by rotations against numpy, in plain numbers; the steps against a count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure.ckks.packing import Matvec, padded


class Plain:
    """Slots as an array, and what is done to them counted."""

    def __init__(self, product, slots):
        self.diagonals = [np.resize(d.values, slots) for d in product.diagonals]
        self.rotated = []

    def rotate(self, vector, step):
        assert 0 < step < len(vector)
        self.rotated.append(step)
        return np.roll(vector, -step)

    def times(self, vector, place):
        return vector * self.diagonals[place]

    def add(self, a, b):
        return a + b


def check(matrix, rng):
    rows, columns = matrix.shape
    product = Matvec.of(matrix)
    slots = 2 * max(padded(rows), padded(columns))
    x = np.zeros(product.inputs)
    x[:columns] = rng.normal(size=columns)
    plain = Plain(product, slots)
    y = product.apply(np.resize(x, slots), plain)
    expected = np.zeros(product.outputs)
    expected[:rows] = matrix @ x[:columns]
    np.testing.assert_allclose(y, np.resize(expected, slots), atol=1e-9)
    assert len(plain.rotated) == product.rotations
    assert set(plain.rotated) == product.steps
    return product


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_products_equal_numpy(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    check(rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < density), rng)


@pytest.mark.large
@pytest.mark.parametrize("rows", range(1, 301))
def test_products_of_all_shapes_equal_numpy(rows):
    rng = np.random.default_rng(rows)
    for columns in range(1, 301):
        check(rng.normal(size=(rows, columns)), rng)


def test_rotations_grow_with_the_root_of_the_diagonals():
    product = Matvec.of(np.ones((64, 256)))
    assert product.rotations == 7 + 7 + 2
    assert product.steps == {1, 2, 3, 4, 5, 6, 7, 8, 64, 128}  # the giant steps share one key
    assert Matvec.of(np.ones((10, 64))).rotations == 3 + 3 + 2
    assert Matvec.of(np.ones((1, 4096))).rotations == 12


def test_a_convolution_laid_out_by_windows_has_one_diagonal_per_channel():
    channels, positions, windows = 4, 64, 64
    kernels = np.random.default_rng(0).normal(size=(channels, positions))
    matrix = np.einsum("cp,wv->cwpv", kernels, np.eye(windows)).reshape(
        channels * windows, positions * windows
    )
    product = check(matrix, np.random.default_rng(1))
    assert len(product.diagonals) == channels
    assert product.rotations == 2 + 4


def test_a_matrix_of_zeros_still_has_a_product():
    assert len(check(np.zeros((3, 5)), np.random.default_rng(0)).diagonals) == 1
