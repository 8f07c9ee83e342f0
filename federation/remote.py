"""The distributed engine, seen from the coordinator: silos that it reaches over an exchange only.

It asks at the silos' desks, one stream for all; answers come on a stream of this process's own, so
that two commands never take each other's. In a job's rounds silos and coordinator speak on the
job's own stream, which is new whenever somebody starts to drive the job: what was under way is
asked again, and gets the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from federation.answers import Hello, read
from federation.attendance import Attendance
from federation.errors import Missing, TacitError, retold
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

_REMOTES = itertools.count()

STOP = "stop"
"""Tells a silo that the coordinator drives a job no more; no kind of job has such a request."""


class Remote(Parties):
    """All silos of a federation, each at its own desk."""

    dispatch: Callable[[str, list[str]], Collection[str]] = staticmethod(lambda job, silos: ())
    """Another way to ask silos to join a job, tried first; it tells whom it has asked."""

    def __init__(self, home: Home, connection: NatsConnection) -> None:
        super().__init__(home)
        self._connection = connection
        self._number = secrets.randbits(40)
        self._calls = _stream_of_this_process()
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
        return _read(silo, self._gather([silo], verb, said, PATIENCE))

    def hello(self, silo: str) -> dict[str, Any]:
        """Whether a silo answers within seconds, and how far its clock is off, in seconds.

        One that answers anything else than the time does not serve.
        """
        asked = time.time()
        came = self._gather([silo], "hello", {}, LOOK)
        try:
            said = read(Hello, silo, _read(silo, came))
        except TacitError:
            return {"serves": False, "clock_offset": None}
        return {"serves": True, "clock_offset": said["time"] - (asked + time.time()) / 2}

    def _gather(
        self, silos: Collection[str], verb: str, said: dict[str, Any], patience: float
    ) -> dict[str, bytes]:
        """Ask silos the same, all at once; the answers of those that gave one in time."""
        until = time.time() + patience
        asked = {"verb": verb, "said": said, "answers": self._calls, "until": int(until)}
        self._number += 1
        for silo in silos:
            self._desk.send(silo, round=self._number, name="ask", body=canonical(asked))
        answers: dict[str, bytes] = {}
        while set(silos) - answers.keys():
            try:
                message = self._answers.receive(deadline=max(until - time.time(), 0.001))
            except ExchangeTimeout:
                break
            self._answers.acknowledge(message)
            if message.header.round == self._number and message.header.sender in silos:
                answers[message.header.sender] = message.body
        return answers

    @contextmanager
    def serve(self, job: str, attendance: Attendance) -> Iterator[Endpoint]:
        """Let silos take part, each in a process of its own; yields the coordinator's end.

        A silo that does not join is gone. When the block ends, by an error too, every silo is told
        to stop, and has done so where it answers.
        """
        silos = attendance.present()
        self._connection.close_job(job)
        self._connection.open_job(job, [*silos, "coordinator"])
        endpoint = self._connection.endpoint(job)
        try:
            unasked = sorted(set(silos) - set(self.dispatch(job, silos)))
            answers = self._gather(unasked, "join", {"job": job}, PATIENCE)
            for silo in unasked:
                try:
                    _read(silo, answers)
                except Missing as error:
                    attendance.lose([silo], error)
            yield _Watched(
                endpoint,
                lambda: self._gather(attendance.present(), "join", {"job": job}, LOOK),
            )
        finally:
            for silo in silos:
                endpoint.send(silo, round=0, name=STOP, body=b"")
            self._gather(silos, "leave", {"job": job}, PATIENCE)
            self._connection.close_job(job)


class _Watched:
    """The coordinator's end of a job; while it waits it looks after the silos' sessions.

    A request that a dead session had fetched goes to the next one, which answers as the first
    would have.
    """

    def __init__(self, endpoint: Endpoint, look: Callable[[], object]) -> None:
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


def _read(silo: str, answers: Mapping[str, bytes]) -> Any:
    """A silo's answer; an error in it is raised, and `Missing` where there is none."""
    if silo not in answers:
        raise Missing(
            f"silo {silo} does not answer; is `tacit silo serve {silo}` running there?",
            field="silo",
            value=silo,
        )
    try:
        document = json.loads(answers[silo])
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and set(document) == {"answer"}:
        return document["answer"]
    if isinstance(document, dict) and set(document) == {"error"}:
        error = document["error"]
        raise retold(error if isinstance(error, dict) else {}, silo)
    raise BadMessage(f"silo {silo} gave an answer that is none", field="silo", value=silo)


def _stream_of_this_process() -> str:
    """A name that no other living process has; what a dead one left is taken up again."""
    mine = f"{socket.gethostname()} {os.getpid()} {next(_REMOTES)}"
    return f"call-{hashlib.blake2b(mine.encode(), digest_size=8).hexdigest()}"
