"""What every kind of job is given and gives back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

import msgpack
from pydantic import TypeAdapter

from federation.errors import BadInput, JobFailed
from federation.schema import Dataset
from federation.settings import Sizes
from federation.spec import JobSpec
from privacy.events import Event, Relation, Unit
from privacy.events import parse as parse_event
from privacy.ledger import Stop
from secure.errors import ExchangeTimeout
from secure.exchange.base import Endpoint
from secure.exchange.envelope import Signer

if TYPE_CHECKING:
    from federation.attendance import Attendance
    from federation.release import Gate
    from federation.sources.rows import Part

P = ParamSpec("P")
T = TypeVar("T")

FAULT = re.compile(r"[A-Z][A-Z-]{1,30}(-[0-9]{3})?")
"""What the code of a fault looks like; a silo may have sent anything."""


_TURN = threading.Lock()


def in_turn(work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Do a silo's work while no other silo of this process does its own.

    Threads that all run small operations lose more time handing the interpreter to one another
    than they gain. What waits for a disk or a message does so outside, beside others' work. A silo
    with a process of its own never waits here.
    """
    with _TURN:
        return work(*args, **named)


@dataclass(frozen=True)
class AccountFacts:
    """The public terms of one account of a source."""

    id: str
    unit: Unit
    relation: Relation
    delta: float
    filter: str
    delta0: float = 0.0


@dataclass(frozen=True)
class PartyFacts:
    """What everybody may know of a silo that takes part: enough to price a job, no row."""

    silo: str
    source: str
    dataset: Dataset
    sizes: Sizes
    accounts: tuple[AccountFacts, ...]

    def account(self, unit: Unit) -> AccountFacts:
        """The account of this source in `unit`; `BadInput` where the silo keeps none."""
        for account in self.accounts:
            if account.unit == unit:
                return account
        units = [account.unit.value for account in self.accounts]
        raise BadInput(
            f"privacy.unit: silo {self.silo} keeps no account of source {self.source} per "
            f"{unit.value}; it has: {', '.join(units) or 'none'}",
            field="privacy.unit",
            value=unit.value,
            allowed=units,
        )


FACTS = TypeAdapter(PartyFacts)
"""Facts as they travel and are kept: plain data."""


@dataclass(frozen=True)
class PartyQuote:
    """What a job will cost one silo: the event in the job's unit, and the plan that gives it.

    `plan` holds the frozen numbers of the mechanism (noise multipliers, rates), plain JSON;
    `releases` how many releases of each name the event pays for: the silo's gate lets out no more,
    whatever the coordinator asks.
    To tell what would fit, `family` gives the event at another noise multiplier and number of
    rounds, and `asking` the event of the same job with another epsilon (None: with this noise) and
    number of rounds. The first is None where the noise does not scale, both where there is none.
    """

    silo: str
    unit: Unit
    delta: float
    event: Event
    plan: Mapping[str, Any]
    releases: Mapping[str, int]
    refundable: bool
    family: Callable[[float, int], Event] | None = field(default=None, compare=False, repr=False)
    asking: Callable[[float | None, int], Event] | None = field(
        default=None, compare=False, repr=False
    )

    def document(self) -> dict[str, Any]:
        """The quote as plain JSON, the part that is signed and hashed."""
        return {
            "silo": self.silo,
            "unit": self.unit.value,
            "delta": self.delta,
            "event": self.event.model_dump(mode="json"),
            "plan": dict(self.plan),
            "releases": dict(self.releases),
            "refundable": self.refundable,
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> PartyQuote:
        """The quote that a document states, frozen as it was: it scales to no other noise."""
        return cls(
            silo=document["silo"],
            unit=Unit(document["unit"]),
            delta=document["delta"],
            event=parse_event(document["event"]),
            plan=document["plan"],
            releases=document["releases"],
            refundable=document["refundable"],
        )


@dataclass(frozen=True)
class Outcome:
    """What the coordinator has at the end: released numbers and public files only.

    `seconds`: what the rounds took, over all attempts at the job. `details` are flat facts by name
    and `text` lines of Markdown, for kinds that measure something else than `metrics`.
    """

    metrics: dict[str, Any]
    curve: list[dict[str, float]]
    rounds: int
    stopped_early: bool
    model: Path | None
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)
    text: tuple[str, ...] = ()


