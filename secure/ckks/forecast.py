"""What an encrypted model costs, before any key is made.

Sizes follow from the parameters and from how SEAL writes them (Zstandard over 8-byte words: close
to the order-0 entropy of the bytes of one 128 KiB block). Times are an estimate: they count
operations and use what one took on the machine named in docs/ckks.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from secure.ckks.layout import Layout, Packed
from secure.ckks.network import Network
from secure.ckks.schedule import Schedule

_BLOCK = 128 << 10
# Nanoseconds on one core: per coefficient, prime and digit of a key switch; per coefficient and
# prime of a product with a plaintext, of a rescale, of an encryption, of encoding a number.
_SWITCH, _TIMES, _RESCALE, _ENCRYPT, _NUMBER = 45.0, 12.0, 35.0, 80.0, 0.3
_PROCESS = 350 << 20  # an interpreter with torch and SEAL


@dataclass(frozen=True)
class Forecast:
    """Sizes in bytes, seconds on one core; requests, replies and seconds are of one call.

    A call is one row in latency mode, up to `rows` of them in throughput mode.
    """

    mode: str
    ring: int
    modulus_bits: int
    depth: int
    rows: int
    rotations: int
    products: int
    key_bytes: int
    request_bytes: int
    reply_bytes: int
    memory_bytes: int
    seconds: float


def forecast(
    network: Network, layout: Layout, schedule: Schedule, steps: Sequence[int]
) -> Forecast:
    """Forecast one plan."""
    ring, primes, special = schedule.ring, schedule.primes, schedule.special
    top = len(primes)
    squares = any(activation is None or activation.degree > 1 for activation in network.activations)
    keys = len(steps) + squares
    half = packed_bytes(ring, [*primes, special])
    # Of every key the uniform half is a seed; each prime of the modulus has a pair of polynomials.
    key_bytes = keys * top * (half + 100)
    whole = 2 * 8 * ring * (top + 1) * top * keys
    packed = isinstance(layout, Packed)
    seconds, rotations, products, plain = 0.0, 0, 0, 0
    for layer, stage in enumerate(schedule.stages(network)):
        size = ring * stage.level * 1e-9
        if isinstance(layout, Packed):
            product = layout.products[layer]
            turns, terms, results = product.rotations, len(product.diagonals), 1
            plain += terms * 8 * ring * stage.level
        else:
            turns, results = 0, network.affines[layer].weight.shape[0]
            terms = int((network.affines[layer].weight != 0).sum())
            seconds += terms * size * _NUMBER
        rotations, products = rotations + turns, products + terms
        seconds += size * (turns * stage.level * _SWITCH + terms * _TIMES + results * _RESCALE)
        if layer < len(network.activations):
            activation = network.activations[layer]
            many = 1 if activation is None else 2 * math.isqrt(activation.degree) + 1
            level = stage.level - 1
            switch = ring * level * 1e-9 * (level * _SWITCH + _TIMES + _RESCALE)
            seconds += many * results * switch
    inputs = 1 if packed else network.features
    outputs = 1 if packed else network.outputs
    seconds += inputs * ring * top * _ENCRYPT * 1e-9
    cipher = 2 * 8 * ring * top
    live = 8 if packed else 2 * max(len(affine.bias) for affine in network.affines)
    request = inputs * (packed_bytes(ring, primes) + 200)
    return Forecast(
        mode="latency" if packed else "throughput",
        ring=ring,
        modulus_bits=sum(p.bit_length() for p in (*primes, special)),
        depth=top - 1,
        rows=1 if packed else ring // 2,
        rotations=rotations,
        products=products,
        key_bytes=key_bytes,
        request_bytes=request,
        reply_bytes=outputs * 2 * (packed_bytes(ring, primes[:1]) + 100),
        memory_bytes=_PROCESS + whole + plain + live * cipher + 2 * request,
        seconds=seconds,
    )


def packed_bytes(ring: int, primes: Sequence[int]) -> int:
    """Bytes of one polynomial modulo these primes, as SEAL compresses it."""
    per_block = max(1, _BLOCK // (8 * ring))
    total = 0.0
    for start in range(0, len(primes), per_block):
        block = [prime.bit_length() for prime in primes[start : start + per_block]]
        total += len(block) * ring * 8 * _entropy(block) / 8
    return round(total)


def _entropy(bits: Sequence[int]) -> float:
    """Bits per byte of little-endian 8-byte words that are uniform below these powers of two."""
    chance = [0.0] * 256
    weight = 1 / (8 * len(bits))
    for size in bits:
        for byte in range(8):
            values = 1 << max(0, min(8, size - 8 * byte))
            for value in range(values):
                chance[value] += weight / values
    # A code word is never shorter than one bit.
    return sum(p * max(1.0, -math.log2(p)) for p in chance if p)
