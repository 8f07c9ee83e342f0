"""Canaries: the rows come back in order, a cheat is found as often as the formula says."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from verification_networks import network

from secure.errors import BadParameters, NotVerified
from secure.verification.canaries import Canaries, escape_probability
from secure.verification.tolerance import EXACT, Tolerance

PLAIN = network()
KNOWN = np.random.default_rng(1).normal(size=(300, 20)).astype(np.float32)
ROWS = np.random.default_rng(2).normal(size=(30, 20)).astype(np.float32)
NEAR = Tolerance(1e-4, 1e-4)


def stock(tolerance: Tolerance = NEAR) -> Canaries:
    return Canaries(KNOWN, PLAIN(KNOWN), tolerance)


def test_an_honest_node_s_answers_come_back_in_order() -> None:
    mixed = stock().hide(ROWS, 10)
    assert mixed.rows.shape == (40, 20)
    assert np.allclose(mixed.open(PLAIN(mixed.rows)), PLAIN(ROWS), atol=1e-5)


def test_a_wrong_canary_voids_all_answers() -> None:
    mixed = stock().hide(ROWS, 10)
    answers = PLAIN(mixed.rows)
    answers[mixed.places[4], 2] += 1
    with pytest.raises(NotVerified) as caught:
        mixed.open(answers)
    assert (caught.value.field, caught.value.value, caught.value.exit_code) == ("canaries", 1, 4)


def test_a_cheat_that_misses_the_canaries_escapes_as_the_documentation_says() -> None:
    mixed = stock().hide(ROWS, 10)
    answers = PLAIN(mixed.rows)
    rest = np.setdiff1d(np.arange(40), mixed.places)
    answers[rest[0]] += 1
    assert not np.allclose(mixed.open(answers), PLAIN(ROWS))


@pytest.mark.parametrize("shape", [(39, 10), (41, 10), (40, 9), (40,)])
def test_answers_of_another_number_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(NotVerified):
        stock().hide(ROWS, 10).open(np.zeros(shape, np.float32))


def test_a_canary_is_used_once() -> None:
    canaries = stock(EXACT)
    seen = [canaries.hide(ROWS, 100) for _ in range(3)]
    rows = np.concatenate([mixed.rows[mixed.places] for mixed in seen])
    assert canaries.left == 0 and len(np.unique(rows, axis=0)) == 300
    with pytest.raises(BadParameters):
        canaries.hide(ROWS, 1)


def test_places_are_uniform() -> None:
    # 2,000 draws of 1 canary in 4 places: chi-squared with 3 degrees, false alarm 1e-6.
    counts = np.zeros(4)
    for _ in range(2000 // 250):
        canaries = stock()
        for _ in range(250):
            counts[canaries.hide(ROWS[:3], 1).places[0]] += 1
    assert ((counts - 500) ** 2 / 500).sum() < 30.7


@pytest.mark.parametrize("rows", [ROWS.astype(np.float64), ROWS[:, :5]], ids=["type", "shape"])
def test_rows_that_would_stand_out_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(BadParameters):
        stock().hide(rows, 1)


def test_the_escape_probability_is_that_of_counting_all_ways() -> None:
    for queries, canaries, wrong in ((6, 2, 2), (7, 3, 1), (5, 2, 4), (5, 0, 3), (5, 2, 0)):
        ways = list(combinations(range(queries), wrong))
        free = sum(all(place >= canaries for place in way) for way in ways)
        assert escape_probability(queries, canaries, wrong) == pytest.approx(free / len(ways))


@given(st.integers(1, 200), st.data())
def test_the_escape_probability_is_below_its_bound(queries: int, data: st.DataObject) -> None:
    canaries, wrong = data.draw(st.integers(0, queries)), data.draw(st.integers(0, queries))
    exact = escape_probability(queries, canaries, wrong)
    assert exact <= (1 - canaries / queries) ** wrong * (1 + 1e-9)
    assert exact == pytest.approx(comb(queries - wrong, canaries) / comb(queries, canaries))


def test_more_canaries_than_queries_is_bad_input() -> None:
    for bad in ((3, 4, 1), (3, 1, 4), (3, -1, 1)):
        with pytest.raises(BadParameters):
            escape_probability(*bad)
