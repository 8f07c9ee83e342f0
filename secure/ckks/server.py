"""The model's side: computes on what it cannot see. It holds no key that decrypts.

The weights stay here, encoded once. What a client learns about them: its answers, the shapes in the
plan, and what noise and timing tell (CKKS has no circuit privacy): **the model is not hidden** from
a client that may ask often enough. Nothing here proves to the client that the agreed circuit was
computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as sealapi

from secure.ckks import blobs
from secure.ckks.compiler import Compiled
from secure.ckks.context import Ciphertext, Context, Plaintext
from secure.ckks.layout import Batched, Packed
from secure.ckks.messages import Answers, Keys, Rows, pack, unpack
from secure.ckks.polynomials import evaluate
from secure.ckks.schedule import Stage
from secure.errors import BadMessage

Reals = npt.NDArray[np.float64]


class Server:
    """One compiled model, and the evaluation keys of one client at a time."""

    def __init__(self, compiled: Compiled) -> None:
        self._compiled = compiled
        self._context = Context(compiled.plan)
        self._seal = _Seal(self._context)
        self._stages = list(compiled.schedule.stages(compiled.circuit))
        self._key: bytes | None = None
        self._encoded: list[list[Plaintext]] = []
        if isinstance(compiled.layout, Packed):
            for product, stage in zip(compiled.layout.products, self._stages, strict=True):
                encode = self._seal.encode
                self._encoded.append(
                    [encode(d.values, stage.level, stage.plain) for d in product.diagonals]
                )

    def register(self, keys: bytes) -> None:
        """Take a client's evaluation keys; they replace those before, which are stale from then on.

        Errors: `BadMessage` unless they are exactly the keys that the plan names.
        """
        plan, context = self._compiled.plan, self._context
        count = len(plan.steps) + plan.relinearise
        message = unpack(plan, Keys, keys, context.key_bytes(count, plan.ring) + 4096)
        wanted = (plan.relinearise, bool(plan.steps))
        if (bool(message.relinearisation), bool(message.rotations)) != wanted:
            raise BadMessage("keys: others than the plan names", field="keys")
        squares = rotations = None
        if plan.relinearise:
            limit = context.key_bytes(1, 16)
            squares = blobs.load(sealapi.RelinKeys, context.seal, message.relinearisation, limit)
            if squares.size() != 1 or not squares.has_key(2):
                raise BadMessage("keys: others than the plan names", field="relinearisation")
        if plan.steps:
            limit = context.key_bytes(len(plan.steps), plan.ring)
            rotations = blobs.load(sealapi.GaloisKeys, context.seal, message.rotations, limit)
            here = all(rotations.has_key(element) for element in plan.elements)
            if not here or rotations.size() != len(plan.steps):
                raise BadMessage("keys: others than the plan names", field="rotations")
        self._seal.relinearisation, self._seal.rotations = squares, rotations
        self._key = message.key

    def answer(self, rows: bytes) -> bytes:
        """Compute the answers to one request.

        Errors: `BadMessage` for rows under another plan or key, or other ciphertexts than the plan
        says; nothing is computed then.
        """
        plan, context = self._compiled.plan, self._context
        count = 1 if plan.mode == "latency" else plan.features
        top = len(plan.primes)
        message = unpack(plan, Rows, rows, count * (context.ciphertext_bytes(top) + 64) + 1024)
        if message.key != self._key:
            raise BadMessage("rows: under a key that is not registered (any more)", field="key")
        if len(message.ciphertexts) != count or (plan.mode == "latency" and message.rows != 1):
            raise BadMessage("rows: another number of ciphertexts", field="ciphertexts")
        inputs = (context.ciphertext(data, top, plan.fresh) for data in message.ciphertexts)
        if isinstance(self._compiled.layout, Packed):
            results = [self._packed(self._compiled.layout, next(inputs))]
        else:
            results = self._batched(self._compiled.layout, inputs)
        packed = [blobs.dump(result) for result in results]
        return pack(plan, Answers(message.key, message.request, message.rows, packed))

    def _packed(self, layout: Packed, vector: Ciphertext) -> Ciphertext:
        for layer, (product, stage) in enumerate(zip(layout.products, self._stages, strict=True)):
            vector = product.apply(vector, _Diagonals(self._seal, self._encoded[layer]))
            vector = self._seal.rescaled(vector, stage.after)
            bias = self._seal.encode(layout.biases[layer], stage.level - 1, stage.after)
            self._seal.evaluator.add_plain_inplace(vector, bias)
            vector = self._activated(layer, vector)
        return vector

    def _batched(self, layout: Batched, inputs: Iterator[Ciphertext]) -> list[Ciphertext]:
        for layer, (affine, stage) in enumerate(zip(layout.affines, self._stages, strict=True)):
            totals = self._sums(affine.weight, inputs, stage)
            results = []
            for total, bias in zip(totals, affine.bias, strict=True):
                result = self._seal.rescaled(total, stage.after)
                self._seal.add_number(result, float(bias))
                results.append(self._activated(layer, result))
            inputs = iter(results)
        return results

    def _sums(self, weight: Reals, inputs: Iterator[Ciphertext], stage: Stage) -> list[Ciphertext]:
        """Add up weights times inputs, one input at a time, so that one is in memory."""
        totals: list[Ciphertext] = [None] * len(weight)
        small = 0.5 / stage.plain
        # A result that depends on nothing still needs a ciphertext: the least weight there is.
        dead = [not row.any() for row in np.abs(weight) > small]
        term = sealapi.Ciphertext()
        for feature, ciphertext in enumerate(inputs):
            for row, value in enumerate(weight[:, feature].tolist()):
                if abs(value) <= small:
                    if not (dead[row] and feature == 0):
                        continue
                    value = 1.0 / stage.plain
                number = self._seal.number(value, stage.level, stage.plain)
                total = totals[row]
                if total is None:
                    totals[row] = total = sealapi.Ciphertext()
                    self._seal.evaluator.multiply_plain(ciphertext, number, total)
                else:
                    self._seal.evaluator.multiply_plain(ciphertext, number, term)
                    self._seal.evaluator.add_inplace(total, term)
        return [total for total in totals if total is not None]

    def _activated(self, layer: int, value: Ciphertext) -> Ciphertext:
        activations = self._compiled.circuit.activations
        if layer == len(activations):
            return value
        activation = activations[layer]
        if activation is None:
            level = self._stages[layer].level - 1
            scale = value.scale**2 / self._compiled.plan.primes[level - 1]
            return self._seal.product(value, value, level - 1, scale)
        return evaluate(activation, value, self._seal, self._compiled.schedule.work)


class _Seal:
    """SEAL's operations, with levels as numbers and scales that are exact."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.evaluator = sealapi.Evaluator(context.seal)
        self.relinearisation: Any = None
        self.rotations: Any = None
        self._level = {tuple(name): level for level, name in context.levels.items()}

    def encode(self, values: Reals, level: int, scale: float) -> Plaintext:
        plain = sealapi.Plaintext()
        slots = np.resize(values, self._context.plan.slots).tolist()
        self._context.encoder.encode(slots, self._context.levels[level], scale, plain)
        return plain

    def number(self, value: float, level: int, scale: float) -> Plaintext:
        plain = sealapi.Plaintext()
        self._context.encoder.encode(value, self._context.levels[level], scale, plain)
        return plain

    def rescaled(self, value: Ciphertext, scale: float) -> Ciphertext:
        """Drop a prime. The scale is `scale` up to the last bits of a double, and set to it."""
        self.evaluator.rescale_to_next_inplace(value)
        value.scale = scale
        return value

    def add_number(self, value: Ciphertext, number: float) -> None:
        if number != 0.0:
            plain = self.number(number, self.level(value), value.scale)
            self.evaluator.add_plain_inplace(value, plain)

    # What a polynomial needs (secure.ckks.polynomials.Powers).

    def level(self, x: Ciphertext) -> int:
        return self._level[tuple(x.parms_id())]

    def scale(self, x: Ciphertext) -> float:
        scale: float = x.scale
        return scale

    def prime(self, level: int) -> int:
        return self._context.plan.primes[level - 1]

    def linear(
        self, x: Ciphertext, factor: float, constant: float, level: int, scale: float
    ) -> Ciphertext:
        plain = scale * self.prime(level + 1) / x.scale
        result = self._switched(x, level + 1)
        # A factor that rounds to zero would make a ciphertext without a key in it.
        factor = factor if abs(factor) * plain > 0.5 else 1.0 / plain
        self.evaluator.multiply_plain_inplace(result, self.number(factor, level + 1, plain))
        result = self.rescaled(result, scale)
        self.add_number(result, constant)
        return result

    def product(self, x: Ciphertext, y: Ciphertext, level: int, scale: float) -> Ciphertext:
        result = sealapi.Ciphertext()
        if x is y:
            self.evaluator.square(self._switched(x, level + 1), result)
        else:
            pair = self._switched(x, level + 1), self._switched(y, level + 1)
            self.evaluator.multiply(*pair, result)
        self.evaluator.relinearize_inplace(result, self.relinearisation)
        return self.rescaled(result, scale)

    def double_less_one(self, x: Ciphertext) -> Ciphertext:
        result = sealapi.Ciphertext()
        self.evaluator.add(x, x, result)
        self.add_number(result, -1.0)
        return result

    def add(self, x: Ciphertext, y: Ciphertext | float) -> Ciphertext:
        if isinstance(y, float):
            self.add_number(x, y)
        else:
            self.evaluator.add_inplace(x, y)
        return x

    def _switched(self, x: Ciphertext, level: int) -> Ciphertext:
        """Return a copy at a lower level; dropping primes changes no value."""
        result = sealapi.Ciphertext()
        self.evaluator.mod_switch_to(x, self._context.levels[level], result)
        return result


class _Diagonals:
    """The slots of one layer (secure.ckks.packing.Slots)."""

    def __init__(self, seal: _Seal, encoded: list[Plaintext]) -> None:
        self._seal, self._encoded = seal, encoded

    def rotate(self, vector: Ciphertext, step: int) -> Ciphertext:
        result = sealapi.Ciphertext()
        self._seal.evaluator.rotate_vector(vector, step, self._seal.rotations, result)
        return result

    def times(self, vector: Ciphertext, place: int) -> Ciphertext:
        result = sealapi.Ciphertext()
        self._seal.evaluator.multiply_plain(vector, self._encoded[place], result)
        return result

    def add(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        # In place: a sum is never used again, and a baby step is never the first operand twice.
        self._seal.evaluator.add_inplace(a, b)
        return a
