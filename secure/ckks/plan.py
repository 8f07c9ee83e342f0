"""The plan of an encrypted model: what client and server agree on before any key is made.

A plan is public. The client checks it against its own table (`secure.ckks.standard`) and its own
limits before it makes keys; the server's numbers in it (ranges, proved error) are the model owner's
statement about its model, which the client cannot check.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import msgpack

from secure.ckks.noise import TAIL, Noise
from secure.ckks.standard import check_primes
from secure.errors import BadMessage, BadParameters, SecureError

VERSION = "tacit ckks plan 1"
MAX_FEATURES = 1 << 20
MAX_STEPS = 128
MAX_PLAN_BYTES = 32 << 20
STATISTICAL_BITS = 30  # the least that a released answer is flooded by


@dataclass(frozen=True)
class Release:
    """Answers that leave the key owner: how many under one key, and how well they are flooded."""

    answers: int
    bits: int = STATISTICAL_BITS

    def __post_init__(self) -> None:
        if not (type(self.answers) is int and 1 <= self.answers <= 1 << 20):
            raise BadParameters(
                f"release.answers: {self.answers!r} is not between 1 and 2^20",
                field="release.answers",
                value=self.answers,
            )
        if not (type(self.bits) is int and STATISTICAL_BITS <= self.bits <= 64):
            raise BadParameters(
                f"release.bits: {self.bits!r} is not between {STATISTICAL_BITS} and 64",
                field="release.bits",
                value=self.bits,
            )

    def deviation(self, error: float, outputs: int) -> float:
        """Deviation of the discrete Gaussian that hides an error of at most `error` per output.

        With deviation s the divergence of one answer from one without the error is |e|^2 / (2 s^2)
        (Canonne, Kamath and Steinke, 2020, proposition 5), e of `outputs` numbers of at most 5/4
        `error`, a quarter for rounding to the grid. Over adaptively chosen answers it adds up, and
        by Pinsker's inequality all answers together are within statistical distance
        |e| sqrt(answers) / (2 s) of answers that do not depend on the key. That is 2^-bits.
        """
        return 1.25 * error * math.sqrt(outputs * self.answers) * 2.0 ** (self.bits - 1)


@dataclass(frozen=True)
class Plan:
    """Parameters and shapes of one encrypted model.

    `feature` [period] says which feature each slot of a row holds, -1 none; it is empty in
    throughput mode. `start` is the slot of the first answer, `steps` are rotations to the left.
    `error` bounds every output against exact arithmetic except with probability 2^-40;
    `approximation` adds what polynomials in place of other activations do. `calibrated` is an
    estimate from runs, or None. `witness` holds the numbers of `secure.ckks.witness.Witness`,
    for one answer more than `outputs`.
    """

    mode: str
    ring: int
    primes: tuple[int, ...]
    special: int
    fresh: float
    answer: float
    features: int
    outputs: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    feature: tuple[int, ...]
    start: int
    steps: tuple[int, ...]
    relinearise: bool
    depth: int
    error: float
    approximation: float
    calibrated: float | None
    witness: tuple[float, ...] | None
    release: Release | None
    model: bytes

    def __post_init__(self) -> None:
        check_primes(self.ring, (*self.primes, self.special))
        _demand("mode", self.mode in ("latency", "throughput"), self.mode)
        _demand("features", 1 <= self.features <= MAX_FEATURES, self.features)
        _demand("outputs", 1 <= self.outputs <= MAX_FEATURES, self.outputs)
        _demand("depth", self.depth == len(self.primes) - 1, self.depth)
        for name in ("fresh", "answer"):
            scale = getattr(self, name)
            _demand(name, math.isfinite(scale) and 1.0 <= scale < 2.0**200, scale)
        for name in ("error", "approximation"):
            value = getattr(self, name)
            _demand(name, math.isfinite(value) and value >= 0, value)
        # Whatever the model is, its last rescale alone has this error. A plan that states less
        # would have answers released with too little noise.
        least = TAIL * math.sqrt(Noise(self.ring, self.primes, self.special).rounding)
        _demand("error", self.error >= least / self.answer, self.error)
        for value in self.witness or ():
            _demand("witness", math.isfinite(value) and value >= 0, value)
        _demand("witness", len(self.witness or (0, 0, 0, 0)) == 4, "another number of fields")
        for name in ("low", "high"):
            box = getattr(self, name)
            _demand(name, len(box) == self.features and all(map(math.isfinite, box)), len(box))
        period = len(self.feature)
        if self.mode == "latency":
            fits = 1 <= period <= self.slots and period & (period - 1) == 0
            _demand("feature", fits, period)
            inside = all(-1 <= place < self.features for place in self.feature)
            _demand("feature", inside, "a place outside the row")
            inside = self.start >= 0 and self.start + self.answers <= self.slots
            _demand("start", inside, self.start)
        else:
            _demand("feature", period == 0 and self.start == 0, period)
        distinct = len(set(self.steps)) == len(self.steps) <= MAX_STEPS
        _demand("steps", distinct and all(0 < s < self.slots for s in self.steps), len(self.steps))
        _demand("model", len(self.model) == 32, len(self.model))

    @property
    def slots(self) -> int:
        """Numbers in one ciphertext."""
        return self.ring // 2

    @property
    def answers(self) -> int:
        """Numbers in an encrypted answer: the outputs, and the witness where there is one."""
        return self.outputs + (self.witness is not None)

    @property
    def elements(self) -> list[int]:
        """The Galois elements of the rotations: 3^step modulo twice the ring's degree."""
        return [pow(3, step, 2 * self.ring) for step in self.steps]

    @property
    def grid(self) -> float:
        """Released answers are whole multiples of this power of two, at most `error` / 4."""
        return 2.0 ** math.floor(math.log2(self.error / 4))

    @property
    def deviation(self) -> int:
        """Deviation of the noise on an answer that leaves the key owner, in grids; 0 for none."""
        if self.release is None:
            return 0
        return math.ceil(self.release.deviation(self.error, self.outputs) / self.grid)

    @property
    def digest(self) -> bytes:
        """What every message of this plan is bound to."""
        return hashlib.blake2b(self.pack(), digest_size=32).digest()

    def pack(self) -> bytes:
        """Return the one encoding of a plan."""
        packed: bytes = msgpack.packb({"version": VERSION} | asdict(self))
        return packed


