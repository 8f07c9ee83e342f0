"""The silos as a coordinator sees them, wherever they are: it asks, and gets plain answers.

`call` and `serve` are what an engine brings: `federation.embedded` has every silo in its own
process, `federation.remote` reaches them over an exchange. What is asked is in `federation.desk`.
An answer of another form than it has to have is `BadMessage` (`federation.answers`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from federation import answers
from federation.attendance import Attendance
from federation.errors import IntegrityError, NotFound
from federation.home import Home
from federation.jobs.base import PartyFacts
from federation.membership import Membership
from federation.spec import JobSpec
from privacy.events import Unit
from privacy.ledger import Receipt
from secure.exchange.base import Endpoint
from secure.keys import SigningKey


class Parties(ABC):
    """All silos of a federation, for whoever holds the coordinator's key."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.federation = home.federation()
        self.membership = Membership.load(home)
        self.membership.check(home)
        self.key = SigningKey.load(home.coordinator_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def call(self, silo: str, verb: str, **said: Any) -> Any:
        """Ask one silo; what it raises is raised here."""

    @abstractmethod
    def serve(self, job: str, attendance: Attendance) -> AbstractContextManager[Endpoint]:
        """Let silos take part in a job; yields the coordinator's end of the exchange.

        When the block ends, by an error too, no silo is at work on the job any more.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of whatever reaches the silos."""

    def facts(self, dataset: str, silos: Collection[str] | None = None) -> dict[str, PartyFacts]:
        """Public facts of the silos with rows of a data set, or of some, in the order of names.

        `IntegrityError` where a silo tells others of itself than the coordinator's federation.yaml
        holds: weights, denominators and the shape of a model follow from these.
        """
        return {silo: self._agreed(silo, dataset) for silo in self.holders(dataset, silos)}

    def holders(self, dataset: str, silos: Collection[str] | None = None) -> tuple[str, ...]:
        """The silos with rows of a data set, or those of `silos`, which may have none.

        `NotFound` where one of these declares nothing of the data set.
        """
        known = self.federation.silos_of(dataset)
        for silo in sorted(silos or ()):
            if silo not in known:
                raise NotFound(
                    f"silo {silo!r} does not take part in jobs on {dataset!r} in this federation; "
                    f"these do: {', '.join(known) or 'none'}",
                    field="silo",
                    value=silo,
                    allowed=list(known),
                )
        return self.federation.silos_with(dataset) if silos is None else tuple(sorted(silos))

    def check_sources(self, dataset: str, silos: Collection[str] | None = None) -> None:
        """Look at the columns of every silo's source, or of some, and at no row."""
        for silo in self.holders(dataset, silos):
            self.call(silo, "check_source", dataset=dataset)

    def price(self, silo: str, spec: JobSpec) -> dict[str, Any]:
        """One silo's line of a quote."""
        line = self.call(silo, "price", spec=spec.model_dump(mode="json"))
        return answers.read(answers.Price, silo, line)

    def what_fits(self, silo: str, spec: JobSpec) -> dict[str, float | int]:
        """The largest epsilon and number of rounds that a silo still admits."""
        fits = self.call(silo, "what_fits", spec=spec.model_dump(mode="json"))
        return answers.read(answers.Fits, silo, fits)

    def balance(self, silo: str, dataset: str, unit: Unit) -> dict[str, Any]:
        """What the account that a job names allows and has left at one silo."""
        balance = self.call(silo, "balance", dataset=dataset, unit=unit.value)
        return answers.read(answers.Balance, silo, balance)

    def consider(self, silo: str, manifest: dict[str, Any]) -> None:
        """Ask one silo whether it would let the job run, budget aside; it raises why not."""
        self.call(silo, "consider", manifest=manifest)

    def standing(self, silo: str, job: str) -> dict[str, Any]:
        """Where a request for approval stands at one silo: `{state, open}`."""
        return answers.read(answers.Standing, silo, self.call(silo, "standing", job=job))

    def reserve(self, silo: str, manifest: dict[str, Any]) -> Receipt:
        """Ask one silo to reserve."""
        receipt = self.call(silo, "reserve", manifest=manifest)
        return answers.receipt(silo, manifest["body"]["job"], receipt)

    def start(self, silo: str, job: str, go: dict[str, Any]) -> Receipt:
        """Start a job at one silo."""
        return answers.receipt(silo, job, self.call(silo, "start", job=job, go=go))

    def settle(self, silo: str, job: str) -> Receipt:
        """Settle a job at one silo."""
        return answers.receipt(silo, job, self.call(silo, "settle", job=job))

    def end(self, silo: str, job: str) -> Receipt | None:
        """End a job at one silo: release a reservation, settle what was started."""
        receipt = self.call(silo, "end", job=job)
        return None if receipt is None else answers.receipt(silo, job, receipt)

    def epsilons(self, silo: str, job: str) -> tuple[float, float]:
        """The price of what a job ran at one silo, and of all that it had planned."""
        return answers.epsilons(silo, self.call(silo, "epsilons", job=job))

    def _agreed(self, silo: str, dataset: str) -> PartyFacts:
        """What a silo tells of itself, where it is what the coordinator has on file."""
        told = answers.facts(silo, self.call(silo, "facts", dataset=dataset))
        sizes, schema = self.federation.silos[silo].sizes[dataset], self.federation.dataset(dataset)
        for field, said, own in (
            ("silo", told.silo if told.silo in self.federation.silos else None, silo),
            ("sizes", told.sizes.model_dump(), sizes.model_dump()),
            ("dataset", told.dataset.digest(), schema.digest()),
        ):
            if said != own:
                raise IntegrityError(
                    f"silo {silo} has another federation.yaml than the coordinator's ({field}): "
                    "let it gather the newest bundle (`tacit silo gather`)",
                    field=field,
                    value=said,
                    allowed=own,
                )
        return told
