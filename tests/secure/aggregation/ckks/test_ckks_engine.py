"""Residues against Python's integers, SEAL's products against a product by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given
from hypothesis import strategies as st

from secure.aggregation.ckks import engine
from secure.aggregation.ckks.facts import SEED
from secure.aggregation.ckks.parameters import DATA, DEGREE, MODULUS, NOISE
from secure.aggregation.ckks.residues import (
    PRIME,
    flood,
    from_bytes,
    lift,
    recombine,
    ternary,
    to_bytes,
)
from secure.errors import BadMessage

SECRET = ternary(bytes(32))


@pytest.fixture(scope="module")
def key() -> engine.Key:
    return engine.Key(SECRET)


def integers(residues: np.ndarray) -> list[int]:
    """The integers of least absolute value, by the Chinese remainder theorem."""
    first, second = DATA
    found = []
    for low, high in residues.T.tolist():
        value = low + first * ((high - low) * pow(first, -1, second) % second)
        found.append(value - MODULUS if value > MODULUS // 2 else value)
    return found


VALUES = st.lists(st.integers(-(2**33), 2**33), min_size=1, max_size=20)


@given(VALUES, st.integers(35, 54))
def test_lift_and_recombine(values: list[int], shift: int) -> None:
    array = np.array(values)
    residues = lift(array, shift)
    assert integers(residues) == [value << shift for value in values]
    off = [(-1) ** i * (1 << (shift - 2)) for i in range(len(values))]
    noisy = (residues + lift(np.array(off), 0)) % PRIME
    total, rest = recombine(noisy, shift)
    np.testing.assert_array_equal(total, array)
    assert np.abs(np.abs(rest) - 0.25).max() < 1e-5


@given(st.integers(1, 3), st.integers(1, 9), st.randoms(use_true_random=False))
def test_bytes(chunks: int, length: int, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    residues = rng.integers(0, PRIME, (chunks, len(DATA), length), dtype=np.uint64)
    packed = to_bytes(residues)
    assert len(packed) == residues.size * 6
    np.testing.assert_array_equal(from_bytes(packed, *residues.shape), residues)


@pytest.mark.parametrize("prime", DATA)
def test_a_residue_at_its_prime_is_refused(prime: int) -> None:
    row = DATA.index(prime)
    residues = np.zeros((1, 2, 4), dtype=np.uint64)
    residues[0, row, 3] = prime - 1
    from_bytes(to_bytes(residues), 1, 2, 4)
    residues[0, row, 3] = prime
    with pytest.raises(BadMessage, match="below its prime"):
        from_bytes(to_bytes(residues), 1, 2, 4)
    with pytest.raises(BadMessage, match="size"):
        from_bytes(to_bytes(residues)[:-1], 1, 2, 4)


@pytest.mark.parametrize("bits", [32, 55, 64, 80])
def test_the_flood_is_uniform_over_its_range(bits: int) -> None:
    count = 16_000
    drawn = integers(flood(b"k" * 32, count, bits))
    assert all(-(1 << bits) <= value < 1 << bits for value in drawn)
    for shift in (bits - 3, 0):  # sixteen equal parts of the range; the lowest four bits
        parts = np.bincount([(value + (1 << bits) >> shift) % 16 for value in drawn], minlength=16)
        chi = ((parts - count / 16) ** 2 / (count / 16)).sum()
        assert chi < 55  # chi-squared of 15 degrees passes 55 once in 500,000
    assert integers(flood(b"j" * 32, 5, bits)) != drawn[:5]


def test_the_secret_is_uniform_over_three_values() -> None:
    for number in range(20):
        counts = np.bincount(ternary(bytes([number]) * 32) + 1, minlength=3)
        assert counts.sum() == DEGREE
        assert np.abs(counts - DEGREE / 3).max() < 6 * (DEGREE * 2 / 9) ** 0.5


def half(seed: bytes) -> np.ndarray:
    """What SEAL makes of a seed: the coefficients of the public half of a ciphertext."""
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus([seal.Modulus(prime) for prime in engine.PRIMES])
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    front = engine._seeded_front(context.first_parms_id())
    key = engine.Key(SECRET)
    blank = np.zeros(2 * DEGREE, dtype="<u8")
    ciphertext = seal.Ciphertext()
    ciphertext.load(context, key._holding(engine._seeded(front, blank, seed)))
    words = [ciphertext[i] for i in range(2 * DEGREE, 4 * DEGREE)]
    return engine.coefficients(np.array(words, dtype=np.uint64).reshape(2, DEGREE))


def product(polynomial: np.ndarray) -> np.ndarray:
    """A polynomial times the secret modulo x^degree + 1, by shifting and adding."""
    total = np.zeros_like(polynomial)
    for at in np.flatnonzero(SECRET):
        turned = np.roll(polynomial, at, axis=1)
        turned[:, :at] = (PRIME - turned[:, :at]) % PRIME
        total = (total + (turned if SECRET[at] > 0 else PRIME - turned)) % PRIME
    return total


def test_the_key_times_the_sum_of_halves(key: engine.Key) -> None:
    seeds = [bytes([number]) * SEED for number in range(3)]
    total = sum(half(seed) for seed in seeds) % PRIME
    np.testing.assert_array_equal(key.times(seeds), product(total))
    np.testing.assert_array_equal(key.times(seeds[:1]), product(half(seeds[0])))


def test_an_encryption_of_zero_is_noise_of_known_size(key: engine.Key) -> None:
    noise = []
    for _ in range(8):
        zero, seed = key.zero()
        opened = (engine.coefficients(zero) + key.times([seed])) % PRIME
        noise += integers(opened)
    assert max(map(abs, noise)) <= NOISE
    assert abs(np.mean(noise)) < 0.1 and abs(np.var(noise) - 10.5) < 0.5


def test_it_is_a_ckks_ciphertext(key: engine.Key) -> None:
    """SEAL's own decryption and decoding give the polynomial's values at its roots."""
    values = np.random.default_rng(1).integers(-1000, 1000, DEGREE)
    shift = 40
    zero, seed = key.zero()
    words = (zero + engine.transform(lift(values, shift))) % PRIME
    ciphertext = seal.Ciphertext()
    ciphertext.load(key._context, key._holding(engine._seeded(key._front, words, seed)))
    ciphertext.scale = 2.0**shift
    plain = seal.Plaintext()
    key._decryptor.decrypt(ciphertext, plain)
    slots = np.array(seal.CKKSEncoder(key._context).decode_complex(plain))
    powers = np.array([pow(3, i, 2 * DEGREE) for i in range(DEGREE // 2)])
    turned = values * np.exp(1j * np.pi * np.arange(DEGREE) / DEGREE)
    at_roots = np.fft.ifft(turned) * DEGREE
    np.testing.assert_allclose(slots, at_roots[(powers - 1) // 2], atol=1e-5)


def test_keys_do_not_travel(key: engine.Key) -> None:
    with pytest.raises(TypeError):
        key.__reduce__()