def read_plan(packed: bytes) -> Plan:
    """Read and check a plan from outside. Errors: `BadMessage` whatever is wrong."""
    if len(packed) > MAX_PLAN_BYTES:
        raise BadMessage("plan: too large", field="plan", value=len(packed), allowed=MAX_PLAN_BYTES)
    try:
        data: Any = msgpack.unpackb(packed)
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise BadMessage(f"plan: malformed, {type(error).__name__}", field="plan") from None
    names = {item.name for item in fields(Plan)}
    if type(data) is not dict or data.keys() != names | {"version"}:
        raise BadMessage("plan: other fields than a plan has", field="fields")
    if data.pop("version") != VERSION:
        raise BadMessage("plan: of another version", field="version", allowed=VERSION)
    try:
        _types(data)
        release = data.pop("release")
        data |= {name: tuple(data[name]) for name in _LISTS}
        data["witness"] = None if data["witness"] is None else tuple(data["witness"])
        plan = Plan(**data, release=None if release is None else Release(**release))
    except SecureError as error:
        raise BadMessage(f"plan: {error.message}", field=error.field, value=error.value) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise BadMessage(f"plan: malformed, {type(error).__name__}", field="plan") from None
    if plan.pack() != packed:
        raise BadMessage("plan: not the one encoding of its content", field="encoding")
    return plan


_LISTS = {
    "primes": int,
    "low": float,
    "high": float,
    "feature": int,
    "steps": int,
}
_TYPES: dict[str, tuple[type, ...]] = {
    "mode": (str,),
    "ring": (int,),
    "special": (int,),
    "fresh": (float,),
    "answer": (float,),
    "features": (int,),
    "outputs": (int,),
    "start": (int,),
    "relinearise": (bool,),
    "depth": (int,),
    "error": (float,),
    "approximation": (float,),
    "calibrated": (float, type(None)),
    "witness": (list, type(None)),
    "release": (dict, type(None)),
    "model": (bytes,),
}


def _types(data: dict[str, Any]) -> None:
    for name, kinds in _TYPES.items():
        _demand(name, type(data[name]) in kinds, type(data[name]).__name__)
    for name, kind in (*_LISTS.items(), ("witness", float)):
        values = data[name] if data[name] is not None or name != "witness" else []
        right = type(values) is list and all(type(value) is kind for value in values)
        _demand(name, right, type(values).__name__)


def _demand(name: str, holds: bool, value: object) -> None:
    if not holds:
        raise BadParameters(f"{name}: {value!r} is not allowed", field=name, value=value)
