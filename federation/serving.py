"""A silo that serves: it answers at its desk, and takes part in jobs in processes of their own.

Only the coordinator of the membership is heard. A question that is older than it says it may be is
dropped. What a fault says stays in the silo's own log; its code crosses.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from federation import desk
from federation.documents import parse
from federation.errors import TacitError, told
from federation.listening import Listening
from federation.manifest import JobId
from federation.remote import DESK, STOP
from federation.silo import Silo
from secure.errors import ExchangeClosed, ExchangeTimeout
from secure.exchange.base import Endpoint
from secure.exchange.envelope import Message
from secure.exchange.nats import NatsConnection

log = logging.getLogger("tacit.silo")

COORDINATOR = "coordinator"

PATIENCE = 5.0
"""Seconds for which an answer is offered: who asked may have gone."""


class Sessions(Protocol):
    """Where a silo's part of a job runs: in a child process."""

    def join(self, job: str) -> None:
        """See to it that one session of the job is at work."""
        ...

    def leave(self, job: str) -> None:
        """Wait until no session of the job is at work."""
        ...


class Ask(desk.Asked):
    """A question: what is to be done with what, where the answer goes, and how long it stands."""

    verb: str
    said: dict[str, Any]
    answers: JobId
    until: int


class SiloServer:
    """The desk of one silo."""

    def __init__(self, silo: Silo, connection: NatsConnection, sessions: Sessions) -> None:
        self._silo = silo
        self._connection = connection
        self._sessions = sessions
        self._desk = Listening(connection.endpoint(DESK), [COORDINATOR], log.warning)

    def serve(self, running: Callable[[], bool] = lambda: True) -> None:
        """Answer one question after the other while `running`; it is looked at every second."""
        while running():
            try:
                message = self._desk.receive(deadline=1.0)
            except ExchangeTimeout:
                continue
            self._answer(message)
            self._desk.acknowledge(message)

    def _answer(self, message: Message) -> None:
        try:
            asked = parse(json.loads(message.body), Ask, "question")
        except (ValueError, RecursionError, *TacitError):
            log.warning("a question that is none")
            return
        if asked.until < time.time():
            log.warning("a question that nobody waits for any more")
            return
        document: dict[str, Any]
        try:
            document = {"answer": self._done(asked)}
        except Exception as error:
            if not isinstance(error, TacitError):
                log.exception("%s failed", asked.verb)
            document = {"error": told(error)}
        body = json.dumps(document, default=str).encode()
        with contextlib.closing(
            self._connection.endpoint(asked.answers, patience=PATIENCE)
        ) as back:
            try:
                back.send(COORDINATOR, round=message.header.round, name="answer", body=body)
            except ExchangeClosed:
                log.warning("an answer that nobody took")

    def _done(self, asked: Ask) -> Any:
        if asked.verb not in ("join", "leave"):
            return desk.answer(self._silo, asked.verb, asked.said)
        job = parse(asked.said, desk.OfJob, asked.verb).job
        return self._sessions.join(job) if asked.verb == "join" else self._sessions.leave(job)


class Session:
    """A silo's end of one job, which ends where the coordinator says that it drives it no more."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.party, self.job = endpoint.party, endpoint.job
        self._endpoint = endpoint
        self.send, self.acknowledge, self.close = (
            endpoint.send,
            endpoint.acknowledge,
            endpoint.close,
        )

    def receive(self, *, deadline: float) -> Message:
        """Wait for the next message; `ExchangeClosed` where it says stop."""
        message = self._endpoint.receive(deadline=deadline)
        if (message.header.sender, message.header.name) == (COORDINATOR, STOP):
            raise ExchangeClosed("the coordinator drives this job no more")
        return message
