"""One party's end of a job over NATS: sealed chunks out, whole messages in, acknowledged late.

Chunks are fetched only while somebody waits for a message: what a party works on is not sent to it
again meanwhile, however long it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING

import nats
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from secure.errors import BadMessage, ExchangeClosed, ExchangeTimeout
from secure.exchange.chunks import Assembler, Whole, identity, split
from secure.exchange.envelope import Header, Message, open_envelope, seal
from secure.exchange.sealing import seal_for, unseal

if TYPE_CHECKING:
    from secure.exchange.nats import NatsConnection

PATIENCE = 60.0
"""Seconds for which a message is offered to a server that does not answer."""

_TAKEN = 5.0
"""Seconds within which a server that lives says that it has a chunk."""

_WINDOW = 32
"""Chunks under way at a time, in either direction."""

_PULL = 5.0
"""Seconds that a request for the next chunk stands; one that died with the server is over then."""

_PAUSE = 0.2


def token(name: str) -> str:
    """A name as one token of a subject; names have no tilde, so no two share a token."""
    return name.replace(".", "~")


class NatsEndpoint:
    """One party's end of a job over NATS."""

    def __init__(self, connection: NatsConnection, job: str, patience: float) -> None:
        self.party = connection.party
        self.job = job
        self._connection = connection
        self._patience = patience
        self._assembler = Assembler()
        self._whole: deque[tuple[str, Whole]] = deque()
        self._missing = 0
        self._seen: set[bytes] = set()
        self._held: set[bytes] = set()
        self._pull: JetStreamContext.PullSubscription | None = None
        self._closed = asyncio.Event()

    def send(self, receiver: str, *, round: int, name: str, body: bytes) -> None:
        """Sign, seal and hand to the server, which has it on file when this returns."""
        connection = self._connection
        if receiver not in connection.keys:
            raise ExchangeClosed(f"no party {receiver}", field="receiver", value=receiver)
        header = Header(connection.federation, self.job, round, name, self.party, receiver)
        sealed = seal_for(connection.keys[receiver], seal(header, body, connection.key))
        connection.run(self._send(receiver, sealed))

    def receive(self, *, deadline: float) -> Message:
        """Wait for the next valid message."""
        connection = self._connection
        sender, whole = connection.run(self._receive(deadline))
        try:
            message = open_envelope(
                unseal(connection.key, whole.sealed),
                connection.keys,
                federation=connection.federation,
                job=self.job,
                receiver=self.party,
                ticket=whole.tickets,
            )
            if token(message.header.sender) != sender:
                raise BadMessage("a message by another than the user who sent it", field="sender")
        except Exception:
            connection.run(self._forget(whole.tickets))
            raise
        return message

    def acknowledge(self, message: Message) -> None:
        """Let the server forget a message."""
        self._connection.run(self._forget(message.ticket))

    def close(self) -> None:
        """Stop receiving; what was not acknowledged stays with the server."""
        self._connection.run(self.finish())
        self._connection.let_go(self)

    async def _send(self, receiver: str, sealed: bytes) -> None:
        connection, until = self._connection, time.monotonic() + self._patience
        subject = connection.subject(self.job, self.party, receiver)
        window: list[bytes] = []
        for chunk in split(sealed):
            window.append(chunk)
            if len(window) == _WINDOW:
                await self._publish(subject, window, until)
                window = []
        await self._publish(subject, window, until)

    async def _publish(self, subject: str, chunks: list[bytes], until: float) -> None:
        """Publish chunks until the server has all on file; their ids keep it from taking two."""
        publish, stream = (
            self._connection.jetstream.publish_async,
            self._connection.stream(self.job),
        )
        while chunks:
            sent = []
            try:
                for chunk in chunks:
                    once = {"Nats-Msg-Id": identity(chunk).hex()}
                    sent.append(await publish(subject, chunk, stream=stream, headers=once))
                await asyncio.wait(sent, timeout=_TAKEN)
            except NatsError:
                pass
            done = [future.done() and future.exception() is None for future in sent]
            done += [False] * (len(chunks) - len(sent))
            chunks = [chunk for chunk, well in zip(chunks, done, strict=True) if not well]
            if not chunks:
                return
            self._connection.check()
            if time.monotonic() > until:
                raise ExchangeClosed(
                    f"the exchange did not take a message of job {self.job} "
                    f"within {self._patience:g} s",
                    field="job",
                    value=self.job,
                )
            await asyncio.sleep(_PAUSE)

    async def _receive(self, deadline: float) -> tuple[str, Whole]:
        until = time.monotonic() + deadline
        while not self._whole:
            self._connection.check()
            if self._closed.is_set():
                raise ExchangeClosed("this end is closed")
            left = until - time.monotonic()
            if left <= 0:
                raise ExchangeTimeout(
                    f"no message within {deadline:g} s", field="deadline", value=deadline
                )
            for chunk in await self._fetch(left):
                await self._take(chunk)
        return self._whole.popleft()

    async def _fetch(self, left: float) -> list[Msg]:
        """Chunks that are there: one, or as many as the message that has begun still lacks."""
        batch = min(self._missing, _WINDOW) or 1
        work = asyncio.ensure_future(self._pulled(batch, min(left, 1.0 if batch > 1 else _PULL)))
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({work, closed}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else []
        finally:
            work.cancel()
            closed.cancel()

    async def _pulled(self, batch: int, timeout: float) -> list[Msg]:
        connection = self._connection
        try:
            if self._pull is None:
                self._pull = await connection.jetstream.pull_subscribe_bind(
                    token(self.party), connection.stream(self.job)
                )
            return await self._pull.fetch(batch, timeout)
        except nats.errors.TimeoutError:
            self._missing = 0
            return []
        except NatsError:  # the server is away or not ready; the connection comes back by itself
            await asyncio.sleep(_PAUSE)
            return []

    async def _take(self, chunk: Msg) -> None:
        once = identity(chunk.data)
        if once in self._seen:  # sent again, because its acknowledgement is due or was lost
            if once not in self._held:
                await self._forget([chunk])
            return
        sender = chunk.subject.split(".")[-2]
        try:
            whole = self._assembler.add(sender, chunk.data, chunk)
        except BadMessage:
            await self._forget([chunk])
            return
        self._seen.add(once)
        self._held.add(once)
        self._missing = self._assembler.missing(sender)
        await self._forget(self._assembler.overdue(sender))
        if whole is not None:
            self._whole.append((sender, whole))

    async def _forget(self, tickets: list[Msg]) -> None:
        for chunk in tickets:
            self._held.discard(identity(chunk.data))
            with contextlib.suppress(NatsError):  # what is lost here comes again, and is known
                await chunk.ack()

    async def finish(self) -> None:
        """Wake whoever waits, and fetch no more."""
        self._closed.set()
        if self._pull is not None:
            pull, self._pull = self._pull, None
            with contextlib.suppress(NatsError, OSError):
                await pull.unsubscribe()
