"""The data's side: makes the key, encrypts rows, opens answers. It alone can decrypt.

>>> import numpy as np
>>> from torch import nn
>>> from secure.ckks.compiler import compile_network
>>> from secure.ckks.network import read
>>> from secure.ckks.server import Server
>>> compiled = compile_network(read(nn.Linear(3, 2), (3,)), -1.0, 1.0)
>>> client, server = Client(compiled.plan), Server(compiled)
>>> server.register(client.keys())
>>> opened = client.open(server.answer(client.encrypt(np.zeros((1, 3)))))
>>> opened.values.shape
(1, 2)
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as sealapi
from tenseal.sealapi import util

from secure.ckks.blobs import dump
from secure.ckks.context import Context
from secure.ckks.forecast import packed_bytes
from secure.ckks.gaussian import discrete_gaussian
from secure.ckks.messages import NUMBER, Answers, Keys, Rows, pack, unpack
from secure.ckks.plan import Plan
from secure.ckks.standard import SECRET_SPREAD, SECRET_VARIANCE
from secure.ckks.witness import Witness
from secure.errors import BadMessage, BadParameters, KeyRetired

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Opened:
    """Decrypted answers, for the key owner alone.

    `values` [rows, outputs] are within `errors` [rows] of the compiled model in exact arithmetic,
    and within `distances` [rows] of the plain model, except with probability 2^-40 per row.
    `certified` says where the margin makes the class equal to the plain model's.
    Privacy: whoever sees `values` and the ciphertext can work at the key (Li and Micciancio,
    EUROCRYPT 2021); only `Client.release` makes values that may leave. The model owner must not
    learn what was opened or how many rows were certified.
    """

    values: Reals = field(repr=False)
    classes: npt.NDArray[np.int64] = field(repr=False)
    certified: npt.NDArray[np.bool_] = field(repr=False)
    errors: Reals = field(repr=False)
    distances: Reals = field(repr=False)


class Client:
    """One secret key under one plan, made here and never written anywhere.

    A plan is checked when it is read (`secure.ckks.plan`); what remains is whether this machine
    wants keys of that size. Errors: `BadParameters` where they pass `max_key_bytes`.
    """

    def __init__(self, plan: Plan, *, max_key_bytes: int = 1 << 30) -> None:
        self.plan = plan
        self._context = Context(plan)
        count = len(plan.steps) + plan.relinearise
        needed = self._context.key_bytes(count, 0)
        if needed > max_key_bytes:
            raise BadParameters(
                f"plan: {count} keys take {needed >> 20} MiB",
                field="steps",
                value=needed,
                allowed=max_key_bytes,
            )
        self._number = os.urandom(NUMBER)
        self._generator, secret = _drawn(self._context)
        self._encryptor = sealapi.Encryptor(self._context.seal, secret)
        self._decryptor = sealapi.Decryptor(self._context.seal, secret)
        self._pending: dict[bytes, int] = {}
        self._released = 0

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a client holds a secret key, which does not travel")

    def keys(self) -> bytes:
        """Return the evaluation keys: exactly the plan's rotations, and squares where it has any.

        The uniform half of each key is sent as its seed.
        """
        squares = rotations = b""
        if self.plan.relinearise:
            squares = dump(self._generator.create_relin_keys())
        if self.plan.steps:
            rotations = dump(self._generator.create_galois_keys(self.plan.elements))
        return pack(self.plan, Keys(self._number, squares, rotations))

    def encrypt(self, rows: npt.ArrayLike) -> bytes:
        """Encrypt rows [n, features] inside the plan's box.

        n is 1 in latency mode, at most the number of slots in throughput mode.
        Errors: `BadParameters` for another shape, a value that is not finite or lies outside the
        box; it names no value.
        """
        plan = self.plan
        values = np.asarray(rows, dtype=np.float64)
        most = 1 if plan.mode == "latency" else plan.slots
        if values.ndim != 2 or values.shape[1] != plan.features or not 1 <= len(values) <= most:
            raise BadParameters(
                f"rows: of shape {list(values.shape)}",
                field="rows",
                value=list(values.shape),
                allowed=f"[1 to {most}, {plan.features}]",
            )
        inside = (values >= np.asarray(plan.low)) & (values <= np.asarray(plan.high))
        if not inside.all():
            raise BadParameters(
                f"rows: {int((~inside.all(axis=1)).sum())} outside the box that the plan was "
                "proved for; clip them or leave them out",
                field="rows",
            )
        if plan.mode == "latency":
            index = np.asarray(plan.feature)
            packed = np.where(index < 0, 0.0, values[0][np.maximum(index, 0)])
            vectors = [np.resize(packed, plan.slots)]
        else:
            # Empty slots repeat the last row: zeros may lie outside the box.
            filled = np.minimum(np.arange(plan.slots), len(values) - 1)
            vectors = list(values.T[:, filled])
        request = os.urandom(NUMBER)
        self._pending[request] = len(values)
        encrypted = [self._encrypted(vector) for vector in vectors]
        return pack(plan, Rows(self._number, request, len(values), encrypted))

    def open(self, answers: bytes) -> Opened:
        """Decrypt the answers to one request, once, for the key owner alone.

        Errors: `BadMessage` for a message that does not belong to a request of this client that is
        still open, or holds other ciphertexts than the plan says; nothing is decrypted then.
        """
        plan = self.plan
        decrypted = self._decrypted(answers)
        values = decrypted[:, : plan.outputs]
        errors = np.full(len(values), plan.error)
        if plan.witness is not None:
            errors = np.minimum(errors, Witness(*plan.witness).bound(decrypted[:, -1]))
        distances = errors + plan.approximation
        if plan.outputs == 1:
            classes, margins = (values[:, 0] > 0).astype(np.int64), 2 * np.abs(values[:, 0])
        else:
            classes = values.argmax(axis=1)
            ordered = np.sort(values, axis=1)
            margins = ordered[:, -1] - ordered[:, -2]
        return Opened(values, classes, margins > 2 * distances, errors, distances)

    def release(self, answers: bytes) -> Reals:
        """Decrypt the answers to one request, once, with the noise that lets them leave.

        Discrete Gaussian noise of `plan.deviation` grids drowns the decryption error, which is what
        a ciphertext beside its plaintext would tell about the key: all answers released under this
        key are within statistical distance 2^-bits of answers that do not depend on it, **if the
        server computed the agreed circuit** (else the error is not bounded by the plan: `open`, and
        keep the answer).
        Errors: `KeyRetired` once the plan's answers are used up; nothing is decrypted then.
        """
        plan = self.plan
        if plan.release is None:
            raise BadParameters("release: this plan was compiled to keep answers", field="release")
        message = self._belonging(answers)
        if self._released + message.rows > plan.release.answers:
            raise KeyRetired(
                f"this key has released {self._released} of {plan.release.answers} answers; make "
                "a new one",
                field="release.answers",
                value=self._released + message.rows,
                allowed=plan.release.answers,
            )
        self._released += message.rows
        values = self._decrypted(answers)[:, : plan.outputs]
        grids = np.rint(values / plan.grid)
        released = [[int(n) + discrete_gaussian(plan.deviation) for n in row] for row in grids]
        return np.asarray(released, dtype=np.float64) * plan.grid

    def _encrypted(self, vector: Reals) -> bytes:
        plain = sealapi.Plaintext()
        self._context.encoder.encode(vector.tolist(), self.plan.fresh, plain)
        return dump(self._encryptor.encrypt_symmetric(plain))

    def _belonging(self, answers: bytes) -> Answers:
        count = 1 if self.plan.mode == "latency" else self.plan.answers
        limit = count * (self._context.ciphertext_bytes(1) + 64) + 1024
        message = unpack(self.plan, Answers, answers, limit)
        if message.key != self._number or self._pending.get(message.request) != message.rows:
            raise BadMessage("answers: to no open request under this key", field="request")
        if len(message.ciphertexts) != count:
            raise BadMessage("answers: another number of ciphertexts", field="ciphertexts")
        return message

    def _decrypted(self, answers: bytes) -> Reals:
        message = self._belonging(answers)
        loaded = [
            self._context.ciphertext(data, 1, self.plan.answer) for data in message.ciphertexts
        ]
        del self._pending[message.request]
        columns = []
        for ciphertext in loaded:
            plain = sealapi.Plaintext()
            self._decryptor.decrypt(ciphertext, plain)
            columns.append(np.asarray(self._context.encoder.decode_double(plain)))
        if self.plan.mode == "latency":
            return columns[0][None, self.plan.start :][:, : self.plan.answers]
        return np.stack([column[: message.rows] for column in columns], axis=1)


def request_bytes(plan: Plan) -> int:
    """How many bytes one request has under a plan, to a few per cent; no key is needed."""
    ciphertexts = 1 if plan.mode == "latency" else plan.features
    return ciphertexts * (packed_bytes(plan.ring, plan.primes) + 200)


def _drawn(context: Context) -> tuple[Any, Any]:
    """Draw a key until its secret is as small in every slot as the proved error takes it to be.

    The table of parameters is for ternary secrets: any other is refused.
    """
    plan = context.plan
    tables = util.NTTTables(plan.ring.bit_length() - 1, sealapi.Modulus(plan.primes[0]))
    mean = SECRET_VARIANCE * plan.ring
    for _ in range(100):
        generator = sealapi.KeyGenerator(context.seal)
        secret = generator.secret_key()
        words = secret.data()
        transformed = [words[place] for place in range(plan.ring)]
        residues = np.asarray(util.inverse_ntt_negacyclic_harvey(transformed, tables))
        coefficients = residues.astype(np.int64) % plan.primes[0]
        coefficients[coefficients == plan.primes[0] - 1] = -1
        if np.abs(coefficients).max() > 1:
            break
        twist = np.exp(1j * np.pi * np.arange(plan.ring) / plan.ring)
        if (np.abs(np.fft.fft(coefficients * twist)) ** 2).max() <= SECRET_SPREAD * mean:
            return generator, secret
    raise BadParameters("SEAL draws other secrets than ternary ones here", field="secret")
