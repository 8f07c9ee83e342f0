"""From a network to a plan: mode, ring, primes, scales, packing, keys, and the proved error.

    >>> from torch import nn
    >>> from secure.ckks.network import read
    >>> compiled = compile_network(read(nn.Linear(30, 1), (30,)), -1.0, 1.0)
    >>> compiled.plan.ring, compiled.plan.mode, compiled.plan.error < 1e-4
    (4096, 'latency', True)

The smallest ring of the table that serves is taken. Within it the bits go where they lower the
proved error, found by a search over the first prime, the primes of the levels and the scales: the
certificate is the objective.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from secure.ckks.bounds import Proof, prove
from secure.ckks.forecast import Forecast, forecast
from secure.ckks.layout import Batched, Packed
from secure.ckks.network import Network
from secure.ckks.plan import MAX_STEPS, Plan, Release
from secure.ckks.ranges import Ranges, enclose
from secure.ckks.schedule import Schedule
from secure.ckks.standard import MAX_MODULUS_BITS, MAX_PRIME_BITS, largest_primes
from secure.ckks.witness import Witness, extend, typical, witness
from secure.errors import BadParameters

THROUGHPUT_ROWS = 200  # from here a row per slot is faster than one row after the other
ENOUGH = 2.0**-12  # of the tolerance: an error so small is not worth lowering
LEAST_BITS = 24  # of the primes of a level, unless a tolerance says more

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Compiled:
    """A plan, and what the server alone holds: the circuit and where its numbers lie.

    `circuit` is the network, with a witness as its last output where it has one.
    """

    plan: Plan
    forecast: Forecast
    network: Network = field(repr=False)
    circuit: Network = field(repr=False)
    layout: Packed | Batched = field(repr=False)
    schedule: Schedule
    errors: tuple[float, ...]


def compile_network(
    network: Network,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    *,
    rows: int = 1,
    mode: str | None = None,
    tolerance: float | None = None,
    release: Release | None = None,
    max_key_bytes: int = 256 << 20,
    max_memory_bytes: int = 4 << 30,
) -> Compiled:
    """Compile for rows inside the box [low, high] (numbers, or one per feature).

    `rows` is how many are expected in a call, and decides the mode unless `mode` says "latency" or
    "throughput". `tolerance` is the largest error that an answer may have, by default 1/256 of the
    largest that it can be; with a `release` it holds for released answers and is required, since
    their noise is what takes the bits.
    Errors: `BadParameters` says what did not fit in each ring.
    """
    if mode not in (None, "latency", "throughput"):
        raise BadParameters(
            f"mode: {mode!r}", field="mode", value=mode, allowed=["latency", "throughput"]
        )
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0):
        raise BadParameters("tolerance: not a positive number", field="tolerance", value=tolerance)
    if release is not None and tolerance is None:
        raise BadParameters(
            "tolerance: released answers carry noise, so say how much they may carry",
            field="tolerance",
        )
    mode = mode or ("latency" if rows < THROUGHPUT_ROWS else "throughput")
    ranges = enclose(network, low, high)
    reasons = []
    for ring in MAX_MODULUS_BITS:
        found = _in_ring(network, ranges, ring, mode, tolerance, release)
        if isinstance(found, str):
            reasons.append(f"{ring}: {found}")
            continue
        circuit, layout, schedule, proof, bound = found
        steps: list[int] = []
        if isinstance(layout, Packed):
            steps = sorted(set().union(*(product.steps for product in layout.products)))
        cost = forecast(circuit, layout, schedule, steps)
        if len(steps) > MAX_STEPS or cost.key_bytes > max_key_bytes:
            reasons.append(f"{ring}: {cost.key_bytes >> 20} MiB of keys for {len(steps)} rotations")
        elif cost.memory_bytes > max_memory_bytes:
            reasons.append(f"{ring}: {cost.memory_bytes >> 20} MiB of memory")
        else:
            errors = proof.errors[: network.outputs]
            plan = _plan(
                network, layout, schedule, ranges, steps, errors, bound, release, low, high
            )
            return Compiled(plan, cost, network, circuit, layout, schedule, tuple(errors.tolist()))
    raise BadParameters(
        f"the model does not fit ({mode} mode, depth {network.depth}); by ring: "
        + "; ".join(reasons),
        field="model",
        value=network.depth,
    )


def _in_ring(
    network: Network,
    ranges: Ranges,
    ring: int,
    mode: str,
    tolerance: float | None,
    release: Release | None,
) -> tuple[Network, Packed | Batched, Schedule, Proof, Witness | None] | str:
    layout = _layout(network, ring, mode)
    if layout is None:
        return f"a layer is wider than {ring // 2} slots, or too many numbers in all"
    start = _start(network, ring)
    if start is None:
        return f"{MAX_MODULUS_BITS[ring]} bits of modulus do not hold depth {network.depth}"
    if tolerance is None:
        tolerance = float(ranges.before[-1].max()) / 256
    best = _search(network, layout, ranges, ring, start, tolerance * ENOUGH)
    if best is None:
        return "no choice of scales keeps every value below its modulus"
    schedule, proof = best
    worst = float(proof.errors.max())
    if release is not None:
        worst += 7.2 * release.deviation(worst, network.outputs)  # 2^-40 of a Gaussian
    if worst > tolerance:
        return f"the proved error is {worst:.2g}, not {tolerance:.2g}"
    if proof.hidden is not None:
        circuit = extend(network, proof.hidden)
        wider = _layout(circuit, ring, mode)
        held = wider and prove(circuit, wider, _with_witness(ranges, circuit), schedule)
        if wider and held and held.hidden and held.errors[:-1].max() <= max(worst, tolerance):
            return circuit, wider, schedule, held, witness(circuit, held.hidden, held)
    return network, layout, schedule, proof, None


def _layout(network: Network, ring: int, mode: str) -> Packed | Batched | None:
    if mode == "latency":
        return Packed.of(network, ring // 2)
    return Batched(ring // 2, network.affines)


def _with_witness(ranges: Ranges, circuit: Network) -> Ranges:
    largest = float(circuit.affines[-1].weight[-1] @ ranges.after[-1][1])
    return replace(ranges, before=(*ranges.before[:-1], np.append(ranges.before[-1], largest)))


@dataclass(frozen=True)
class _Bits:
    """What is searched: bits of the first prime and of a level's, of the three scales."""

    first: int
    level: int
    work: int
    fresh: int

    def near(self) -> Iterator[_Bits]:
        """Neighbours: one number changed, or two that trade bits with each other."""
        for first, level, work, fresh in (
            (2, 0, 0, 0), (-2, 0, 0, 0), (0, 1, 1, 1), (0, -1, -1, -1), (0, 0, 1, 0),
            (0, 0, -1, 0), (0, 0, 0, 1), (0, 0, 0, -1), (0, 0, 0, -3), (0, 0, -1, -3),
            (2, 0, -1, 0), (2, -1, -1, -1), (-2, 1, 1, 1), (0, -1, 0, 0), (-2, 0, -1, 0),
        ):  # fmt: skip
            yield _Bits(
                self.first + first, self.level + level, self.work + work, self.fresh + fresh
            )


