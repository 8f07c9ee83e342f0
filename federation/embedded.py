"""The embedded engine: every silo in this process, the memory exchange between them.

Each silo still has its own home, key, ledger and gate, and takes part in a thread of its own; the
only thing shared is the process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from federation import desk
from federation.attendance import Attendance
from federation.errors import at_silo
from federation.home import Home
from federation.parties import Parties
from federation.silo import Silo
from secure.exchange.base import Endpoint
from secure.exchange.memory import MemoryExchange

DEADLINE = 3600.0
"""Seconds that a party waits for the next message of a job."""


class Embedded(Parties):
    """All silos of a home, opened here."""

    def __init__(self, home: Home) -> None:
        super().__init__(home)
        self._silos: dict[str, Silo] = {}
        try:
            for name in sorted(self.federation.silos):
                with at_silo(name):
                    self._silos[name] = Silo(home, name)
        except BaseException:
            self.close()
            raise

    def call(self, silo: str, verb: str, **said: Any) -> Any:
        """Ask one silo."""
        return desk.answer(self._silos[silo], verb, said)

    def close(self) -> None:
        """Close every ledger."""
        for silo in self._silos.values():
            silo.close()

    @contextmanager
    def serve(self, job: str, attendance: Attendance) -> Iterator[Endpoint]:
        """Let silos take part in threads; yields the coordinator's end of the exchange.

        When the block ends, by an error too, the silos' ends are closed and the threads joined.
        """
        silos = attendance.present()
        keys = self.membership.terms.silos | {"coordinator": self.membership.terms.coordinator}
        exchange = MemoryExchange(self.federation.name, job, keys)
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
