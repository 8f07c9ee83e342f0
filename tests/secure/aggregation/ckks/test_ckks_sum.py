"""Encrypted sums are exact, whoever sums what, and a repeat says the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_encrypting import KEYS, Play, silo, terms, vectors

from secure.aggregation.ckks.coordinator import roster_of
from secure.aggregation.ckks.engine import coefficients
from secure.aggregation.ckks.messages import Encrypted, Opened
from secure.aggregation.ckks.parameters import MODULUS, NOISE
from secure.aggregation.ckks.residues import PRIME, from_bytes, lift
from secure.aggregation.ckks.silo import Silo
from secure.aggregation.packing import unpack
from secure.errors import BadParameters, RoundRefused


@pytest.mark.parametrize("length", [1, 4095, 4096, 4097, 9000])
def test_the_sum_is_exact(length: int) -> None:
    of = terms(3, length=length)
    inputs = vectors(of)
    np.testing.assert_array_equal(Play(of).total(0, inputs), sum(inputs.values()))


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 9), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_any_silos_any_round(silos: int, round: int, seed: int) -> None:
    of = terms(silos, length=7)
    inputs = vectors(of, seed)
    np.testing.assert_array_equal(Play(of).total(round, inputs), sum(inputs.values()))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sum_of_all_silos(sign: int) -> None:
    of = terms(64, length=3)
    bound = of.budget.quantizer.bound
    # As weights that sum to one give them: a half more at each silo than its share.
    share = -(-bound // 64)
    inputs = {name: np.full(3, sign * share) for name in of.members}
    total = Play(of).total(3, inputs)
    np.testing.assert_array_equal(total, np.full(3, sign * share * 64))


def test_reals_come_back_within_the_proved_error() -> None:
    of = terms(5, length=500)
    quantizer = of.budget.quantizer
    rng = np.random.default_rng(3)
    reals = {name: rng.normal(size=500) for name in of.members}
    weights = dict(zip(of.members, (0.1, 0.2, 0.3, 0.15, 0.25), strict=True))
    inputs = {n: quantizer.quantize(r, weight=weights[n]).values for n, r in reals.items()}
    mean = quantizer.dequantize(Play(of).total(0, inputs))
    exact = sum(weights[name] * real for name, real in reals.items())
    assert np.abs(mean - exact).max() <= quantizer.max_error(5) <= of.budget.error


def test_a_silo_that_was_started_anew_says_the_same() -> None:
    of = terms(4)
    play = Play(of)
    adder = play.added(1, play.encrypted(1, vectors(of)))
    opening = adder.opening()
    first = play.opened(1, opening)
    again = Play(of)
    assert again.adverts == play.adverts and again.deal == play.deal
    assert again.opened(1, opening) == first
    assert len(set(first.values())) == 1


def test_every_job_has_another_key() -> None:
    first, second = Play(terms()), Play(terms(job="another"))
    assert first.silos["silo-00"]._held(first.deal)
    assert second.silos["silo-00"]._held(second.deal)
    assert first.silos["silo-00"]._root != second.silos["silo-00"]._root
    roots = set()
    for play in (first, second):
        for one in play.silos.values():
            one._held(play.deal)
        roots |= {one._root for one in play.silos.values()}
    assert len(roots) == 2
    assert all(root not in play.deal for root in roots for play in (first, second))


def test_two_encryptions_of_one_vector_share_nothing() -> None:
    of = terms()
    play, inputs = Play(of), vectors(of)
    name = of.maker
    sent = [play.silos[name].encrypt(play.deal, 0, inputs[name]) for _ in range(2)]
    bodies = [unpack(of.at(0), Encrypted, packed) for packed in sent]
    assert bodies[0].half != bodies[1].half
    words = [from_bytes(body.values, 1, 2, 4096) for body in bodies]
    assert np.count_nonzero(words[0] == words[1]) < 3


def test_what_leaves_is_flooded() -> None:
    """With the sum subtracted, noise as wide as the flood is left, the same from nobody's rows."""
    of = terms(3, length=2000)
    play, inputs = Play(of), vectors(of)
    packed = play.encrypted(0, inputs)
    adder = play.added(0, packed)
    opened = unpack(of.at(0), Opened, play.opened(0, adder.opening())[of.maker]).values
    halves = sum(
        from_bytes(unpack(of.at(0), Encrypted, one).values, 1, 2, 4096)[0]
        for one in packed.values()
    )
    plain = (coefficients(halves % PRIME)[:, :2000] + from_bytes(opened, 2, 2000)) % PRIME
    rest = (plain + PRIME - lift(sum(inputs.values()), of.budget.shift)) % PRIME
    first, second = (int(prime) for prime in PRIME[:, 0])
    values = []
    for low, high in rest.T.tolist():
        value = low + first * ((high - low) * pow(first, -1, second) % second)
        values.append(value - MODULUS if value > MODULUS // 2 else value)
    wide = 1 << of.budget.flood
    assert max(map(abs, values)) <= wide + 3 * NOISE
    # A uniform variable has the variance wide^2 / 3.
    assert abs(np.var([value / wide for value in values]) * 3 - 1) < 0.15


def test_a_silo_does_its_own_part_only() -> None:
    of = terms(4)
    play = Play(of)
    opening = play.added(0, play.encrypted(0, vectors(of))).opening()
    with pytest.raises(RoundRefused, match="silo-00 does"):
        play.silos["silo-01"].deal(roster_of(of, play.adverts))
    with pytest.raises(RoundRefused, match="two silos"):
        play.silos["silo-02"].open(play.deal, 0, opening)
    with pytest.raises(RoundRefused, match="no member"):
        Silo(of, "silo-00", KEYS["silo-01"], bytes(32))
    with pytest.raises(BadParameters, match="round"):
        play.silos["silo-00"].open(play.deal, 4, opening)
    with pytest.raises(TypeError):
        play.silos["silo-00"].__reduce__()
    assert "silo-00" in repr(play.silos["silo-00"])


@pytest.mark.parametrize(
    "values",
    [np.zeros(6, dtype=np.int64), np.zeros(5), np.full(5, 1 << 40), np.full(5, -(1 << 40))],
)
def test_a_vector_that_does_not_fit_is_not_encrypted(values: np.ndarray) -> None:
    of = terms(3)
    play = Play(of)
    with pytest.raises(BadParameters, match="vector"):
        silo(of, "silo-01").encrypt(play.deal, 0, values)
