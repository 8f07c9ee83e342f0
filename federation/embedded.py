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
        return {
            name: silo.facts(dataset)
            for name, silo in self._silos.items()
            if dataset in self.federation.silos[name].sizes
        }

    def check_sources(self, dataset: str) -> None:
        """Look at the columns of every silo's source, and at no row."""
        for name in self.facts(dataset):
            self._silos[name].check_source(dataset)

    def price(self, quote: PartyQuote, facts: PartyFacts) -> dict[str, Any]:
        """One silo's line of a quote."""
        return price(quote, facts, self._silos[quote.silo].ledger)

    def what_fits(
        self, quote: PartyQuote, facts: PartyFacts, rounds: int
    ) -> dict[str, float | int]:
        """The largest epsilon and number of rounds that this silo still admits."""
        return what_fits(quote, facts, self._silos[quote.silo].ledger, rounds)

    def balance(self, silo: str, dataset: str, unit: Unit) -> dict[str, Any]:
        """What the account that a job names allows and has left at one silo."""
        party = self._silos[silo]
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
        return self._silos[silo].reserve(manifest)

    def end(self, silo: str, job: str) -> Receipt | None:
        """End the job at one silo, wherever it stands there."""
        return self._silos[silo].end(job)

    def start(self, silo: str, job: str, go: dict[str, Any]) -> Receipt:
        """Start the job at one silo."""
        return self._silos[silo].start(job, go)

    def settle(self, silo: str, job: str) -> Receipt:
        """Settle the job at one silo."""
        return self._silos[silo].settle(job)

    def epsilons(self, silo: str, job: str) -> tuple[float, float]:
        """The price of what the job ran at one silo, and of all that it had planned."""
        return self._silos[silo].epsilons(job)

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
