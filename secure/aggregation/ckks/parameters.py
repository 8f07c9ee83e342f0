"""The ring and the primes of encrypted sums, within the table of `secure.ckks.standard`.

check_primes(DEGREE, PRIMES)
"""

from __future__ import annotations

from math import prod

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
