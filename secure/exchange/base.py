"""The exchange: how the parties of a job reach each other.

An `Endpoint` belongs to one party. `send` signs and delivers; `receive` returns the next message
whose signature, federation and receiver agree, or raises `ExchangeTimeout` at the deadline.
Every back end passes the suite in tests/secure/exchange.
"""

from __future__ import annotations

from typing import Protocol

from secure.exchange.envelope import Message


class Endpoint(Protocol):
    """One party's end of the exchange."""

    party: str

    def send(self, receiver: str, *, job: str, round: int, name: str, body: bytes) -> None:
        """Sign and deliver a message; `ExchangeClosed` where the receiver has gone."""
        ...

    def receive(self, *, deadline: float) -> Message:
        """Wait up to `deadline` seconds for the next valid message."""
        ...

    def close(self) -> None:
        """Stop receiving; those who wait are told."""
        ...
