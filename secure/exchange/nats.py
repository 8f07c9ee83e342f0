"""The exchange over NATS: outbound connections only, mutual TLS, a user per party, no clear text.

A job is one JetStream stream on disk, `tacit-JOB`, over `tacit.FEDERATION.JOB.FROM.TO`; a party
reads from its own durable, the consumer that bears its name and filters by `TO`. The coordinator
makes and deletes both; a silo has no right but to publish where it is `FROM`, and to fetch from and
acknowledge its own durable. The server keeps every chunk until it is acknowledged, through the
death of either side and of itself.

Each message is an envelope as in `secure.exchange.envelope`, sealed to its receiver and cut into
chunks: the server, and whoever runs it, sees who writes to whom, when, and how much.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from secure.errors import ExchangeClosed, ExchangeMissing, KeyFileError
from secure.exchange import transport
from secure.exchange.chunks import CHUNK
from secure.exchange.nats_endpoint import PATIENCE, NatsEndpoint, token
from secure.keys import SigningKey

T = TypeVar("T")

ACK_WAIT = 5.0
"""Seconds after which the server sends again what was fetched and not acknowledged."""

_PAUSE = 0.2


logging.getLogger("asyncio").addFilter(lambda r: "eof_received() has no effect" not in r.msg)
"""The client returns true where TLS ignores it; at every close asyncio would say so."""


@dataclass(frozen=True)
class Access:
    """How a party gets to the server: its address, the CA to believe, and its two credentials.

    `seed` is the file of its NKEY seed, `certificate` that of its certificate and the key of it.
    """

    url: str
    authority: Path
    seed: Path
    certificate: Path


class NatsConnection:
    """One party's connection to its federation's server. It comes back by itself when it is lost.

    `keys` are the public keys of all members, the coordinator included. Raises `ExchangeMissing`
    where no server of this federation answers, and says why.
    """

    def __init__(
        self, access: Access, *, federation: str, party: str, key: SigningKey, keys: dict[str, str]
    ) -> None:
        self.federation = federation
        self.party = party
        self.key = key
        self.keys = keys
        self._refused = False
        self._ends: set[NatsEndpoint] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)
        self._thread.start()
        try:
            self._client: Client = self.run(self._connect(access))
        except BaseException:
            self._stop()
            raise
        self.jetstream: JetStreamContext = self._client.jetstream()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the connection's own thread and wait for it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise ExchangeClosed("the connection to the exchange was closed") from None
        except BaseException:
            future.cancel()
            raise

    def check(self) -> None:
        """Raise `ExchangeClosed` where the connection will not come back: closed, or revoked."""
        if self._refused or self._client.is_closed:
            raise ExchangeClosed(
                "the exchange has closed this connection for good: it knows no such user any more"
            )

    def endpoint(self, job: str, *, patience: float | None = None) -> NatsEndpoint:
        """Open this party's end of a job; `patience`: seconds for which a message is offered."""
        end = NatsEndpoint(self, job, PATIENCE if patience is None else patience)
        self._ends.add(end)
        return end

    def let_go(self, end: NatsEndpoint) -> None:
        """Forget an end that was closed."""
        self._ends.discard(end)

    def open_job(self, job: str, parties: Collection[str], *, keep: float | None = None) -> None:
        """Make a job's stream and each party's durable; the coordinator's right alone.

        With `keep`, a message that nobody took is dropped after so many seconds.
        """
        self.run(self._managed(lambda: self._open_job(job, parties, keep), job))

    def close_job(self, job: str) -> None:
        """Delete a job's stream with all that is still in it; the coordinator's right alone."""
        self.run(self._managed(lambda: self._close_job(job), job))

    def subject(self, job: str, sender: str, receiver: str) -> str:
        """The subject of what one party sends another in a job."""
        return ".".join(["tacit", *map(token, (self.federation, job, sender, receiver))])

    @staticmethod
    def stream(job: str) -> str:
        """The name of a job's stream."""
        return f"tacit-{token(job)}"

    def close(self) -> None:
        """Close the connection; endpoints that still wait get `ExchangeClosed`."""
        if self._thread.is_alive():
            self.run(self._close())
            self._stop()

    async def _close(self) -> None:
        for end in self._ends:
            await end.finish()
        with contextlib.suppress(OSError, NatsError):  # it was lost, and closing found that out
            await self._client.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _connect(self, access: Access) -> Client:
        if access.seed.stat().st_mode & 0o077:
            raise KeyFileError(
                f"{access.seed}: others can read it; run chmod 600", field="seed", allowed="0600"
            )
        tls = transport.context(access.authority, access.certificate, self.party)
        first: asyncio.Future[Exception] = self._loop.create_future()

        async def told(error: Exception) -> None:
            """Keep why the first connection failed; later ones come back, unless refused."""
            if transport.is_refusal(error):
                self._refused = True
                for end in list(self._ends):
                    await end.finish()
            if not first.done():
                first.set_result(error)

        connecting = asyncio.ensure_future(
            nats.connect(
                access.url,
                name=self.party,
                tls=tls,
                tls_handshake_first=True,
                nkeys_seed_str=access.seed.read_text().strip(),
                inbox_prefix=f"_INBOX_{token(self.party)}".encode(),
                max_reconnect_attempts=-1,
                reconnect_time_wait=_PAUSE,
                error_cb=told,
            )
        )
        either: set[asyncio.Future[Any]] = {connecting, first}
        await asyncio.wait(either, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done() and connecting.exception() is None:
            return connecting.result()
        error: BaseException | None = first.result() if first.done() else None
        if error is None and connecting.done():
            error = connecting.exception()
        connecting.cancel()
        why = transport.told(error) if error else "no answer within 10 s"
        if error is None or isinstance(error, ConnectionRefusedError | TimeoutError):
            why += "; is it up? `tacit up` at the coordinator starts it"
        raise ExchangeMissing(f"no exchange at {access.url}: {why}", field="url", value=access.url)

    async def _managed(self, work: Callable[[], Coroutine[Any, Any, None]], job: str) -> None:
        """Make or delete streams, again where the server is away for a while."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return await work()
            except NatsError as error:
                if time.monotonic() > until:
                    raise ExchangeClosed(
                        f"the exchange cannot open or close job {job}: {type(error).__name__}",
                        field="job",
                        value=job,
                    ) from None
            await asyncio.sleep(_PAUSE)

    async def _open_job(self, job: str, parties: Collection[str], keep: float | None) -> None:
        stream = self.stream(job)
        await self.jetstream.add_stream(
            StreamConfig(
                name=stream,
                subjects=[self.subject(job, "*", "*")],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                discard=DiscardPolicy.NEW,
                max_msg_size=CHUNK + 1024,
                max_age=keep,
                duplicate_window=2 * PATIENCE,
            )
        )
        for party in parties:
            await self.jetstream.add_consumer(
                stream,
                ConsumerConfig(
                    durable_name=token(party),
                    filter_subject=self.subject(job, "*", party),
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=ACK_WAIT,
                    max_ack_pending=100_000,
                ),
            )

    async def _close_job(self, job: str) -> None:
        try:
            await self.jetstream.delete_stream(self.stream(job))
        except NotFoundError:
            return
