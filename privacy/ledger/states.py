"""The words for a charge's life, and the record that the ledger keeps of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from privacy.ledger.filters.amounts import Charge


class State(StrEnum):
    """Where a charge is: reserved -> started -> read -> settled or forfeited, or given back."""

    RESERVED = "reserved"
    RELEASED = "released"
    EXPIRED = "expired"
    STARTED = "started"
    READ = "read"
    SETTLED = "settled"
    FORFEITED = "forfeited"


RUNNING = (State.STARTED, State.READ)
OPEN = (State.RESERVED, *RUNNING)
ACTIVE = (State.RESERVED, State.STARTED, State.READ, State.SETTLED, State.FORFEITED)
"""The states in which a charge counts."""


FREE = "public"
"""The protection of a release that costs nothing: it needs no charge."""


class Stop(StrEnum):
    """Why a job ended; it decides what a settlement may give back."""

    COMPLETED = "completed"
    PUBLIC_LIMIT = "public_limit"
    RELEASED_RESULT = "released_result"
    OTHER_PARTY = "other_party"
    OWN_FAULT = "own_fault"


RETURNING = (Stop.PUBLIC_LIMIT, Stop.RELEASED_RESULT, Stop.OTHER_PARTY)
"""The stops that did not depend on private data beyond what was released."""


@dataclass(frozen=True, slots=True)
class Line:
    """A charge's part in one account: the event and what it was priced at.

    `epsilon`: the account's capacity when it was reserved, on which the price depends under
    `basic`. The line is priced at it ever after, so that a changed capacity changes no charge.
    """

    event: dict[str, Any]
    charge: Charge
    epsilon: float

    def document(self) -> dict[str, Any]:
        """The line as plain data."""
        return {"event": self.event, "epsilon": self.epsilon, **self.charge.document()}

    @classmethod
    def read(cls, data: dict[str, Any]) -> Line:
        """Read plain data."""
        return cls(data["event"], Charge.read(data), float(data["epsilon"]))


@dataclass(frozen=True, slots=True)
class ChargeState:
    """One charge: its key, job, state, and what it takes from each account.

    `lines` hold what counts now (after a settlement, what was settled); `releases` how many
    releases of each name it pays for; `payload` is the digest of the request that the key stands
    for; `reserved_at`, `started_at` and `ended_at` are the numbers of entries.
    """

    key: str
    job: str
    state: State
    digest: str
    payload: str
    refundable: bool
    expires: str
    accountant: str
    lines: dict[str, Line]
    releases: dict[str, int]
    reserved_at: int
    started_at: int | None = None
    ended_at: int | None = None
    go: str | None = None
    stop: str | None = None
    settlement: str | None = None

    @property
    def last(self) -> int:
        """The entry that started it, or that ended it where it has ended."""
        return self.ended_at or self.started_at or self.reserved_at

    def moved(self, state: State, **changes: Any) -> ChargeState:
        """The charge in another state."""
        return replace(self, state=state, **changes)

    def document(self) -> dict[str, Any]:
        """The charge as plain data."""
        return {
            "key": self.key,
            "job": self.job,
            "state": self.state.value,
            "digest": self.digest,
            "payload": self.payload,
            "refundable": self.refundable,
            "expires": self.expires,
            "accountant": self.accountant,
            "lines": {account: line.document() for account, line in self.lines.items()},
            "releases": self.releases,
            "reserved_at": self.reserved_at,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "go": self.go,
            "stop": self.stop,
            "settlement": self.settlement,
        }

    @classmethod
    def read(cls, data: dict[str, Any]) -> ChargeState:
        """Read plain data."""
        lines = {account: Line.read(line) for account, line in data["lines"].items()}
        return cls(**{**data, "state": State(data["state"]), "lines": lines})
