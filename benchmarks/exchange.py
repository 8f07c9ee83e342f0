"""What a large message over the exchange costs beside the parts that it cannot do without.

A model of 50 MB goes from one party to another through a real NATS server on this machine, with
TLS, streams on disk and the rights of both; ours as jobs send it: signed, sealed, in chunks with
checksums, kept until it is acknowledged. Beside it, on the same connections and in the same
stream, the same bytes as bare JetStream messages of 1 MiB, fetched and acknowledged; one seal, one
open, and one durable write. Claims:

- the median of ours over the sum of the others is at most 1.5, by the 95 % bound of pairs.

`--quick` sends 5 MB.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from _common import Claims, main, median_bounds, say

from federation.access import connect
from federation.init import init_example
from infra.exchange import make_exchange
from infra.nats import Server
from secure.exchange.nats import NatsConnection
from secure.exchange.nats_endpoint import token
from secure.exchange.sealing import seal_for, unseal
from secure.keys import SigningKey

PIECE = 1 << 20
WINDOW = 32
JOB, FROM, TO = "benchmark", "coordinator", "silo-1"


class Wire:
    """A job's stream and both ends of it."""

    def __init__(self, sender: NatsConnection, receiver: NatsConnection) -> None:
        self._sender, self._receiver = sender, receiver
        sender.open_job(JOB, (FROM, TO))
        self._ends = sender.endpoint(JOB), receiver.endpoint(JOB)

    def ours(self, body: bytes) -> float:
        """Seconds from sending a message until it was opened and acknowledged."""
        out, inward = self._ends
        begun = time.perf_counter()
        sending = threading.Thread(target=out.send, args=(TO,), kwargs=_said(body))
        sending.start()
        message = inward.receive(deadline=300)
        inward.acknowledge(message)
        sending.join()
        taken = time.perf_counter() - begun
        if message.body != body:
            raise RuntimeError("another message than was sent")
        return taken

    def bare(self, body: bytes) -> float:
        """Seconds for the same bytes as bare JetStream messages."""
        begun = time.perf_counter()
        sending = threading.Thread(target=self._sender.run, args=(self._publish(body),))
        sending.start()
        got = self._receiver.run(self._fetch(len(body)))
        sending.join()
        taken = time.perf_counter() - begun
        if got != len(body):
            raise RuntimeError("not as many bytes as were sent")
        return taken

    async def _publish(self, body: bytes) -> None:
        stream, view = self._sender.jetstream, memoryview(body)
        subject = self._sender.subject(JOB, FROM, TO)
        pieces = [bytes(view[at : at + PIECE]) for at in range(0, len(body), PIECE)]
        for start in range(0, len(pieces), WINDOW):
            sent = [await stream.publish_async(subject, p) for p in pieces[start : start + WINDOW]]
            for future in sent:
                await future

    async def _fetch(self, size: int) -> int:
        pull = await self._receiver.jetstream.pull_subscribe_bind(
            token(TO), self._receiver.stream(JOB)
        )
        got = 0
        while got < size:
            left = -(-(size - got) // PIECE)
            for message in await pull.fetch(min(left, WINDOW), 60):
                got += len(message.data)
                await message.ack()
        await pull.unsubscribe()
        return got


def _said(body: bytes) -> dict[str, object]:
    return {"round": 0, "name": "model", "body": body}


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _written(path: Path, body: bytes) -> None:
    with path.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


def measure(claims: Claims, quick: bool) -> None:
    """Pairs of the two, each first in turn."""
    body = os.urandom(5_000_000 if quick else 50_000_000)
    with tempfile.TemporaryDirectory(prefix="tacit-bench-") as directory:
        place = Path(directory)
        home = init_example(place / "home", "breast-cancer", silos=2)
        make_exchange(home)
        exchange = home.coordinator / "exchange"
        server = Server(exchange / "nats.json", exchange / "nats.log")
        keys = SigningKey.load(home.coordinator_key), SigningKey.load(home.silo(TO).key)
        parts: dict[str, list[float]]
        parts = {name: [] for name in ("ours", "transfer", "seal", "open", "durable write")}
        try:
            with connect(home, FROM, keys[0]) as sender, connect(home, TO, keys[1]) as receiver:
                wire = Wire(sender, receiver)
                wire.ours(body), wire.bare(body)
                for number in range(5 if quick else 20):
                    if number % 2:
                        parts["ours"].append(wire.ours(body))
                    parts["transfer"].append(wire.bare(body))
                    sealed = seal_for(keys[1].public, body)
                    parts["seal"].append(_timed(partial(seal_for, keys[1].public, body)))
                    parts["open"].append(_timed(partial(unseal, keys[1], sealed)))
                    parts["durable write"].append(
                        _timed(partial(_written, place / "written", body))
                    )
                    if not number % 2:
                        parts["ours"].append(wire.ours(body))
        finally:
            server.stop()
    ours = parts.pop("ours")
    claims.report("a message of 50 MB", statistics.median(ours), "s")
    for name, seconds in parts.items():
        claims.report(f"its parts: {name}", statistics.median(seconds), "s")
    sums = [sum(each) for each in zip(*parts.values(), strict=True)]
    low, middle, high = median_bounds([a / b for a, b in zip(ours, sums, strict=True)])
    say(f"     over the sum: median {middle:.3f}, bounds {low:.3f} to {high:.3f}")
    claims.at_most("a message of 50 MB over the sum of its parts", high, "x", 1.5)


if __name__ == "__main__":
    main("exchange", measure, __doc__)
