"""The exchange inside one process: a queue per party, with real envelopes.

The embedded engine uses it; signatures are checked as they are between machines, so a message
that would be refused there is refused here.
"""

from __future__ import annotations

import queue

from secure.errors import ExchangeClosed, ExchangeTimeout
from secure.exchange.envelope import Header, Message, Signer, open_envelope, seal


class MemoryExchange:
    """The hub: knows the federation and every member's public key."""

    def __init__(self, federation: str, keys: dict[str, str]) -> None:
        self.federation = federation
        self.keys = keys
        self._queues: dict[str, queue.SimpleQueue[bytes | None]] = {}

    def endpoint(self, party: str, key: Signer) -> MemoryEndpoint:
        """Open the end of `party`; messages sent to it before are kept."""
        return MemoryEndpoint(self, party, key)

    def queue(self, party: str) -> queue.SimpleQueue[bytes | None]:
        """The queue of `party`, made on first use."""
        return self._queues.setdefault(party, queue.SimpleQueue())


class MemoryEndpoint:
    """One party's end of a `MemoryExchange`."""

    def __init__(self, hub: MemoryExchange, party: str, key: Signer) -> None:
        self.party = party
        self._hub = hub
        self._key = key
        self._closed = False

    def send(self, receiver: str, *, job: str, round: int, name: str, body: bytes) -> None:
        """Sign and put into the receiver's queue."""
        if receiver not in self._hub.keys:
            raise ExchangeClosed(f"no member {receiver}", field="receiver", value=receiver)
        header = Header(self._hub.federation, job, round, name, self.party, receiver)
        self._hub.queue(receiver).put(seal(header, body, self._key))

    def receive(self, *, deadline: float) -> Message:
        """Wait for the next valid message."""
        if self._closed:
            raise ExchangeClosed("this end is closed")
        try:
            packed = self._hub.queue(self.party).get(timeout=deadline)
        except queue.Empty:
            raise ExchangeTimeout(
                f"no message within {deadline:g} s", field="deadline", value=deadline
            ) from None
        if packed is None:
            raise ExchangeClosed("this end was closed while it waited")
        return open_envelope(
            packed, self._hub.keys, federation=self._hub.federation, receiver=self.party
        )

    def close(self) -> None:
        """Wake whoever waits here."""
        self._closed = True
        self._hub.queue(self.party).put(None)
