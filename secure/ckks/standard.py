"""The table of secure CKKS parameters, and the check of a ring and its primes against it.

    >>> max_modulus_bits(8192)
    214
    >>> check_primes(4096, largest_primes(4096, [36, 30, 36]))

Bossuat et al., "Security Guidelines for Implementing Homomorphic Encryption", ePrint 2024/463,
table 5.2: the most bits that log2 Q may have at 128 bits of classical security, for a secret with
uniform ternary coefficients and a Gaussian error of standard deviation 3.19. SEAL draws exactly
such a secret and a centred binomial error of standard deviation sqrt(21 / 2) = 3.24. Q is the
product of **all** primes, the one for key switching included, since evaluation keys live under it.
SEAL itself enforces the caps of 2018, which are looser (27, 54, 109, 218, 438, 881).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from secure.errors import BadParameters

TABLE = "ePrint 2024/463, table 5.2 (128 bits, classical, uniform ternary secret)"
MAX_MODULUS_BITS: Mapping[int, int] = MappingProxyType(
    {1024: 26, 2048: 53, 4096: 106, 8192: 214, 16384: 430, 32768: 868}
)
ERROR_VARIANCE = 10.5  # of SEAL's centred binomial error, 42 fair bits
SECRET_VARIANCE = 2 / 3  # of a uniform ternary coefficient
# The most that |s(zeta)|^2 may be of its mean, N times the variance, in any slot. A client draws
# again until it is: at 32,768 in one of ten times. Conditioning on an event of probability p raises
# no attack's success by more than 1 / p, here less than a sixth of a bit.
SECRET_SPREAD = 12.0
MAX_PRIME_BITS = 60  # SEAL's own limit


def max_modulus_bits(ring: int) -> int:
    """Return the most bits of modulus that a ring of this degree carries at 128 bits.

    Errors: `BadParameters` for a degree that is not in the table.
    """
    if type(ring) is not int or ring not in MAX_MODULUS_BITS:
        raise BadParameters(
            f"ring: a degree of {ring!r} is not in {TABLE}",
            field="ring",
            value=ring,
            allowed=sorted(MAX_MODULUS_BITS),
        )
    return MAX_MODULUS_BITS[ring]


def check_primes(ring: int, primes: Sequence[int]) -> None:
    """Refuse a modulus that is not secure, or that SEAL's arithmetic does not hold for.

    `primes` come in SEAL's order, the key-switching prime last. Their bits are added up whole, so
    the product never exceeds what the table allows.
    Errors: `BadParameters` for fewer than two primes, for a number that is not a prime congruent
    to 1 modulo twice the ring's degree, that has more than 60 bits or comes twice, and for a total
    above the table.
    """
    cap = max_modulus_bits(ring)
    if len(primes) < 2 or len(set(primes)) != len(primes):
        raise BadParameters(
            "primes: at least two, all different", field="primes", value=len(primes)
        )
    for prime in primes:
        fits = type(prime) is int and 2 < prime < 1 << MAX_PRIME_BITS
        if not fits or prime % (2 * ring) != 1 or not _is_prime(prime):
            raise BadParameters(
                f"primes: {prime!r} is not a prime of at most {MAX_PRIME_BITS} bits congruent to 1 "
                f"modulo {2 * ring}",
                field="primes",
                value=prime,
            )
    bits = sum(prime.bit_length() for prime in primes)
    if bits > cap:
        raise BadParameters(
            f"primes: {bits} bits of modulus in a ring of degree {ring}; {TABLE} allows {cap}",
            field="primes",
            value=bits,
            allowed=cap,
        )


def largest_primes(ring: int, bits: Sequence[int]) -> list[int]:
    """Return distinct primes of these bit sizes, congruent to 1 modulo twice the ring's degree.

    Each is the largest that is left of its size. Errors: `BadParameters` where a size has too few.
    """
    found: dict[int, list[int]] = {}
    chosen = []
    for size in bits:
        taken = found.setdefault(size, [])
        step = 2 * ring
        top = taken[-1] if taken else ((1 << size) - 1) // step * step + 1 + step
        candidate = top - step
        while candidate.bit_length() == size and not _is_prime(candidate):
            candidate -= step
        if candidate.bit_length() != size:
            raise BadParameters(
                f"primes: too few of {size} bits for a ring of degree {ring}",
                field="primes",
                value=size,
            )
        taken.append(candidate)
        chosen.append(candidate)
    return chosen


def _is_prime(number: int) -> bool:
    """Miller and Rabin's test; these bases decide every number below 2^64 (Sinclair, 2011)."""
    if number < 3 or number % 2 == 0:
        return number == 2
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 325, 9375, 28178, 450775, 9780504, 1795265022):
        if (start := base % number) == 0:
            continue
        power = pow(start, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True
