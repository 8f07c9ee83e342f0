"""Checking y = x W^T + b without computing it: Freivalds' test (1977).

    check = Checker(layer)              # draws its secret
    check(x, node(x))                   # NotVerified unless every row is right

**In integers** the test is sound. With r uniform over the field of p = 2^61 - 1 elements, a row
whose y is wrong by d != 0 passes only if d . r = 0 modulo p, so with probability 1/p < 2^-60. All
entries are below p/2, hence equal modulo p means equal. Per row it costs inputs + outputs
multiplications, once W^T r is there, in place of inputs times outputs. r is drawn before the first
answer and kept, as in Slalom (Tramer and Boneh 2019): a prover learns of it only whether earlier
answers passed. After n rows, whatever the prover tried, a wrong one has passed with probability at
most n/(p - n).

**In floating point soundness is lost**: honest answers differ in their last bits, and whatever is
below the bound of those passes. `check_float` says how large that is.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secure.errors import BadParameters, NotVerified
from secure.verification.fixed import LIMIT, FixedLinear, FixedNetwork, Integers, between

PRIME = (1 << 61) - 1
PIECE = 22  # bits of the pieces that large integers are cut into


class Checker:
    """A verifier of one layer. Its secret never leaves it.

    Privacy: whoever checks sees the rows and the weights. Errors: see `__call__`.
    """

    __slots__ = ("_folded", "_layer", "_offset", "_secret")

    def __init__(self, layer: FixedLinear) -> None:
        outputs = len(layer.weight)
        self._layer = layer
        self._secret = Residues([secrets.randbelow(PRIME) for _ in range(outputs)])
        self._folded = Residues(layer.weight.T @ self._secret)
        self._offset = (layer.bias[None, :] @ self._secret)[0]

    def __call__(self, x: Integers, y: Integers) -> None:
        """Raise `NotVerified` unless y [rows, outputs] is the layer's product of x, row by row."""
        self._layer.check_input(x)
        wanted = (len(x), len(self._layer.weight))
        if y.dtype != np.int64 or y.shape != wanted:
            raise NotVerified(
                "products of another shape or type", field="y", value=list(y.shape), allowed=wanted
            )
        # An answer off by a multiple of the prime would pass the test below.
        if y.size and (int(y.max()) >= LIMIT or int(y.min()) <= -LIMIT):
            raise NotVerified("a product is out of its range", field="y")
        left = y @ self._secret
        right = (x @ self._folded + self._offset) % PRIME
        wrong = int(np.count_nonzero(left != right))
        if wrong:
            raise NotVerified(
                f"{wrong} of {len(x)} rows are not the layer's product", field="y", value=wrong
            )


class NetworkChecker:
    """A verifier of a fixed-point network: every product is checked, what is between is redone."""

    def __init__(self, network: FixedNetwork) -> None:
        self._checkers = [Checker(layer) for layer in network.layers]

    def __call__(self, x: Integers, products: Sequence[Integers]) -> None:
        """Raise `NotVerified` unless these are the products of all layers for x."""
        if len(products) != len(self._checkers):
            raise NotVerified(
                "not one product for each layer",
                field="products",
                value=len(products),
                allowed=len(self._checkers),
            )
        for number, (checker, product) in enumerate(zip(self._checkers, products, strict=True)):
            try:
                checker(x, product)
            except NotVerified as error:
                raise NotVerified(
                    f"layer {number}: {error.message}", field="products", value=number
                ) from None
            x = between(product)


def soundness_error(rows: int, layers: int = 1) -> float:
    """Bound the probability that any wrong row passed, over all rows that a checker has seen."""
    tested = rows * layers
    return tested / (PRIME - tested)


