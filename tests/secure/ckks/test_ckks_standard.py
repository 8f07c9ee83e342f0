"""The table of the 2024 guideline, and what it refuses; primes against trial division."""

import pytest

from secure.ckks.standard import (
    MAX_MODULUS_BITS,
    _is_prime,
    check_primes,
    largest_primes,
    max_modulus_bits,
)
from secure.errors import BadParameters


def test_the_table_is_below_what_seal_enforces():
    seal = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
    assert {ring: cap < seal[ring] for ring, cap in MAX_MODULUS_BITS.items()} == dict.fromkeys(
        seal, True
    )


def test_primality_agrees_with_trial_division():
    def slow(n):
        return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))

    assert [n for n in range(3000) if _is_prime(n)] == [n for n in range(3000) if slow(n)]
    # A strong pseudoprime to bases 2, 3, 5, 7, and the largest prime below 2^60.
    assert not _is_prime(3215031751)
    assert _is_prime((1 << 60) - 93)


@pytest.mark.parametrize("ring, total", [(4096, 107), (8192, 215), (16384, 431), (8192, 218)])
def test_one_bit_above_the_table_is_refused(ring, total):
    cap = max_modulus_bits(ring)
    sizes = [35] * 2
    while sum(sizes) + 35 < cap:
        sizes.append(35)
    fits = [*sizes[:-1], cap - sum(sizes[:-1])]
    fits = [*fits[:-1], *([fits[-1]] if fits[-1] <= 60 else [30, fits[-1] - 30])]
    check_primes(ring, largest_primes(ring, fits))
    over = [*fits[:-1], fits[-1] + total - cap]
    with pytest.raises(BadParameters, match=f"{total} bits") as caught:
        check_primes(ring, largest_primes(ring, over))
    assert caught.value.allowed == cap
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("ring", [0, 1000, 65536, "8192", 8192.0, True])
def test_rings_outside_the_table_are_refused(ring):
    with pytest.raises(BadParameters, match="degree"):
        max_modulus_bits(ring)


def test_numbers_that_are_no_ntt_primes_are_refused():
    good = largest_primes(4096, [36, 30, 36])
    check_primes(4096, good)
    for bad in (
        [good[0]],
        [good[0], good[0]],
        [good[0], good[1] + 2],
        [good[0], 8193 * 3],
        [good[0], (1 << 61) - 1],
        [float(good[0]), good[1]],
        [good[0], -good[1]],
    ):
        with pytest.raises(BadParameters):
            check_primes(4096, bad)
    with pytest.raises(BadParameters, match="too few"):
        largest_primes(8192, [15] * 3)
