"""The public facts of a job's encrypted sums: grid, flood, error, bytes and memory.

    >>> budget = Budget(length=100_000, rounds=20, range=8.0)
    >>> budget.flood, budget.shift, budget.upload
    (55, 58, 1230400)

Everything follows from the length of the vectors, the number of rounds and the range of a value,
for as many silos as there may ever be, so that a quote can state it before anybody takes part.

**The grid.** A silo's value is an integer v (`quantizer`, at most `bound` in absolute value),
encrypted as v * 2^shift. One encryption adds at most 21 to a coefficient (`parameters.NOISE`), 64
of them 1,344 < 2^flood, and the flood at most 2^flood. With shift = flood + 3 the two stay within a
quarter of 2^shift: what is opened rounds to the exact sum of the integers. The sum is at most
bound + 32 (weights sum to one, each silo rounds by a half), and bound is the largest below 2^40 for
which (bound + 33) 2^shift + 2^(shift - 2) < q / 2, so that nothing wraps.

**The flood.** Who opens a sum adds F, uniform over the integers from -2^flood to 2^flood - 1, to
each coefficient. F and F + e differ by |e| / 2^(flood + 1) in total variation, so the d values of R
rounds together differ from what they would be without the encryptions' noise e by at most
R d E|e| / 2^(flood + 1), whatever the coordinator knows of e otherwise, because F does not depend
on it (each coefficient replaced in turn; E|e| <= sqrt(64 * 10.5)). `flood` is the least power for
which that is at most 2^-30. Source: the smudging lemma of Asharov et al. (EUROCRYPT 2012, lemma 1);
that decryptions have to be flooded at all: Li and Micciancio (EUROCRYPT 2021). F comes from
ChaCha20, so all of this holds against those who cannot tell it from random.

**Two figures of the error.** Proved: `error`, the quantizer's bound, because the grid removes noise
and flood entirely. Calibrated: benchmarks/ckks_sum.py shows what was seen, an estimate.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar

import msgpack

from secure.aggregation.ckks.parameters import (
    DATA,
    DEGREE,
    MODULUS,
    NOISE_VARIANCE,
    PRIMES,
)
from secure.aggregation.packing import PER_MEMBER
from secure.aggregation.quantize import Quantizer
from secure.aggregation.rounds import MOST, check_number, check_parties
from secure.ckks.standard import check_primes
from secure.errors import BadParameters

SECURITY = 30
"""Bits of statistical security of all that a job opens."""

SEED = 64
"""Bytes from which the public half of a ciphertext is drawn."""

WORD = 6
"""Bytes of one residue of 45 bits."""

SLACK = MOST // 2 + 1
"""By how much rounding at every silo can carry a sum past the bound of one value."""

LEAST_BITS, MOST_BITS = 20, 40
"""Bits of a value: a coarser grid is refused, a finer one is not needed (nor exact in doubles)."""

MEMORY = 4 << 30
"""The most bytes that a party may need: more is refused before a key is made."""

MAX_LENGTH = 1 << 26
MAX_ROUNDS = 100_000


@dataclass(frozen=True)
class Budget:
    """What length, rounds and range come to: the grid, the error and the forecast.

    `upload`: bytes of a silo's ciphertexts in one round; `answer`: bytes of an opened sum, from
    each of the two silos that open; `silo_memory`: bytes that a silo's part takes beyond its model
    and its libraries; `coordinator_memory`: the same at the coordinator, per silo.
    Errors: `BadParameters` where the grid would be coarser than `LEAST_BITS`, or a silo would need
    more than `MEMORY`.
    """

    length: int
    rounds: int
    range: float
    flood: int = field(init=False)
    quantizer: Quantizer = field(init=False)

    def __post_init__(self) -> None:
        check_primes(DEGREE, PRIMES)
        check_number("length", self.length, 1, MAX_LENGTH)
        check_number("rounds", self.rounds, 1, MAX_ROUNDS)
        noise = self.rounds * self.length * math.sqrt(MOST * NOISE_VARIANCE)
        # At least 32 bits, to outweigh the largest noise too.
        flood = max(32, math.ceil(math.log2(noise)) + SECURITY - 1)
        object.__setattr__(self, "flood", flood)
        room = (MODULUS // 2 - (1 << (self.shift - 2))) >> self.shift
        bound = min(room - SLACK, (1 << MOST_BITS) - 1)
        if bound.bit_length() < LEAST_BITS or bound < 1:
            raise BadParameters(
                f"{self.length:,} values in {self.rounds:,} rounds leave "
                f"{max(bound, 0).bit_length()} bits for a value beside the noise that hides the "
                "key; take fewer rounds, or aggregation: masked",
                field="rounds",
                value=self.rounds,
                allowed=f"at least {LEAST_BITS} bits",
            )
        object.__setattr__(self, "quantizer", Quantizer(range=self.range, levels=2 * bound + 1))
        self._fits("a silo", self.silo_memory)

    def check_coordinator(self, silos: int) -> None:
        """Refuse, with `BadParameters`, where the coordinator of so many silos needs too much."""
        self._fits(f"a coordinator of {silos} silos", silos * self.coordinator_memory)

    @property
    def shift(self) -> int:
        """The grid's step is two to this power."""
        return self.flood + 3

    @property
    def error(self) -> float:
        """The proved bound of the error of a weighted sum of up to 64 silos, in values."""
        return self.quantizer.max_error(MOST)

    @property
    def chunks(self) -> int:
        """How many ciphertexts hold one vector."""
        return -(-self.length // DEGREE)

    @property
    def upload(self) -> int:
        """Bytes of one silo's ciphertexts."""
        return self.chunks * (DEGREE * len(DATA) * WORD + SEED)

    @property
    def answer(self) -> int:
        """Bytes of an opened sum."""
        return self.length * len(DATA) * WORD

    @property
    def silo_memory(self) -> int:
        """Bytes that a silo's part takes at most."""
        return _SILO * self.chunks * DEGREE

    @property
    def coordinator_memory(self) -> int:
        """Bytes that the coordinator's part takes at most, per silo."""
        return _COORDINATOR * self.chunks * DEGREE

    def _fits(self, party: str, need: int) -> None:
        if need > MEMORY:
            raise BadParameters(
                f"{self.length:,} values need {need >> 20:,} MiB at {party}, and at most "
                f"{MEMORY >> 20:,} MiB are allowed; take aggregation: masked",
                field="length",
                value=self.length,
                allowed=f"{MEMORY >> 20} MiB",
            )

    def forecast(self) -> dict[str, float | int]:
        """What a quote tells of the encryption, plain JSON."""
        return {
            "upload_bytes": self.upload,
            "answer_bytes": self.answer,
            "silo_memory_bytes": self.silo_memory,
            "coordinator_memory_bytes_per_silo": self.coordinator_memory,
            "error": self.error,
        }


_SILO, _COORDINATOR = 150, 80
"""Bytes per value: what was measured at a million values, 93 to open and 40 to add, with room for
the copies that a transport makes."""


@dataclass(frozen=True)
class Terms:
    """Who sums what in a job: what its key is made for, and with a round, one of its sums.

    `at(round)` gives the facts of a round, counted from 0. Privacy: every field is public, and may
    not depend on any silo's rows. Errors: as of `Budget`, and `TooFewSilos` below three members.
    """

    federation: str
    job: str
    members: Mapping[str, str]
    length: int
    rounds: int
    range: float
    number: int = 0
    budget: Budget = field(init=False, repr=False, compare=False)
    digest: bytes = field(init=False, repr=False, compare=False)

    scheme: ClassVar[str] = "ckks"

    def __post_init__(self) -> None:
        ordered = MappingProxyType(dict(sorted(self.members.items())))
        object.__setattr__(self, "members", ordered)
        check_parties(self.federation, self.job, ordered)
        object.__setattr__(self, "budget", Budget(self.length, self.rounds, self.range))
        self.budget.check_coordinator(len(ordered))
        check_number("number", self.number, 0, self.rounds)
        facts = [
            "tacit ckks sums 1",
            [DEGREE, list(PRIMES)],
            self.federation,
            self.job,
            self.number,
            [list(pair) for pair in ordered.items()],
            self.length,
            self.rounds,
            self.range,
        ]
        digest = hashlib.blake2b(msgpack.packb(facts), digest_size=32).digest()
        object.__setattr__(self, "digest", digest)

    def at(self, round: int) -> Terms:
        """The facts of one round; `BadParameters` for more rounds than the flood is made for."""
        check_number("round", round, 0, self.rounds - 1)
        return replace(self, number=round + 1)

    @property
    def maker(self) -> str:
        """The silo that makes the key: the first by name."""
        return next(iter(self.members))

    @property
    def openers(self) -> tuple[str, ...]:
        """The two silos that open a sum: the first by name."""
        return tuple(self.members)[:2]

    @property
    def limit(self) -> int:
        """The most bytes that a message can have."""
        halves = (len(self.members) + 1) * (PER_MEMBER + self.budget.chunks * SEED)
        return self.budget.upload + halves
