"""The silo with the model, and the node that runs a sealed one.

Of encrypted rows they learn how many messages there are. What a session was sent is on disk until
the job is over, so that one that dies is followed by one that answers as it would have.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

from federation.errors import TacitError, told
from federation.inference.party import COORDINATOR, Party
from federation.inference.quota import take
from federation.inference.sealed import Sealed, check_places
from federation.inference.served import EncryptedServed, Files, PlainServed, read_model
from federation.jobfiles import JobFiles
from federation.jobs.base import in_turn
from privacy.ledger.durable import write_durably
from secure.equivariant import Node
from secure.errors import BadMessage


class ModelSilo(Party):
    """The part of the silo with the model."""

    def answer(self, sender: str, name: str, round: int, body: bytes) -> bytes | None:
        """Get ready, for the coordinator; answer, for the silo with the rows."""
        if sender == COORDINATOR and name == "offer":
            return self._ready(body)
        if sender == COORDINATOR and name == "close":
            for path in (self._keys, self._offered):
                path.unlink(missing_ok=True)
            Sealed.forget(self.context.directory)
        if sender == COORDINATOR and name in ("batch", "close"):
            return b""
        if sender == self.spec.roles.data:
            match name, self._served:
                case "plan", EncryptedServed() as served:
                    return served.compiled.plan.pack()
                case "plan", Sealed() as sealed:
                    return sealed.silo
                case "keys", EncryptedServed() as served:
                    return self._register(round, body, served)
                case "rows", (PlainServed() | EncryptedServed()) as served:
                    return self._predict(round, body, served)
        return self.unknown(sender, name)

    def _ready(self, offered: bytes) -> bytes:
        """Take the model and tell public facts of it, or by code why it cannot be asked.

        The coordinator ends the job on that; the owner finds why in the job's fault.log.
        """
        try:
            if offered:
                write_durably(self._offered, offered)
            served = self._served
            self._take(0)
            if isinstance(served, Sealed) and self.spec.roles.node is not None:
                self.context.begin()
                sealed = self.release("sealed", 0, b"", lambda: served.node)
                node = self.spec.roles.node
                self.context.endpoint.send(node, round=0, name="sealed", body=sealed)
        except TacitError as error:
            JobFiles(self.context.directory).keep_fault(error)
            return json.dumps({"error": told(error)}, default=str).encode()
        facts = None if served.facts is None else served.facts.model_dump(mode="json")
        return json.dumps({"facts": facts}).encode()

    def _register(self, session: int, keys: bytes, served: EncryptedServed) -> bytes | None:
        """Count a session's rows and take its keys; those of an earlier one came late."""
        if session < self._session:
            return None
        self._take(session)
        write_durably(self._keys, bytes([session]) + keys)
        in_turn(served.server.register, keys)
        return b""

    def _predict(
        self, round: int, rows: bytes, served: PlainServed | EncryptedServed
    ) -> bytes | None:
        """Answer rows whose session is counted, whoever spoke first; late ones get no answer."""
        session = round // self.spec.batches
        if isinstance(served, EncryptedServed):
            if session > self._session:
                raise BadMessage(
                    "rows: of a session whose keys did not come", field="round", value=round
                )
            if session < self._session:
                return None
        self._take(session)
        return self.answers(round, rows, served.answer)

    def _take(self, session: int) -> None:
        """Count the rows of a session, once, before any is answered."""
        context, served = self.context, self._served
        if not 0 <= session < self.spec.sessions:
            raise BadMessage("a message of no session of this job", field="round", value=session)
        take(
            context.models,
            self.spec.roles.data,
            work=f"{context.job}/{session}",
            rows=served.cost if isinstance(served, EncryptedServed) else self.spec.rows,
            limit=context.queries,
        )

    @property
    def _offered(self) -> Path:
        return self.context.directory / "offered"

    @property
    def _keys(self) -> Path:
        """Where the number of a session is, and its evaluation keys."""
        return self.context.directory / "evaluation.keys"

    @property
    def _session(self) -> int:
        """The last session whose keys came; -1 where none did."""
        if not self._keys.exists():
            return -1
        with self._keys.open("rb") as file:
            return file.read(1)[0]

    @cached_property
    def _served(self) -> PlainServed | EncryptedServed | Sealed:
        """The model, ready to answer."""
        context, dataset = self.context, self.context.facts.dataset
        if self.spec.model.own is not None:
            path = context.models / f"{self.spec.model.own}.safetensors"
            files = Files.at(path, f"own model {self.spec.model.own!r}")
        else:
            files = Files.unpack(self._offered.read_bytes())
        model = read_model(files, dataset, ours=self.spec.model.own is None)
        if self.spec.mode == "plain":
            return PlainServed(self.spec, model, dataset)
        if self.spec.mode == "equivariant":
            return in_turn(Sealed.made, context, model)
        served = in_turn(EncryptedServed, self.spec, model, dataset)
        if self._keys.exists():
            served.server.register(self._keys.read_bytes()[1:])
        return served


class NodeSilo(Party):
    """The part of the node: it runs a sealed model on sealed rows."""

    def answer(self, sender: str, name: str, round: int, body: bytes) -> bytes | None:
        """Take the sealed model from its owner; answer the silo with the rows."""
        roles = self.spec.roles
        if sender == COORDINATOR and name in ("offer", "batch", "close"):
            if name == "close":
                self._sealed.unlink(missing_ok=True)
            return b""
        if (sender, name) == (roles.model, "sealed"):
            write_durably(self._sealed, body)
            return None
        if (sender, name) == (roles.data, "rows"):
            return self.answers(round, body, self._run)
        return self.unknown(sender, name)

    def _run(self, batch: int, rows: bytes) -> bytes:
        """Run the places of a batch and no more: those are what the model's owner counted."""
        check_places(rows, self.spec.places(batch))
        return self._node.run(rows)

    @property
    def _sealed(self) -> Path:
        return self.context.directory / "sealed.model"

    @cached_property
    def _node(self) -> Node:
        members, roles = self.context.members, self.spec.roles
        return Node(
            self._sealed.read_bytes(),
            me=members[self.context.facts.silo],
            owner=members[roles.model],
        )
