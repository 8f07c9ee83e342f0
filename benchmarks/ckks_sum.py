"""What encrypted aggregation costs one silo.

A round of ten silos and 100,000 values under CKKS, in one process. One silo's time is all that its
own process would do in the round: quantize and encrypt, and, at the two silos that open the sum,
the product with the key and the flood. It is the time of one core, because nothing in it waits;
the time by the clock is shown beside it. Transport, the durable write and the wait for others are
not in it; the key, which is made once per job, is shown. Claims:

- one silo takes at most 0.3 seconds, also one that opens;
- its ciphertexts are at most 3.1 times the bytes of the same vector in 32-bit floats;
- the sum is the plain sum of the silos' integers (the number of values that differ is 0);
- the error of the weighted mean is within the proved bound.

Beside it the same values in TenSEAL's own vectors, encrypted by a public key at degree 8,192 with
primes of 60, 40 and 60 bits as its tutorials choose them, which are held to nothing. The error
that was seen is calibrated, an estimate; the bound beside it is proved
(secure/aggregation/ckks/facts.py). `--quick` plays fewer rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from _common import Claims, main, say

from secure.aggregation.ckks.coordinator import Adder, roster_of
from secure.aggregation.ckks.facts import Terms
from secure.aggregation.ckks.silo import Silo
from secure.keys import SigningKey

SILOS = 10
VALUES = 100_000
ROUNDS = 20
T = TypeVar("T")


class Job:
    """A job whose key is made, and what its rounds took, in seconds."""

    def __init__(self) -> None:
        keys = {f"silo-{i}": SigningKey.generate() for i in range(SILOS)}
        members = {name: key.public for name, key in keys.items()}
        self.terms = Terms("benchmark", "ckks", members, length=VALUES, rounds=ROUNDS, range=8.0)
        begun = time.perf_counter()
        self.silos = {
            name: Silo(self.terms, name, key, bytes([i]) * 32)
            for i, (name, key) in enumerate(keys.items())
        }
        adverts = {name: silo.advertise() for name, silo in self.silos.items()}
        self.deal = self.silos[self.terms.maker].deal(roster_of(self.terms, adverts))
        self.key_seconds = (time.perf_counter() - begun) / SILOS

    def play(self, round: int) -> None:
        """Play one round."""
        rng = np.random.default_rng(round)
        budget = self.terms.budget
        reals = {name: rng.normal(size=VALUES) for name in self.silos}
        self.seconds, self.clock = dict.fromkeys(self.silos, 0.0), dict.fromkeys(self.silos, 0.0)
        self.coordinator = 0.0
        adder = Adder(self.terms.at(round))
        plain = np.zeros(VALUES, dtype=np.int64)
        for name, silo in self.silos.items():

            def encrypt(silo: Silo = silo, name: str = name) -> tuple[np.ndarray, bytes]:
                values = budget.quantizer.quantize(reals[name], weight=1 / SILOS).values
                return values, silo.encrypt(self.deal, round, values)

            values, packed = self._timed(name, encrypt)
            plain += values
            self.upload = len(packed)
            self._timed("coordinator", lambda n=name, p=packed: adder.receive(n, p))
        opening = adder.opening()
        opened = {
            name: self._timed(name, lambda n=name: self.silos[n].open(self.deal, round, opening))
            for name in self.terms.openers
        }
        self.answer = len(opened[self.terms.maker])
        total = self._timed("coordinator", lambda: adder.total(opened))
        self.coordinator = self.seconds.pop("coordinator")
        self.wrong = int(np.count_nonzero(total != plain))
        exact = np.mean([np.clip(of, -8.0, 8.0) for of in reals.values()], axis=0)
        self.error = float(np.abs(budget.quantizer.dequantize(total) - exact).max())

    def _timed(self, party: str, work: Callable[[], T]) -> T:
        begun, at = time.thread_time(), time.perf_counter()
        result = work()
        taken, passed = time.thread_time() - begun, time.perf_counter() - at
        self.seconds[party] = self.seconds.get(party, 0.0) + taken
        self.clock[party] = self.clock.get(party, 0.0) + passed
        return result


def library(values: np.ndarray) -> tuple[float, int]:
    """Encrypt a vector by TenSEAL's own means; return seconds of a core and bytes."""
    import tenseal

    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=8192,
        coeff_mod_bit_sizes=[60, 40, 60],
        n_threads=1,
    )
    context.global_scale = 2**40
    begun = time.thread_time()
    # 4,096 at a time: more than a ciphertext holds prints a warning.
    parts = [values[i : i + 4096].tolist() for i in range(0, len(values), 4096)]
    size = sum(len(tenseal.ckks_vector(context, part).serialize()) for part in parts)
    return time.thread_time() - begun, size


def measure(claims: Claims, quick: bool) -> None:
    """Play rounds, one unmeasured before."""
    job = Job()
    job.play(0)
    others, opening, clock, coordinator, errors, wrong = [], [], [], [], [], 0
    for round in range(1, 4 if quick else 11):
        job.play(round)
        openers = job.terms.openers
        opening += [job.seconds[name] for name in openers]
        others += [seconds for name, seconds in job.seconds.items() if name not in openers]
        clock += [job.clock[name] for name in openers]
        coordinator.append(job.coordinator)
        errors.append(job.error)
        wrong = max(wrong, job.wrong)
        say(f"     round {round}: {max(job.seconds.values()):.3f} s at the slowest silo")
    claims.report("one silo of ten that encrypts: median", statistics.median(others), "s")
    claims.at_most(
        "one silo of ten, 100,000 values, that encrypts and opens: median",
        statistics.median(opening),
        "s",
        0.3,
    )
    claims.report("the same by the clock", statistics.median(clock), "s")
    claims.report("the coordinator, all silos and the sum", statistics.median(coordinator), "s")
    claims.report("making a job's key, per silo", job.key_seconds, "s")
    claims.report("a silo's ciphertexts", job.upload / 2**20, "MiB")
    claims.report("what a silo that opens answers", job.answer / 2**20, "MiB")
    claims.at_most("ciphertexts over 32-bit floats", job.upload / (4 * VALUES), "x", 3.1)
    seconds, size = library(np.random.default_rng(0).normal(size=VALUES))
    claims.report("TenSEAL's own vectors over 32-bit floats", size / (4 * VALUES), "x")
    claims.report("TenSEAL's own vectors, encrypted and serialized", seconds, "s")
    claims.at_most("values of the sum that differ", wrong, "values", 0)
    claims.at_most(
        "error of the mean, seen, over the proved bound",
        max(errors) / job.terms.budget.error,
        "x",
        1.0,
    )
    claims.report("error of the mean, seen (calibrated)", max(errors), "")
    claims.report("error of the mean, proved for up to 64 silos", job.terms.budget.error, "")


if __name__ == "__main__":
    main("ckks_sum", measure, __doc__)
