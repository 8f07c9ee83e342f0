"""The distributed engine, seen from the coordinator: silos that it reaches over an exchange only.

It asks at the silos' desks, one stream for all; answers come on a stream of this process's own, so
that two commands never take each other's. In a job's rounds silos and coordinator speak on the
job's own stream, which is new whenever somebody starts to drive the job: what was under way is
asked again, and gets the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from federation.errors import Missing, retold
from federation.home import Home
from federation.listening import Listening
from federation.parties import Parties
from federation.spec import canonical
from secure.errors import BadMessage, ExchangeTimeout
from secure.exchange.base import Endpoint
from secure.exchange.envelope import Message
from secure.exchange.nats import NatsConnection

DESK = "desk"
"""The stream on which every silo is asked."""

PATIENCE = 120.0
"""Seconds that a silo has to answer a question; a first price may take a while."""

KEPT = 600.0
"""Seconds after which the exchange drops a question or an answer that nobody took."""

LOOK = 5.0
"""Seconds of silence after which silos are asked to join again, in case a session has died."""

STOP = "stop"
"""Tells a silo that the coordinator drives a job no more; no kind of job has such a request."""


class Remote(Parties):
    """All silos of a federation, each at its own desk."""

    def __init__(self, home: Home, connection: NatsConnection) -> None:
        super().__init__(home)
        self._connection = connection
        self._number = secrets.randbits(40)
        self._calls = f"call-{secrets.token_hex(8)}"
        silos = sorted(self.federation.silos)
        connection.open_job(DESK, silos, keep=KEPT)
        connection.open_job(self._calls, ["coordinator"], keep=KEPT)
        self._desk = connection.endpoint(DESK)
        self._answers = Listening(connection.endpoint(self._calls), silos)

    def close(self) -> None:
        """Take the stream of answers away; whoever made the connection closes it."""
        self._connection.close_job(self._calls)

    def call(self, silo: str, verb: str, **said: Any) -> Any:
        """Ask one silo and wait for its answer; `Missing` where none comes."""
        return self._call(silo, verb, said, PATIENCE)

    def hello(self, silo: str) -> dict[str, Any]:
        """Whether a silo answers within seconds, and how far its clock is off, in seconds."""
        asked = time.time()
        try:
            said = self._call(silo, "hello", {}, LOOK)
        except Missing:
            return {"serves": False, "clock_offset": None}
        return {"serves": True, "clock_offset": float(said["time"]) - (asked + time.time()) / 2}

    def join(self, job: str, silos: Collection[str]) -> None:
        """Ask silos to join a job again, where their session has died; silence changes nothing."""
        for silo in silos:
            with contextlib.suppress(Missing):
                self._call(silo, "join", {"job": job}, LOOK)

    def _call(self, silo: str, verb: str, said: dict[str, Any], patience: float) -> Any:
        self._number += 1
        until = time.time() + patience
        asked = {"verb": verb, "said": said, "answers": self._calls, "until": int(until)}
        self._desk.send(silo, round=self._number, name="ask", body=canonical(asked))
        while True:
            try:
                message = self._answers.receive(deadline=max(until - time.time(), 0.001))
            except ExchangeTimeout:
                raise Missing(
                    f"silo {silo} does not answer; is `tacit silo serve {silo}` running there?",
                    field="silo",
                    value=silo,
                ) from None
            self._answers.acknowledge(message)
            if (message.header.sender, message.header.round) == (silo, self._number):
                return _read(message.body, silo)

    @contextmanager
    def serve(self, job: str, silos: list[str]) -> Iterator[Endpoint]:
        """Let silos take part, each in a process of its own; yields the coordinator's end.

        When the block ends, by an error too, every silo is told to stop and has done so.
        """
        self._connection.close_job(job)
        self._connection.open_job(job, [*silos, "coordinator"])
        endpoint = self._connection.endpoint(job)
        try:
            for silo in silos:
                self.call(silo, "join", job=job)
            yield _Watched(endpoint, lambda: self.join(job, silos))
        finally:
            for silo in silos:
                endpoint.send(silo, round=0, name=STOP, body=b"")
            for silo in silos:
                self.call(silo, "leave", job=job)
            self._connection.close_job(job)


class _Watched:
    """The coordinator's end of a job; while it waits it looks after the silos' sessions.

    A request that a dead session had fetched goes to the next one, which answers as the first
    would have.
    """

    def __init__(self, endpoint: Endpoint, look: Callable[[], None]) -> None:
        self.party, self.job = endpoint.party, endpoint.job
        self.send, self.acknowledge, self.close = (
            endpoint.send,
            endpoint.acknowledge,
            endpoint.close,
        )
        self._endpoint = endpoint
        self._look = look

    def receive(self, *, deadline: float) -> Message:
        """Wait for the next message, and look after who might send it."""
        until = time.monotonic() + deadline
        while True:
            left = until - time.monotonic()
            try:
                return self._endpoint.receive(deadline=min(max(left, 0.001), LOOK))
            except ExchangeTimeout:
                if left <= LOOK:
                    raise
                self._look()


def _read(body: bytes, silo: str) -> Any:
    """The answer in a message; an error in it is raised."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and set(document) == {"answer"}:
        return document["answer"]
    if isinstance(document, dict) and set(document) == {"error"}:
        error = document["error"]
        raise retold(error if isinstance(error, dict) else {}, silo)
    raise BadMessage(f"silo {silo} gave an answer that is none", field="silo", value=silo)
