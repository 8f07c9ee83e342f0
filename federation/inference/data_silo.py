"""The silo with the rows. Predictions are written here and go nowhere.

A key of encrypted inference lives in the process that made it: after a crash this silo makes
another and sends the batches that it lacks again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol, cast

import msgpack
import numpy as np

from federation.errors import BadInput
from federation.inference.party import COORDINATOR, Party
from federation.inference.predictions import Answers, Predictions
from federation.inference.served import (
    Reals,
    array_of,
    input_box,
    rows_of_request,
    unpacked,
)
from federation.inference.specs import SESSIONS
from federation.jobs.base import in_turn
from privacy.ledger.durable import write_durably
from secure.errors import BadMessage, ExchangeTimeout, KeyRetired
from secure.exchange.envelope import MAX_BODY

if TYPE_CHECKING:
    from federation.jobs.base import SiloContext
    from federation.sources.rows import Part


class Channel(Protocol):
    """How rows go to where they are predicted."""

    def predict(self, batch: int, rows: Reals) -> Answers:
        """Have rows [n, features] inside the schema's box predicted."""
        ...


class DataSilo(Party):
    """The part of the silo with the rows."""

    def __init__(self, context: SiloContext) -> None:
        super().__init__(context)
        self._predictions = Predictions(
            context.directory,
            context.facts.dataset.class_names,
            encrypted=self.spec.mode == "ckks",
        )

    def answer(self, sender: str, name: str, round: int, body: bytes) -> bytes | None:
        """Have a batch predicted; the coordinator hears the same whatever came of it."""
        if sender != COORDINATOR or name not in ("offer", "batch", "close"):
            return self.unknown(sender, name)
        if name == "batch" and round >= self._predictions.batches:
            self._predict(round)
        if name == "close":
            self._predictions.close(max(0, len(self._part) - self.spec.rows))
        return b""

    def ask(self, silo: str, name: str, round: int, body: bytes) -> bytes:
        """Ask a silo; what else a silo sends meanwhile was for an earlier session.

        What the coordinator sends is kept: it was resumed, and asks again from the beginning.
        Raises `ExchangeTimeout` where no answer comes within the job's deadline.
        """
        endpoint = self.context.endpoint
        endpoint.send(silo, round=round, name=name, body=body)
        until = time.monotonic() + self.spec.deadline
        while (left := until - time.monotonic()) > 0:
            message = endpoint.receive(deadline=left)
            header = message.header
            if header.sender == COORDINATOR:
                self.kept.append(message)  # acknowledged once it is answered
                continue
            endpoint.acknowledge(message)
            if (header.sender, header.name, header.round) == (silo, name, round):
                return message.body
        raise ExchangeTimeout(f"no answer from {silo} to {name}", field="deadline", value=silo)

    def answered(self, round: int, request: bytes, produce: Callable[[], bytes]) -> bytes:
        """Send a batch of rows, by the gate; return the answers."""
        rows = self.release("rows", round, request, produce)
        return self.ask(self.spec.server, "rows", round, rows)

    @cached_property
    def _part(self) -> Part:
        return self.context.rows(self.spec.part)

    @cached_property
    def _channel(self) -> Channel:
        channels: dict[str, Callable[[DataSilo], Channel]]
        channels = {"plain": _Plain, "ckks": _Encrypted, "equivariant": _Sealed}
        return channels[self.spec.mode](self)

    def _predict(self, batch: int) -> None:
        if batch != self._predictions.batches:
            raise BadInput(f"batch {batch} before those before it", field="batch", value=batch)
        channel = self._channel  # a plan is refused before a row is read
        low, high = input_box(self.context.facts.dataset)
        start, places = batch * self.spec.batch_size, self.spec.places(batch)
        some = slice(start, start + places)
        features = self._part.features[some]
        rows = np.tile((low + high) / 2, (places, 1))
        rows[: len(features)] = np.clip(features.reshape(-1, len(low)), low, high)
        self._predictions.add(channel.predict(batch, rows), self._part.numbers[some])


class _Plain:
    """Rows as they are."""

    def __init__(self, silo: DataSilo) -> None:
        self._silo = silo

    def predict(self, batch: int, rows: Reals) -> Answers:
        from safetensors.numpy import save

        dataset = self._silo.context.facts.dataset
        shaped = rows.reshape(len(rows), *dataset.input_shape).astype(np.float32)
        request: bytes = msgpack.packb(["plain", batch])
        answer = self._silo.answered(batch, request, partial(save, {"rows": shaped}))
        shape = (len(rows), dataset.n_classes)
        return Answers(array_of(answer, "logits", np.dtype(np.float64), shape))


