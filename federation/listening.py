"""A party's ear in one job: what does not belong to the job is dropped, and costs nobody anything.

Whoever reaches the transport can send bytes. An envelope that is forged, malformed, of another job
or meant for somebody else, and one from a member who takes no part in this job are noted and
skipped, so that no stranger ends a session and with it forfeits a charge. A message that was sent
again needs no memory here: the gate answers a request with the bytes it gave before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from secure.errors import BadMessage, BadSignature, ExchangeTimeout
from secure.exchange.base import Endpoint
from secure.exchange.envelope import Message


class Listening:
    """An `Endpoint` that hears one job's parties only; `dropped` is told of what was skipped."""

    def __init__(
        self,
        endpoint: Endpoint,
        parties: Collection[str],
        dropped: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.party, self.job = endpoint.party, endpoint.job
        self._endpoint = endpoint
        self._parties = frozenset(parties)
        self._dropped = dropped

    def send(self, receiver: str, *, round: int, name: str, body: bytes) -> None:
        """Sign and deliver a message."""
        self._endpoint.send(receiver, round=round, name=name, body=body)

    def receive(self, *, deadline: float) -> Message:
        """Wait up to `deadline` seconds, whatever else comes, for the next message of the job."""
        until = time.monotonic() + deadline
        while (left := until - time.monotonic()) > 0:
            try:
                message = self._endpoint.receive(deadline=left)
            except (BadMessage, BadSignature) as error:
                self._dropped(f"{error.code}: {error.message}")
                continue
            if message.header.sender not in self._parties:
                self._dropped("a message from no party of this job")
                self._endpoint.acknowledge(message)
                continue
            return message
        raise ExchangeTimeout(f"no message within {deadline:g} s", field="deadline", value=deadline)

    def acknowledge(self, message: Message) -> None:
        """Tell that a message was dealt with."""
        self._endpoint.acknowledge(message)

    def close(self) -> None:
        """Stop receiving."""
        self._endpoint.close()
