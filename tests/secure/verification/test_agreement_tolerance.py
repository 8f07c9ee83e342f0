"""The tolerance: honest runs pass, substitutes do not, and what it lets through is what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from verification_networks import int8, network

from secure.errors import BadParameters
from secure.verification.tolerance import EXACT, FLOOR, Tolerance, calibrate, power

PLAIN = network()
ROWS = np.random.default_rng(3).normal(size=(400, 20)).astype(np.float32)
FRESH = np.random.default_rng(4).normal(size=(400, 20)).astype(np.float32)


def runs(rows: np.ndarray) -> list[np.ndarray]:
    """Honest runs that differ in their last bits: whole, row by row, hidden units turned round."""
    turned = type(PLAIN)(PLAIN.first[::-1].copy(), PLAIN.second[:, ::-1].copy())
    return [PLAIN(rows), np.concatenate([PLAIN(row[None]) for row in rows]), turned(rows)]


def test_honest_runs_on_rows_never_seen_agree_and_substitutes_do_not() -> None:
    tolerance = calibrate(runs(ROWS))
    first, *others = runs(FRESH)
    assert any(not np.array_equal(first, other) for other in others)
    assert all(tolerance.agree(first, other) for other in others)
    assert power(tolerance, first, int8(PLAIN)(FRESH)) > 0.99
    half = first.astype(np.float16).astype(np.float32)
    assert power(tolerance, first, half) > 0.9


def test_a_change_within_the_tolerance_passes_as_the_documentation_says() -> None:
    tolerance = calibrate(runs(ROWS))
    honest = PLAIN(FRESH)
    within = honest + np.float32(0.9 * tolerance.absolute)
    beyond = honest + np.float32(1.1 * tolerance.allowed(np.abs(honest).max()))
    assert tolerance.agree(honest, within) and not tolerance.agree(honest, beyond)


def test_the_tolerance_is_the_quantile_of_the_worst_output_of_a_row() -> None:
    zero = np.tile([1.0, -1.0], (1000, 1))
    moved = zero.copy()
    moved[:, 0] += np.linspace(0, 1e-3, 1000)
    tolerance = calibrate([zero, moved], quantile=0.5, factor=2.0)
    scale = np.sqrt((np.mean(zero**2) + np.mean(moved**2)) / 2)
    middle = np.median(np.linspace(0, 1e-3, 1000) / (scale + 1 + np.linspace(0, 1e-3, 1000)))
    assert tolerance.relative == pytest.approx(2 * middle, rel=1e-9)
    assert tolerance.absolute == pytest.approx(tolerance.relative * scale, rel=1e-9)


def test_equal_runs_leave_the_floor() -> None:
    run = PLAIN(ROWS)
    assert calibrate([run, run]).relative == FLOOR


@given(st.floats(allow_nan=True), st.floats(allow_nan=True))
def test_agreement_is_symmetric_and_needs_finite_numbers(a: float, b: float) -> None:
    one, other = np.array([[a]]), np.array([[b]])
    loose = Tolerance(1.0, 0.5)
    assert loose.agree(one, other) == loose.agree(other, one)
    if not (np.isfinite(a) and np.isfinite(b)):
        assert not loose.agree(one, other)


def test_exact_is_equality_also_for_the_largest_integers() -> None:
    one = np.array([[2**62, -(2**62)]], dtype=np.int64)
    assert EXACT.agree(one, one.copy()) and not EXACT.agree(one, one + np.array([[0, 1]]))
    assert not EXACT.agree(one, one[:, :1])


@pytest.mark.parametrize(
    "bad",
    [
        [np.ones((2, 2))],
        [np.ones((2, 2)), np.ones((2, 3))],
        [np.ones(2), np.ones(2)],
        [np.ones((2, 2)), np.full((2, 2), np.nan)],
        [np.zeros((2, 2)), np.zeros((2, 2))],
        [np.ones((0, 2)), np.ones((0, 2))],
    ],
    ids=["one", "shapes", "flat", "nan", "zero", "empty"],
)
def test_runs_that_calibrate_nothing_are_refused(bad: list[np.ndarray]) -> None:
    with pytest.raises(BadParameters):
        calibrate(bad)


@pytest.mark.parametrize("pair", [(-1.0, 0.0), (float("nan"), 0.0), (0.0, 1.0), (float("inf"), 0)])
def test_a_tolerance_that_allows_everything_is_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(BadParameters):
        Tolerance(*pair)
