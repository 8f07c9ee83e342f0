"""Ring, primes, and the figures that follow from them."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import tenseal.sealapi as seal
from hypothesis import given
from hypothesis import strategies as st
from tenseal.sealapi import util
from tests_encrypting import terms

from secure.aggregation.ckks.facts import LEAST_BITS, SECURITY, SLACK, Budget
from secure.aggregation.ckks.parameters import (
    DATA,
    DEGREE,
    MODULUS,
    NOISE,
    NOISE_VARIANCE,
    PRIMES,
)
from secure.aggregation.rounds import MOST
from secure.ckks.standard import MAX_MODULUS_BITS, check_primes
from secure.errors import BadParameters, TooFewSilos


def primes(degree: int, *bits: int) -> list[int]:
    """SEAL's own choice of primes of these sizes."""
    return [modulus.value() for modulus in seal.CoeffModulus.Create(degree, list(bits))]


def test_the_primes_are_those_that_seal_makes() -> None:
    assert sorted(PRIMES) == sorted(primes(DEGREE, 45, 45, 16))
    assert MODULUS.bit_length() == 90 and math.prod(PRIMES).bit_length() == 106
    assert all(prime < 1 << 45 for prime in DATA)
    check_primes(DEGREE, PRIMES)


def test_the_table_is_stricter_than_seal_everywhere() -> None:
    """SEAL's is that of the standard of 2018."""
    for degree, bits in MAX_MODULUS_BITS.items():
        assert bits < util.seal_he_std_parms_128_tc(degree) < bits + 16


@pytest.mark.parametrize(
    ("degree", "bits"), [(4096, (55, 55)), (8192, (55, 55, 55, 55)), (16_384, (55,) * 8)]
)
def test_more_bits_than_the_table_are_refused(degree: int, bits: tuple[int, ...]) -> None:
    with pytest.raises(BadParameters, match=r"table 5\.2"):
        check_primes(degree, primes(degree, *bits))


def test_what_seal_takes_and_the_guideline_does_not_is_refused() -> None:
    chosen = primes(DEGREE, 54, 54)
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus([seal.Modulus(prime) for prime in chosen])
    assert seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128).parameters_set()
    with pytest.raises(BadParameters, match="allows 106"):
        check_primes(DEGREE, chosen)


@pytest.mark.parametrize(
    ("degree", "chosen"),
    [(3000, PRIMES), (DEGREE, DATA[:1]), (DEGREE, DATA[:1] * 2), (DEGREE, (2**31 - 1, 40_961))],
)
def test_other_rings_and_primes_are_refused(degree: int, chosen: tuple[int, ...]) -> None:
    with pytest.raises(BadParameters):
        check_primes(degree, chosen)


def test_the_mean_of_the_noise_of_64_silos() -> None:
    """E|e| of 64 differences of two counts among 21 fair bits, exactly, is below the bound used."""
    bits = 2 * 21 * MOST  # a difference of counts is a count among twice as many, shifted
    mean = Fraction(sum(math.comb(bits, k) * abs(k - bits // 2) for k in range(bits + 1)), 2**bits)
    assert 0.75 * math.sqrt(MOST * NOISE_VARIANCE) < mean <= math.sqrt(MOST * NOISE_VARIANCE)
    assert Fraction(bits, 4) == MOST * Fraction(NOISE_VARIANCE)


SIZES = st.tuples(st.integers(1, 1 << 20), st.integers(1, 1000))


@given(SIZES)
def test_what_is_opened_rounds_to_the_sum_and_never_wraps(size: tuple[int, int]) -> None:
    budget = Budget(*size, 8.0)
    grid, flood = 1 << budget.shift, 1 << budget.flood
    assert MOST * NOISE + flood <= grid // 4
    assert (budget.quantizer.bound + SLACK) * grid + grid // 4 < MODULUS / 2
    assert budget.quantizer.bound.bit_length() >= LEAST_BITS
    assert budget.error <= 65 * 8.0 * 2.0**-LEAST_BITS


@given(SIZES)
def test_all_that_a_job_opens_is_flooded_to_30_bits(size: tuple[int, int]) -> None:
    length, rounds = size
    flood = Budget(length, rounds, 8.0).flood
    bound = rounds * length * math.sqrt(MOST * NOISE_VARIANCE) / 2 ** (flood + 1)
    assert bound <= 2.0**-SECURITY
    # and no wider than it need be
    assert bound > 2.0 ** -(SECURITY + 1) or flood == 32


@pytest.mark.parametrize("shift", [0, 1, 3, 7, 16])
def test_the_distance_that_a_shift_makes_is_what_the_flood_counts_with(shift: int) -> None:
    """Total variation of a uniform variable and of it shifted, by counting."""
    half = 8
    one = {value: 1 for value in range(-half, half)}
    other = {value + shift: 1 for value in range(-half, half)}
    apart = sum(max(one.get(v, 0) - other.get(v, 0), 0) for v in one)
    assert apart / (2 * half) == shift / (2 * half)


def test_terms_are_refused_where_they_are_none() -> None:
    with pytest.raises(TooFewSilos):
        terms(2)
    for wrong in ({"length": 0}, {"rounds": 0}, {"range": math.nan}, {"job": "a/b"}):
        with pytest.raises(BadParameters):
            terms(3, **wrong)
    with pytest.raises(BadParameters):
        terms(3).at(4)
    digests = {
        terms(3).digest,
        terms(4).digest,
        terms(3).at(0).digest,
        terms(3, length=6).digest,
        terms(3, rounds=5).digest,
        terms(3, range=7.0).digest,
        terms(3, federation="other").digest,
    }
    assert len(digests) == 7