def _start(network: Network, ring: int) -> _Bits | None:
    """Share the bits evenly: as many for the first and the last prime as a level has, and 8."""
    level = min(50, (MAX_MODULUS_BITS[ring] - 16) // (network.depth + 2))
    if level < LEAST_BITS:
        return None
    return _Bits(min(MAX_PRIME_BITS, level + 8), level, level + 1, level + 6)


def _search(
    network: Network,
    layout: Packed | Batched,
    ranges: Ranges,
    ring: int,
    start: _Bits,
    enough: float,
) -> tuple[Schedule, Proof] | None:
    """Descend from the even share to the least bound for rows drawn evenly from the box.

    A proved error of `enough` ends it: a large network is not looked at sixty times for nothing.
    """
    seen: dict[_Bits, tuple[Schedule, Proof] | None] = {}

    def at(bits: _Bits) -> float:
        if bits not in seen:
            schedule = _schedule(network, ranges, ring, bits)
            proof = schedule and prove(network, layout, ranges, schedule)
            seen[bits] = (schedule, proof) if schedule and proof else None
        found = seen[bits]
        return math.inf if found is None else typical(network, found[1], ranges.sample)

    here = start
    # Where answers are large the first prime must be, too: look for a place to start from.
    while at(here) == math.inf and here.level > LEAST_BITS:
        here = _Bits(here.first + 2, here.level, here.work, here.fresh)
        if here.first > MAX_PRIME_BITS or _schedule(network, ranges, ring, here) is None:
            level = here.level - 1
            here = _Bits(start.first, level, level + 1, level + 6)
    for _ in range(40):
        found = seen[here]
        if found is None or found[1].errors.max() <= enough:
            break
        best = min(here.near(), key=at)
        # A gain below a hundredth is not worth another look at the whole network.
        if not at(best) < 0.99 * at(here):
            break
        here = best
    return seen[here]


def _schedule(network: Network, ranges: Ranges, ring: int, bits: _Bits) -> Schedule | None:
    depth = network.depth
    special = min(MAX_PRIME_BITS, MAX_MODULUS_BITS[ring] - bits.first - depth * bits.level)
    largest = max(1.0, float(ranges.before[-1].max()))
    answer = bits.first - 3 - math.ceil(math.log2(largest))
    if not (bits.first <= MAX_PRIME_BITS and special >= bits.level >= LEAST_BITS and answer > 8):
        return None
    try:
        primes = largest_primes(ring, [bits.first, *[bits.level] * depth, special])
    except BadParameters:
        return None
    return Schedule(
        ring,
        tuple(primes[:-1]),
        primes[-1],
        2.0**bits.fresh,
        2.0**bits.work,
        2.0 ** min(answer, bits.work + 10),
    )


def _plan(
    network: Network,
    layout: Packed | Batched,
    schedule: Schedule,
    ranges: Ranges,
    steps: list[int],
    errors: Reals,
    bound: Witness | None,
    release: Release | None,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
) -> Plan:
    bottom, top = (
        np.broadcast_to(np.asarray(side, dtype=np.float64).reshape(-1), network.features)
        for side in (low, high)
    )
    packed = isinstance(layout, Packed)
    return Plan(
        mode="latency" if packed else "throughput",
        ring=schedule.ring,
        primes=schedule.primes,
        special=schedule.special,
        fresh=schedule.fresh,
        answer=schedule.answer,
        features=network.features,
        outputs=network.outputs,
        low=tuple(bottom.tolist()),
        high=tuple(top.tolist()),
        feature=tuple(layout.feature.tolist()) if isinstance(layout, Packed) else (),
        start=layout.start if isinstance(layout, Packed) else 0,
        steps=tuple(steps),
        relinearise=any(a is None or a.degree > 1 for a in network.activations),
        depth=network.depth,
        error=float(errors.max()),
        approximation=float(ranges.approximation.max()),
        calibrated=None,
        witness=astuple(bound) if bound else None,
        release=release,
        model=_digest(network.reference),
    )


def _digest(model: torch.nn.Module) -> bytes:
    """The digest of a model's weights, in the order of their names."""
    digest = hashlib.blake2b(digest_size=32)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()
