"""Which engine reaches a federation's silos: this process, or the exchange."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from federation.embedded import Embedded
from federation.errors import NotFound
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


def check_coordinator(home: Home) -> None:
    """Raise `NotFound` where the coordinator, who alone asks silos, has a home elsewhere."""
    if not home.coordinator_key.exists():
        raise NotFound(
            f"{home.root}: the coordinator does not live here; run this in its home",
            field="home",
            value=str(home.root),
        )


@contextmanager
def opened(home: Home, engine: Engine) -> Iterator[Parties]:
    """The silos of a home, reached by an engine; `NotFound` at a silo's own home."""
    check_coordinator(home)
    reached = Embedded(home) if engine == "embedded" else over_exchange(home)
    with reached as parties:
        yield parties


@contextmanager
def over_exchange(home: Home) -> Iterator[Remote]:
    """The silos of a home, each at its own desk; `NotFound` at a silo's own home."""
    check_coordinator(home)
    from federation.access import connect
    from federation.remote import Remote

    key = SigningKey.load(home.coordinator_key)
    with connect(home, "coordinator", key) as connection, Remote(home, connection) as parties:
        yield parties
