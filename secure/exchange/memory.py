"""The exchange inside one process: an inbox per party, with real envelopes.

The embedded engine uses it; signatures are checked as they are between machines, so a message
that would be refused there is refused here. Nothing is sealed: the bytes never leave the process.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from secure.errors import ExchangeClosed, ExchangeTimeout
from secure.exchange.envelope import Header, Message, Signer, open_envelope, seal


class _Inbox:
    """Packed messages in order, each kept until it is acknowledged."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting: deque[tuple[int, bytes]] = deque()
        self.held: dict[int, bytes] = {}
        self._count = 0

    def put(self, packed: bytes) -> None:
        with self.changed:
            self.waiting.append((self._count, packed))
            self._count += 1
            self.changed.notify_all()

    def reopen(self) -> None:
        """Put back, in order, what was received and never acknowledged."""
        with self.changed:
            self.waiting.extendleft(sorted(self.held.items(), reverse=True))
            self.held.clear()


class MemoryExchange:
    """The hub of one job: knows the federation and every party's public key."""

    def __init__(self, federation: str, job: str, keys: dict[str, str]) -> None:
        self.federation = federation
        self.job = job
        self.keys = keys
        self._inboxes = {party: _Inbox() for party in keys}

    def endpoint(self, party: str, key: Signer) -> MemoryEndpoint:
        """Open the end of `party`; messages sent to it before are kept."""
        inbox = self.inbox(party)
        inbox.reopen()
        return MemoryEndpoint(self, party, key, inbox)

    def inbox(self, party: str) -> _Inbox:
        """The inbox of `party`; `ExchangeClosed` where it is none."""
        try:
            return self._inboxes[party]
        except KeyError:
            raise ExchangeClosed(f"no party {party}", field="receiver", value=party) from None


class MemoryEndpoint:
    """One party's end of a `MemoryExchange`."""

    def __init__(self, hub: MemoryExchange, party: str, key: Signer, inbox: _Inbox) -> None:
        self.party = party
        self.job = hub.job
        self._hub = hub
        self._key = key
        self._inbox = inbox
        self._closed = False

    def send(self, receiver: str, *, round: int, name: str, body: bytes) -> None:
        """Sign and put into the receiver's inbox."""
        inbox = self._hub.inbox(receiver)
        header = Header(self._hub.federation, self.job, round, name, self.party, receiver)
        inbox.put(seal(header, body, self._key))

    def receive(self, *, deadline: float) -> Message:
        """Wait for the next valid message."""
        until = time.monotonic() + deadline
        with self._inbox.changed:
            while not self._closed and not self._inbox.waiting:
                if not self._inbox.changed.wait(until - time.monotonic()):
                    break
            if self._closed:
                raise ExchangeClosed("this end is closed")
            if not self._inbox.waiting:
                raise ExchangeTimeout(
                    f"no message within {deadline:g} s", field="deadline", value=deadline
                )
            number, packed = self._inbox.waiting.popleft()
        message = open_envelope(
            packed,
            self._hub.keys,
            federation=self._hub.federation,
            job=self.job,
            receiver=self.party,
            ticket=number,
        )
        self._inbox.held[number] = packed
        return message

    def acknowledge(self, message: Message) -> None:
        """Forget a message."""
        self._inbox.held.pop(message.ticket, None)

    def close(self) -> None:
        """Wake whoever waits here."""
        with self._inbox.changed:
            self._closed = True
            self._inbox.changed.notify_all()
