"""The embedded engine: every silo in this process, the memory exchange between them.

Each silo still has its own home, key, ledger and gate, and takes part in a thread of its own; the
only thing shared is the process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from federation.errors import at_silo
from federation.home import Home
from federation.jobs.base import PartyFacts, PartyQuote
from federation.membership import Membership
from federation.pricing import price, what_fits
from federation.silo import Silo
from privacy.events import Unit
from privacy.ledger import Receipt
from secure.exchange.base import Endpoint
from secure.exchange.memory import MemoryExchange
from secure.keys import SigningKey

DEADLINE = 3600.0
"""Seconds that a party waits for the next message of a job."""


class Embedded:
    """All silos of a home, opened here; the `Parties` of the embedded stack."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.federation = home.federation()
        self.membership = Membership.load(home)
        self.membership.check(home)
        self.key = SigningKey.load(home.coordinator_key)
        self._silos: dict[str, Silo] = {}
        try:
            for name in sorted(self.federation.silos):
                with at_silo(name):
                    self._silos[name] = Silo(home, name)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every ledger."""
        for silo in self._silos.values():
            silo.close()

    def facts(self, dataset: str) -> dict[str, PartyFacts]:
        """Public facts of the silos that hold this dataset, by name in order."""
        facts = {}
        for name, silo in self._silos.items():
            if dataset in self.federation.silos[name].sizes:
                with at_silo(name):
                    facts[name] = silo.facts(dataset)
        return facts

    def check_sources(self, dataset: str) -> None:
        """Look at the columns of every silo's source, and at no row."""
        for name in self.facts(dataset):
            self._silos[name].check_source(dataset)

    def price(self, quote: PartyQuote, facts: PartyFacts) -> dict[str, Any]:
        """One silo's line of a quote."""
        with self._at(quote.silo) as party:
            return price(quote, facts, party.ledger)

    def what_fits(
        self, quote: PartyQuote, facts: PartyFacts, rounds: int
    ) -> dict[str, float | int]:
        """The largest epsilon and number of rounds that this silo still admits."""
        with self._at(quote.silo) as party:
            return what_fits(quote, facts, party.ledger, rounds)

    def balance(self, silo: str, dataset: str, unit: Unit) -> dict[str, Any]:
        """What the account that a job names allows and has left at one silo."""
        with self._at(silo) as party:
            account = party.ledger.account(party.facts(dataset).source, unit)
        return {
            "remaining_epsilon": account.remaining_epsilon,
            "used": account.used,
            "unprotected": account.unprotected,
            "relation": account.relation.value,
            "claim_epsilon": account.largest_capacity_epsilon,
            "delta": account.delta,
        }

    def reserve(self, silo: str, manifest: dict[str, Any]) -> Receipt:
        """Ask one silo to reserve."""
        with self._at(silo) as party:
            return party.reserve(manifest)

    def end(self, silo: str, job: str) -> Receipt | None:
        """End the job at one silo, wherever it stands there."""
        with self._at(silo) as party:
            return party.end(job)

    def start(self, silo: str, job: str, go: dict[str, Any]) -> Receipt:
        """Start the job at one silo."""
        with self._at(silo) as party:
            return party.start(job, go)

    def settle(self, silo: str, job: str) -> Receipt:
        """Settle the job at one silo."""
        with self._at(silo) as party:
            return party.settle(job)

    def epsilons(self, silo: str, job: str) -> tuple[float, float]:
        """The price of what the job ran at one silo, and of all that it had planned."""
        with self._at(silo) as party:
            return party.epsilons(job)

    @contextmanager
    def _at(self, silo: str) -> Iterator[Silo]:
        """One silo; what its ledger raises names it."""
        with at_silo(silo):
            yield self._silos[silo]

    @contextmanager
    def serve(self, job: str, silos: list[str]) -> Iterator[Endpoint]:
        """Let the silos take part in threads; yields the coordinator's end of the exchange.

        When the block ends, by an error too, the silos' ends are closed and the threads joined.
        """
        keys = self.membership.terms.silos | {"coordinator": self.membership.terms.coordinator}
        exchange = MemoryExchange(self.federation.name, keys)
        endpoints = {name: exchange.endpoint(name, self._silos[name].key) for name in silos}
        threads = [
            threading.Thread(
                target=self._silos[name].participate,
                args=(job, endpoints[name]),
                kwargs={"deadline": DEADLINE},
                name=f"silo-{name}",
                daemon=True,
            )
            for name in silos
        ]
        for thread in threads:
            thread.start()
        try:
            yield exchange.endpoint("coordinator", self.key)
        finally:
            for endpoint in endpoints.values():
                endpoint.close()
            for thread in threads:
                thread.join()
