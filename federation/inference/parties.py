"""The silos of an infer job: the one with the rows asks, the one with the model answers.

Messages between the two, over the job's own endpoints:

    plan  keys   encrypted inference only: what the model is computed with, and evaluation keys
    rows         one batch; the answers come back under the same name

Whatever a row says, the model's silo gets messages of the same number and form, and the coordinator
the same empty answer to every batch: places without a row are filled, and no error depends on what
an answer said. Rows and answers leave by the gate, stored first. A key lives in the process that
made it: after a crash the data's silo makes another and sends the batches that it lacks again.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
import numpy as np

from federation.errors import BadInput, TacitError, told
from federation.inference.predictions import Answers, Predictions
from federation.inference.quota import take
from federation.inference.served import (
    EncryptedServed,
    Files,
    PlainServed,
    Reals,
    Served,
    array_of,
    input_box,
    read_model,
    rows_of_request,
    unpacked,
)
from federation.inference.specs import SESSIONS
from federation.jobs.base import in_turn
from privacy.ledger import Stop
from privacy.ledger.durable import write_durably
from secure.errors import BadMessage, ExchangeTimeout, KeyRetired

if TYPE_CHECKING:
    from federation.inference.specs import Spec
    from federation.jobs.base import SiloContext
    from federation.sources.rows import Part

COORDINATOR = "coordinator"


class Party(ABC):
    """A silo's part: it answers one message after the other until the coordinator says finish."""

    def __init__(self, context: SiloContext) -> None:
        self.context = context
        self.spec: Spec = context.spec

    @abstractmethod
    def answer(self, sender: str, name: str, round: int, body: bytes) -> bytes | None:
        """What goes back to the sender of a message; None where nothing does."""

    def run(self) -> Stop:
        """Take part to the end."""
        endpoint = self.context.endpoint
        while True:
            message = endpoint.receive(deadline=self.context.deadline)
            header = message.header
            if (header.sender, header.name) == (COORDINATOR, "finish"):
                return Stop.COMPLETED  # not acknowledged: what follows from it is not on disk yet
            answer = self.answer(header.sender, header.name, header.round, message.body)
            if answer is not None:
                endpoint.send(header.sender, round=header.round, name=header.name, body=answer)
            endpoint.acknowledge(message)

    def unknown(self, sender: str, name: str) -> None:
        """Refuse what the coordinator may not ask; what another silo sent late is nothing."""
        if sender == COORDINATOR:
            raise BadInput(f"no request {name!r} in an infer job", field="name")


class DataSilo(Party):
    """The silo with the rows. Predictions are written here and go nowhere."""

    def __init__(self, context: SiloContext) -> None:
        super().__init__(context)
        self._predictions = Predictions(
            context.directory,
            context.facts.dataset.class_names,
            encrypted=self.spec.mode == "ckks",
        )

    def answer(self, sender: str, name: str, round: int, body: bytes) -> bytes | None:
        """Have a batch predicted; the coordinator hears the same whatever came of it."""
        match sender, name:
            case "coordinator", "offer":
                pass
            case "coordinator", "batch":
                if round >= self._predictions.batches:
                    self._predict(round)
            case "coordinator", "close":
                self._predictions.close(max(0, len(self._part) - self.spec.rows))
            case _:
                return self.unknown(sender, name)
        return b""

    def ask(self, name: str, round: int, body: bytes) -> bytes:
        """Ask the model's silo; what else comes meanwhile was sent before, to an earlier session.

        Raises `ExchangeTimeout` where no answer comes within the job's deadline.
        """
        endpoint, silo = self.context.endpoint, self.spec.roles.model
        endpoint.send(silo, round=round, name=name, body=body)
        until = time.monotonic() + self.spec.deadline
        while (left := until - time.monotonic()) > 0:
            message = endpoint.receive(deadline=left)
            endpoint.acknowledge(message)
            header = message.header
            if (header.sender, header.name, header.round) == (silo, name, round):
                return message.body
        raise ExchangeTimeout(f"no answer from {silo} to {name}", field="deadline", value=silo)

    def released(self, round: int, request: bytes, produce: partial[bytes]) -> bytes:
        """Ask with a batch of rows that leaves by the gate; return the answers."""
        rows = self.context.gate.release(
            "rows",
            round,
            request=request,
            protection=self.spec.protection,
            event=None,
            produce=partial(in_turn, produce),
        )
        return self.ask("rows", round, rows)

    @cached_property
    def _part(self) -> Part:
        return self.context.rows(self.spec.part)

    @cached_property
    def _channel(self) -> _PlainChannel | _EncryptedChannel:
        return _PlainChannel(self) if self.spec.mode == "plain" else _EncryptedChannel(self)

    def _predict(self, batch: int) -> None:
        if batch != self._predictions.batches:
            raise BadInput(f"batch {batch} before those before it", field="batch", value=batch)
        low, high = input_box(self.context.facts.dataset)
        start, places = batch * self.spec.batch_size, self.spec.places(batch)
        features = self._part.features[start : start + places]
        rows = np.tile((low + high) / 2, (places, 1))
        rows[: len(features)] = np.clip(features.reshape(len(features), -1), low, high)
        self._predictions.add(self._channel.predict(batch, rows), len(features))


