"""The ring and the primes of encrypted sums, and the guideline they are checked against.

    >>> check(DEGREE, PRIMES)

Source: Bossuat et al., "Security Guidelines for Implementing Homomorphic Encryption", ePrint
2024/463, Table 5.2: the largest log2 of the whole modulus, key-switching prime included, at 128
bits of classical security, secrets uniform over {-1, 0, 1}, errors of standard deviation 3.19. It
is stricter than what SEAL itself enforces (109 bits at degree 4,096, from the standard of 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from secure.errors import BadParameters

TABLE_5_2 = {
    1_024: 26,
    2_048: 53,
    4_096: 106,
    8_192: 214,
    16_384: 430,
    32_768: 868,
    65_536: 1_747,
    131_072: 3_523,
}
"""The most bits of the modulus, by ring degree: ternary secret, classical, 128 bits."""

DEGREE = 4_096
"""Values in one ciphertext, and the degree of the ring."""

PRIMES = (35_184_371_884_033, 35_184_371_703_809, 40_961)
"""Two primes of 45 bits for ciphertexts. SEAL keeps the last for key switching; nothing here
switches keys, so it is as small as the degree allows."""

DATA = PRIMES[:-1]
"""The primes of a ciphertext."""

MODULUS = prod(DATA)
"""What the coefficients of a ciphertext are counted modulo."""

NOISE = 21
"""The most that one encryption adds to a coefficient. SEAL draws it as the difference of two
counts of ones among 21 fair bits, or, compiled otherwise, as a Gaussian clipped at 19.2."""

NOISE_VARIANCE = 10.5
"""The variance of that difference; the clipped Gaussian's is less."""


def check(degree: int, primes: Sequence[int]) -> None:
    """Refuse a ring and primes that the guideline does not cover, with `BadParameters`.

    The product of all primes has to stay within the table, and each has to be 1 modulo twice the
    degree. SEAL checks that they are primes.
    """
    most = TABLE_5_2.get(degree)
    if most is None:
        raise _wrong("degree", degree, f"one of {', '.join(map(str, TABLE_5_2))}")
    if prod(primes) > 1 << most:
        raise _wrong("primes", f"{prod(primes).bit_length()} bits", f"{most} bits in all")
    if len(set(primes)) < len(primes) or len(primes) < 2:
        raise _wrong("primes", list(primes), "two or more, each once")
    for prime in primes:
        if prime % (2 * degree) != 1:
            raise _wrong("primes", prime, f"1 modulo {2 * degree}")


def _wrong(name: str, value: object, allowed: str) -> BadParameters:
    return BadParameters(
        f"{name} of an encryption: {value!r} is not {allowed} (ePrint 2024/463, Table 5.2)",
        field=name,
        value=value,
        allowed=allowed,
    )
