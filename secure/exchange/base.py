"""The exchange: how the parties of a job reach each other.

An `Endpoint` belongs to one party in one job. `send` signs and delivers; `receive` returns the
next message whose signature, federation, job and receiver agree. A message is kept until it is
acknowledged: a party that died before it did so gets it again when it opens its end anew, so
whoever receives must bear to see a message twice. Every back end passes the suite in
tests/secure/exchange.
"""

from __future__ import annotations

from typing import Protocol

from secure.exchange.envelope import Message


class Endpoint(Protocol):
    """One party's end of the exchange in one job."""

    party: str
    job: str

    def send(self, receiver: str, *, round: int, name: str, body: bytes) -> None:
        """Sign and deliver a message; `ExchangeClosed` where the receiver is no party or gone."""
        ...

    def receive(self, *, deadline: float) -> Message:
        """Wait up to `deadline` seconds for the next valid message.

        Raises `ExchangeTimeout`; `ExchangeClosed` where this end was closed; `BadMessage` or
        `BadSignature` for a message that is not valid, which will not come again.
        """
        ...

    def acknowledge(self, message: Message) -> None:
        """Tell that a message was dealt with: it will not come again."""
        ...

    def close(self) -> None:
        """Stop receiving; those who wait are told."""
        ...