@dataclass
class SiloContext:
    """What a party works with. `rows` records the first read in the ledger before it reads.

    `begin` does the same where a party reads no row and yet something leaves.

    `members` are the identity keys of the silos that take part and `sizes` what each declares;
    `directory` is where this one keeps what is its own in this job. `models` is where its owner
    keeps models for others to ask, and `queries` how many rows of each silo they predict.
    """

    federation: str
    job: str
    role: str
    spec: Any
    quote: PartyQuote
    facts: PartyFacts
    endpoint: Endpoint
    gate: Gate
    secret: bytes
    signer: Signer
    members: Mapping[str, str]
    sizes: Mapping[str, Sizes]
    directory: Path
    rows: Callable[[str], Part]
    deadline: float
    models: Path = Path("models")
    queries: int = 0
    begin: Callable[[], None] = lambda: None


@dataclass
class CoordinatorContext:
    """What the coordinator works with; `members` are the identity keys of the silos.

    `deadline` is how many seconds a silo has for an answer.
    """

    federation: str
    job: str
    spec: Any
    quotes: Mapping[str, PartyQuote]
    facts: Mapping[str, PartyFacts]
    members: Mapping[str, str]
    endpoint: Endpoint
    attendance: Attendance
    directory: Path
    progress: Callable[[int, int], None]
    deadline: float

    def ask(self, name: str, round: int, body: bytes | Mapping[str, bytes]) -> dict[str, bytes]:
        """Send silos one request, or each its own, and gather the answers, by silo name.

        Asked is whoever is present, or has a request of its own. A silo's fault arrives as a code;
        it, and silence beyond the deadline, stop the job (`JobFailed`) where too few are left.
        """
        step = f"{name} {round}"
        asked = [s for s in self.attendance.asked(step) if isinstance(body, bytes) or s in body]
        for silo in asked:
            own = body if isinstance(body, bytes) else body[silo]
            self.endpoint.send(silo, round=round, name=name, body=own)
        awaited, answers = set(asked), dict[str, bytes]()
        until = time.monotonic() + self.deadline
        while awaited:
            try:
                message = self.endpoint.receive(deadline=max(until - time.monotonic(), 0.001))
            except ExchangeTimeout:
                self.attendance.lose(awaited, self._silence(awaited, name, round))
                break
            # A coordinator that dies now asks again, and gets the same bytes.
            self.endpoint.acknowledge(message)
            header = message.header
            if header.name == "fault":  # also of one that has answered, and works for another
                self.attendance.lose([header.sender], _fault(header.sender, message.body))
                awaited.discard(header.sender)
            elif (header.name, header.round) == (name, round) and header.sender in awaited:
                answers[header.sender] = message.body
                awaited.remove(header.sender)
        self.attendance.close(step, answers)
        return {silo: answers[silo] for silo in asked if silo in answers}

    def tell(self, name: str, round: int) -> None:
        """Send every silo that is present a notice that needs no answer."""
        for silo in self.attendance.present():
            self.endpoint.send(silo, round=round, name=name, body=b"")

    def _silence(self, silos: Collection[str], name: str, round: int) -> JobFailed:
        silent = ", ".join(sorted(silos))
        return JobFailed(
            f"no answer from {silent} to {name} of round {round} within {self.deadline:g} s",
            field="deadline",
            value=silent,
        )


def _fault(silo: str, body: bytes) -> JobFailed:
    return JobFailed(
        f"silo {silo} stopped with {_code(body)}; its own log says why", field="silo", value=silo
    )


def _code(body: bytes) -> str:
    """The code of a silo's fault; whatever else it sent is not repeated."""
    try:
        code = msgpack.unpackb(body)
    except (ValueError, msgpack.exceptions.UnpackException):
        code = None
    known = isinstance(code, str) and FAULT.fullmatch(code)
    return str(code) if known else "a fault that has no code"


class JobKind(Protocol):
    """A module of `federation.jobs`."""

    Spec: type[JobSpec]

    @staticmethod
    def quote(spec: Any, facts: Mapping[str, PartyFacts]) -> dict[str, PartyQuote]:
        """Price the job at every silo."""
        ...

    @staticmethod
    def coordinate(context: CoordinatorContext) -> Outcome:
        """Run the coordinator's part."""
        ...

    @staticmethod
    def participate(context: SiloContext) -> Stop:
        """Run one party's part; tell why it ended."""
        ...