class Residues:
    """A vector modulo the prime, cut once into pieces for exact products with integer matrices.

    Matrices are cut as well, into pieces of `PIECE` bits, so that every sum of products fits the 53
    bits that doubles hold exactly in any order of summation; sums are joined in Python integers.
    """

    __slots__ = ("_pieces", "_shifts")
    __array_ufunc__ = None  # numpy's arrays leave the product to this class

    def __init__(self, values: Sequence[int] | npt.NDArray[np.object_]) -> None:
        """Values are below the prime. Raises `BadParameters` for more than 2^23 of them."""
        room = 53 - PIECE - len(values).bit_length()
        if room < 8:
            raise BadParameters(
                "a layer of too many inputs", field="weight", value=len(values), allowed=1 << 23
            )
        whole = np.asarray(values, dtype=object)
        self._shifts = range(0, 61, room)
        pieces = [(whole >> shift) & ((1 << room) - 1) for shift in self._shifts]
        self._pieces = np.stack([piece.astype(np.float64) for piece in pieces], axis=1)

    def __rmatmul__(self, matrix: Integers) -> npt.NDArray[np.object_]:
        """Return the product with a matrix [n, k], n Python integers modulo the prime."""
        products = np.zeros(len(matrix), dtype=object)
        largest = max(int(matrix.max()), -int(matrix.min())) if matrix.size else 0
        for start in range(0, largest.bit_length(), PIECE):
            # The last piece keeps the sign, the others are what was cut off below it.
            rest = matrix >> start if start else matrix
            if largest >> start >> PIECE:
                rest = rest & ((1 << PIECE) - 1)
            sums = (rest.astype(np.float64) @ self._pieces).astype(np.int64).astype(object)
            for number, shift in enumerate(self._shifts):
                products = products + (sums[:, number] << (shift + start))
        return products % PRIME


@dataclass(frozen=True)
class FloatCheck:
    """What the test found in floating point. It is never a proof: `sound` is False.

    `failed` counts rows that no honest computation could have given. `hidden` is the largest change
    of an output that may have passed unseen: an entry changed by more than that, in a row that did
    not fail, escaped with probability at most 2^-trials.
    """

    failed: int
    hidden: float
    trials: int
    sound: bool = False


def check_float(weight: Any, bias: Any, x: Any, y: Any, *, trials: int = 40) -> FloatCheck:
    """Test y = x W^T + b where y was computed in 32-bit floats, with random signs.

    Shapes: `weight` [outputs, inputs], `bias` [outputs], `x` [rows, inputs], `y` [rows, outputs].
    For signs r, |(y - x W^T - b) . r| of an honest row is at most gamma (|x| |W|^T + |b|) . 1 with
    gamma = n u/(1 - n u), u = 2^-24, n = inputs + 1, whatever the order of summation (Higham,
    Accuracy and Stability of Numerical Algorithms, 2002, section 3.1); here it is doubled, which
    covers the verifier's own arithmetic in doubles. Flipping one sign moves the left side by twice
    that entry's error, so an error above the bound passes one trial with probability at most 1/2.
    Errors: `BadParameters` for other shapes, or weights or rows that are not finite.
    """
    w, b, rows, out = (np.asarray(part, dtype=np.float64) for part in (weight, bias, x, y))
    if w.ndim != 2 or b.shape != w.shape[:1] or rows.ndim != 2 or rows.shape[1] != w.shape[1]:
        raise BadParameters("weight, bias and rows do not fit together", field="weight")
    if not all(np.isfinite(part).all() for part in (w, b, rows)):
        raise BadParameters("a weight or a row is not finite", field="weight")
    if out.shape != (len(rows), len(w)):
        raise NotVerified("products of another shape", field="y", value=list(out.shape))
    operations = w.shape[1] + 1
    gamma = operations * 2.0**-24 / (1 - operations * 2.0**-24)
    bound = 2 * gamma * (np.abs(rows) @ np.abs(w).sum(axis=0) + np.abs(b).sum())
    bits = np.frombuffer(secrets.token_bytes(math.ceil(len(w) * trials / 8)), dtype=np.uint8)
    signs = np.unpackbits(bits)[: len(w) * trials].reshape(len(w), trials) * 2.0 - 1.0
    with np.errstate(invalid="ignore"):
        residual = np.abs(out @ signs - rows @ (w.T @ signs) - b @ signs)
        passed = (residual <= bound[:, None]).all(axis=1)
    return FloatCheck(
        failed=int(np.count_nonzero(~passed)),
        hidden=float(bound.max()) if bound.size else 0.0,
        trials=trials,
    )
