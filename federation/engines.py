"""Which engine reaches a federation's silos: this process, or the exchange."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from federation.embedded import Embedded
from federation.home import Home
from federation.parties import Parties
from federation.record import Engine
from secure.keys import SigningKey

if TYPE_CHECKING:
    from federation.remote import Remote


def engine_of(home: Home) -> Engine:
    """The engine for a question that belongs to no job: the exchange where a silo is not here."""
    here = set(home.silo_names())
    return "embedded" if here >= set(home.federation().silos) else "exchange"


@contextmanager
def opened(home: Home, engine: Engine) -> Iterator[Parties]:
    """The silos of a home, reached by an engine."""
    reached = Embedded(home) if engine == "embedded" else over_exchange(home)
    with reached as parties:
        yield parties


@contextmanager
def over_exchange(home: Home) -> Iterator[Remote]:
    """The silos of a home, each at its own desk."""
    from federation.access import connect
    from federation.remote import Remote

    key = SigningKey.load(home.coordinator_key)
    with connect(home, "coordinator", key) as connection, Remote(home, connection) as parties:
        yield parties