class _Encrypted:
    """Rows under a key of this session, at a server that computes by a plan."""

    def __init__(self, silo: DataSilo) -> None:
        from secure.ckks.client import Client
        from secure.ckks.plan import read_plan

        self._silo = silo
        self._session = _next_session(silo.context)
        model = silo.spec.roles.model
        self._plan = read_plan(silo.ask(model, "plan", self._session, b""))
        self._check_plan()
        self._client = Client(self._plan)
        silo.ask(model, "keys", self._session, in_turn(self._client.keys))

    def predict(self, batch: int, rows: Reals) -> Answers:
        each = rows_of_request(self._plan.mode, self._plan.slots)
        parts = [rows[start : start + each] for start in range(0, len(rows), each)]
        round = self._session * self._silo.spec.batches + batch
        request: bytes = msgpack.packb(["ckks", round, self._plan.digest])
        answer = self._silo.answered(round, request, partial(self._encrypted, parts))
        opened = [self._client.open(part) for part in unpacked(answer, len(parts), "answers")]
        return Answers(
            np.concatenate([part.values for part in opened]),
            np.concatenate([part.certified for part in opened]),
            np.concatenate([part.distances for part in opened]),
        )

    def _encrypted(self, parts: list[Reals]) -> bytes:
        packed: bytes = msgpack.packb([self._client.encrypt(part) for part in parts])
        return packed

    def _check_plan(self) -> None:
        """Refuse a plan for other rows than the schema's, before a key is made or a row is read.

        And one whose batches would not fit into a message: it would have this silo allocate
        whatever the model's silo likes.
        """
        from secure.ckks.client import request_bytes

        spec, plan = self._silo.spec, self._plan
        dataset = self._silo.context.facts.dataset
        low, high = input_box(dataset)
        right = (plan.features, plan.outputs) == (len(low), dataset.n_classes)
        inside = right and (np.array(plan.low) <= low).all() and (np.array(plan.high) >= high).all()
        if not inside:
            raise BadMessage(
                "plan: for other rows or classes than the schema's",
                field="plan",
                value=[plan.features, plan.outputs],
                allowed=[len(low), dataset.n_classes],
            )
        if spec.packing is not None and plan.mode != spec.packing:
            raise BadMessage(
                f"plan: packed for {plan.mode}, where the job says {spec.packing}",
                field="plan.mode",
                value=plan.mode,
                allowed=spec.packing,
            )
        requests = -(-spec.places(0) // rows_of_request(plan.mode, plan.slots))
        needed = requests * request_bytes(plan)
        if needed > MAX_BODY:
            raise BadMessage(
                f"plan: a batch takes {needed >> 20} MiB, and a message holds {MAX_BODY >> 20}; "
                "a smaller batch_size may fit",
                field="plan.ring",
                value=needed,
                allowed=MAX_BODY,
            )


class _Sealed:
    """Rows turned by a secret matrix: obfuscation, not encryption."""

    def __init__(self, silo: DataSilo) -> None:
        from secure.equivariant import Silo
        from secure.keys import SigningKey

        self._silo, model = silo, silo.spec.roles.model
        sealed = silo.ask(model, "plan", 0, b"")
        key = cast(SigningKey, silo.context.signer)
        self._keys = Silo(sealed, key, owner=silo.context.members[model])

    def predict(self, batch: int, rows: Reals) -> Answers:
        import torch

        dataset = self._silo.context.facts.dataset
        shaped = torch.from_numpy(rows.reshape(len(rows), *dataset.input_shape))
        request: bytes = msgpack.packb(["sealed", batch, self._keys.manifest.sealing])
        answer = self._silo.answered(batch, request, partial(self._keys.seal, {"rows": shaped}))
        opened = self._keys.open(answer).double().numpy()
        if opened.shape != (len(rows), dataset.n_classes):
            raise BadMessage("answers: of another shape", field="answer", value=list(opened.shape))
        return Answers(opened)


def _next_session(context: SiloContext) -> int:
    """The number of this session, from 0, noted before its key is made."""
    path = context.directory / "sessions"
    session = int(path.read_bytes()) if path.exists() else 0
    if session >= SESSIONS:
        raise KeyRetired(
            f"this job has had {SESSIONS} keys, as many as it may; cancel it and run a new one",
            field="sessions",
            value=session,
            allowed=SESSIONS,
        )
    write_durably(path, str(session + 1).encode())
    return session