class _PlainChannel:
    """Rows as they are."""

    def __init__(self, silo: DataSilo) -> None:
        self._silo = silo

    def predict(self, batch: int, rows: Reals) -> Answers:
        """Have rows [n, features] predicted."""
        from safetensors.numpy import save

        dataset = self._silo.context.facts.dataset
        shaped = rows.reshape(len(rows), *dataset.input_shape).astype(np.float32)
        request: bytes = msgpack.packb(["plain", batch])
        answer = self._silo.released(batch, request, partial(save, {"rows": shaped}))
        shape = (len(rows), dataset.n_classes)
        return Answers(array_of(answer, "logits", np.dtype(np.float64), shape))


class _EncryptedChannel:
    """Rows under a key of this session."""

    def __init__(self, silo: DataSilo) -> None:
        from secure.ckks.client import Client
        from secure.ckks.plan import read_plan

        self._silo = silo
        self._session = _next_session(silo.context)
        self._plan = read_plan(silo.ask("plan", self._session, b""))
        self._check_plan()
        self._client = Client(self._plan)
        keys = in_turn(self._client.keys)
        silo.ask("keys", self._session, keys)

    def predict(self, batch: int, rows: Reals) -> Answers:
        """Have rows [n, features] predicted."""
        each = rows_of_request(self._plan.mode, self._plan.slots)
        parts = [rows[start : start + each] for start in range(0, len(rows), each)]
        round = self._session * self._silo.spec.batches + batch
        request: bytes = msgpack.packb(["ckks", round, self._plan.digest])
        answer = self._silo.released(round, request, partial(self._encrypted, parts))
        opened = [self._client.open(part) for part in unpacked(answer, len(parts), "answers")]
        return Answers(
            np.concatenate([part.values for part in opened]),
            np.concatenate([part.certified for part in opened]),
            np.concatenate([part.errors for part in opened]),
        )

    def _encrypted(self, parts: list[Reals]) -> bytes:
        packed: bytes = msgpack.packb([self._client.encrypt(part) for part in parts])
        return packed

    def _check_plan(self) -> None:
        """Refuse a plan for other rows than the schema's, before a row is read."""
        dataset, plan = self._silo.context.facts.dataset, self._plan
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


class ModelSilo(Party):
    """The silo with the model. Of encrypted rows it learns how many messages there are."""

    def answer(self, sender: str, name: str, round: int, body: bytes) -> bytes | None:
        """Get ready, for the coordinator; answer, for the silo with the rows."""
        if sender == COORDINATOR and name == "offer":
            return self._ready(round, body)
        if sender == COORDINATOR and name == "batch":
            return b""
        if sender == COORDINATOR and name == "close":
            for path in (self._keys, self._offered):
                path.unlink(missing_ok=True)
            return b""
        if sender == self.spec.roles.data:
            match name, self._served:
                case "plan", EncryptedServed() as served:
                    return served.compiled.plan.pack()
                case "keys", EncryptedServed() as served:
                    self._take(round)
                    write_durably(self._keys, body)
                    in_turn(served.server.register, body)
                    return b""
                case "rows", served:
                    return self._answers(served, round, body)
        return self.unknown(sender, name)

    def _ready(self, round: int, offered: bytes) -> bytes:
        """Take the model and tell public facts of it; what is wrong is told by code, too."""
        try:
            if offered:
                write_durably(self._offered, offered)
            facts = self._served.facts
            self._take(0)
        except TacitError as error:
            told_of = json.dumps({"error": told(error)}, default=str).encode()
            self.context.endpoint.send(COORDINATOR, round=round, name="offer", body=told_of)
            raise
        return json.dumps({"facts": facts and facts.model_dump()}).encode()

    def _answers(self, served: Served, round: int, rows: bytes) -> bytes:
        if not 0 <= round < self.spec.batches * self.spec.sessions:
            raise BadMessage("rows: of no batch of this job", field="round", value=round)
        self.context.begin()  # answers tell of the model, and so of what it was made from
        return self.context.gate.release(
            "answers",
            round,
            request=rows,
            protection=self.spec.protection,
            event=None,
            produce=partial(in_turn, served.answer, round % self.spec.batches, rows),
        )

    def _take(self, session: int) -> None:
        """Count the rows of a session before any is answered."""
        context = self.context
        if not 0 <= session < SESSIONS:
            raise BadMessage("keys: of no session of this job", field="round", value=session)
        take(
            context.models,
            self.spec.roles.data,
            work=f"{context.job}/{session}",
            rows=self._served.cost(self.spec),
            limit=context.queries,
        )

    @property
    def _offered(self) -> Path:
        return self.context.directory / "offered"

    @property
    def _keys(self) -> Path:
        return self.context.directory / "evaluation.keys"

    @cached_property
    def _served(self) -> PlainServed | EncryptedServed:
        """The model, ready to answer; what a session that died had got is on disk."""
        context, dataset = self.context, self.context.facts.dataset
        if self.spec.model.own is not None:
            path = context.models / f"{self.spec.model.own}.safetensors"
            files = Files.at(path, f"own model {self.spec.model.own!r}")
        else:
            files = Files.unpack(self._offered.read_bytes())
        model = read_model(files, dataset, ours=self.spec.model.own is None)
        if self.spec.mode == "plain":
            return PlainServed(self.spec, model, dataset)
        served = in_turn(EncryptedServed, self.spec, model, dataset)
        if self._keys.exists():
            served.server.register(self._keys.read_bytes())
        return served
