"""The back ends of the exchange: in memory, and over a real NATS server with TLS and its rights."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra import certificates
from infra.nats import Server, configuration, make_seed
from infra.process import free_port
from secure.exchange.memory import MemoryExchange
from secure.exchange.nats import Access, NatsConnection
from secure.exchange.sealing import seal_for
from secure.keys import SigningKey

PARTIES = ("coordinator", "north", "south")
KEYS = {name: SigningKey.generate() for name in PARTIES}
PUBLIC = {name: key.public for name, key in KEYS.items()}
FEDERATION = "fed.one"
_jobs = itertools.count()


class Memory:
    """A job in memory."""

    patience = 0.0

    def __init__(self) -> None:
        self.job = f"job.{next(_jobs)}"
        self._hub = MemoryExchange(FEDERATION, self.job, PUBLIC)

    def open(self, party: str) -> Any:
        return self._hub.endpoint(party, KEYS[party])

    def put(self, sender: str, receiver: str, packed: bytes) -> None:
        """Deliver bytes that no endpoint made."""
        self._hub.inbox(receiver).put(packed)


@dataclass
class Stack:
    """A running server and how each party gets to it."""

    directory: Path
    server: Server
    access: dict[str, Access]

    def connect(self, party: str, **changes: Any) -> NatsConnection:
        access = Access(**(vars(self.access[party]) | changes))
        return NatsConnection(
            access, federation=FEDERATION, party=party, key=KEYS[party], keys=PUBLIC
        )


class Nats:
    """A job over NATS, with a connection for each party."""

    patience = 1.0  # after which the server sends again

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.job = f"job.{next(_jobs)}"
        self.connections = {party: stack.connect(party) for party in PARTIES}
        self.connections["coordinator"].open_job(self.job, PARTIES)

    def open(self, party: str) -> Any:
        return self.connections[party].endpoint(self.job)

    def put(self, sender: str, receiver: str, packed: bytes) -> None:
        """Seal and send bytes as a user of the server, whatever they say."""
        end = self.connections[sender].endpoint(self.job)
        self.connections[sender].run(end._send(receiver, seal_for(PUBLIC[receiver], packed)))

    def close(self) -> None:
        self.connections["coordinator"].close_job(self.job)
        for connection in self.connections.values():
            connection.close()


def certify(directory: Path, party: str, **how: Any) -> Path:
    """A party's certificate and key in one file, issued by the authority in a directory."""
    asked, target = directory / f"{party}.asked", directory / f"{party}.pem"
    issued = certificates.issue_client(
        directory, party, certificates.make_request(asked, party), **how
    )
    certificates.install(asked, issued, (directory / "ca.pem").read_text(), party, target)
    return target


def start_stack(directory: Path) -> Stack:
    """Certificates, users and a running server."""
    certificates.make_authority(directory, FEDERATION)
    certificates.issue_server(directory, ["localhost", "127.0.0.1"])
    users = {party: make_seed(directory / f"{party}.nk") for party in PARTIES}
    port = free_port()
    config = directory / "nats.json"
    config.write_text(
        configuration(FEDERATION, users, directory=directory, port=port, certificates=directory)
    )
    server = Server(config, directory / "nats.log")
    url = f"tls://127.0.0.1:{port}"
    access = {
        p: Access(url, directory / "ca.pem", directory / f"{p}.nk", certify(directory, p))
        for p in PARTIES
    }
    return Stack(directory, server, access)
