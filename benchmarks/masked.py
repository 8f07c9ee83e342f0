"""What masked aggregation costs one silo.

A round of ten silos and 1,000,000 parameters modulo 2^32, played in one process, in which one silo
leaves after the shares and before its masked vector, so that its mask key is opened. One silo's
time is all that its own process would do in the round: quantize, five steps, and the state that it
stores before each of its messages; each silo of the round is one sample. Transport, the durable
write and the wait for others are not in it. Claims:

- one silo takes at most one second, all phases;
- the masked vector is at most 1.01 times the bytes of the same vector in 32-bit floats;
- the sum is the plain sum of the survivors' integers (the number of values that differ is 0).

The coordinator's time, for all silos, is shown. `--quick` plays fewer rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from _common import Claims, main, say

from secure.aggregation.participant import Participant
from secure.aggregation.quantize import Quantizer
from secure.aggregation.rounds import Round
from secure.aggregation.server import Server
from secure.keys import SigningKey

SILOS = 10
PARAMETERS = 1_000_000
QUANTIZER = Quantizer(range=8.0, levels=1 << 22)
T = TypeVar("T")


class Clock:
    """Seconds by party."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, party: str, work: Callable[[], T]) -> T:
        """Run `work` and add what it took to the party's seconds."""
        begun = time.perf_counter()
        result = work()
        taken = time.perf_counter() - begun
        self.seconds[party] = self.seconds.get(party, 0.0) + taken
        return result


class Played:
    """One round, and what it took."""

    def __init__(self, number: int) -> None:
        self.clock = Clock()
        keys = {f"silo-{i}": SigningKey.generate() for i in range(SILOS)}
        facts = Round(
            "benchmark",
            "masked",
            number,
            {name: key.public for name, key in keys.items()},
            length=PARAMETERS,
            bits=32,
            bound=QUANTIZER.bound,
        )
        rng = np.random.default_rng(number)
        reals = {name: rng.normal(size=PARAMETERS).astype(np.float32) for name in keys}
        gone = "silo-3"
        server = self.clock("coordinator", lambda: Server(facts))
        silos = {name: Participant(facts, name, key) for name, key in keys.items()}
        vectors: dict[str, np.ndarray] = {}
        mail = dict.fromkeys(keys, b"")

        def mask(name: str) -> bytes:
            vectors[name] = QUANTIZER.quantize(reals[name]).values
            return silos[name].mask(mail[name], vectors[name])

        steps: list[Callable[[str], bytes]] = [
            lambda name: silos[name].advertise(),
            lambda name: silos[name].share_keys(mail[name]),
            mask,
            lambda name: silos[name].consent(mail[name]),
            lambda name: silos[name].unmask(mail[name]),
        ]
        for phase, step in enumerate(steps):
            for name in sorted(mail):
                if phase == 2 and name == gone:
                    continue
                packed = self._silo(name, silos[name], step)
                self.clock("coordinator", lambda n=name, p=packed: server.receive(n, p))
                if phase == 2:
                    self.ratio = len(packed) / reals[name].nbytes
            mail = self.clock("coordinator", server.advance)
        total = self.clock("coordinator", server.total)
        plain = np.sum([vectors[name] for name in server.survivors], axis=0)
        self.wrong = int(np.count_nonzero(total != plain))
        self.coordinator = self.clock.seconds.pop("coordinator")
        self.silos = [self.clock.seconds[name] for name in server.survivors]

    def _silo(self, name: str, silo: Participant, step: Callable[[str], bytes]) -> bytes:
        def work() -> bytes:
            packed = step(name)
            silo.state()
            return packed

        return self.clock(name, work)


def measure(claims: Claims, quick: bool) -> None:
    """Play rounds, one unmeasured before."""
    Played(0)
    rounds = []
    for number in range(1, 4 if quick else 11):
        rounds.append(Played(number))
        say(f"     round {number}: {max(rounds[-1].silos):.3f} s at the slowest silo")
    silos = [seconds for played in rounds for seconds in played.silos]
    claims.report("one silo, all phases: median", statistics.median(silos), "s")
    claims.at_most(
        "one silo of ten, 1,000,000 parameters, all phases, one drop-out: slowest of all",
        max(silos),
        "s",
        1.0,
    )
    coordinator = statistics.median(played.coordinator for played in rounds)
    claims.report("the coordinator, all silos and the sum", coordinator, "s")
    claims.at_most("masked bytes over 32-bit floats", max(p.ratio for p in rounds), "x", 1.01)
    claims.at_most("values of the sum that differ", max(p.wrong for p in rounds), "values", 0)


if __name__ == "__main__":
    main("masked", measure, __doc__)
