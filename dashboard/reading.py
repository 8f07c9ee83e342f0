"""Ledgers and the mirror opened to be looked at: no key is loaded, and no write can pass.

The database itself refuses writes (SQLite: `mode=ro` and `query_only`; PostgreSQL: a read-only
transaction), and the signer that a ledger asks for is one that cannot sign. No data source is
opened here or anywhere else in the dashboard.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from federation.errors import NotFound, TacitError
from federation.home import Home
from federation.settings import Federation
from privacy.errors import WrongState
from privacy.ledger import Ledger, clock
from privacy.ledger.chain import Identity
from privacy.ledger.founding import identify
from privacy.ledger.heads import HeadFile
from privacy.ledger.mirror import Mirror
from privacy.ledger.store import Store
from secure.keys import verify

BUSY = 10.0
"""Seconds for which a read waits for a writer."""

UNREADABLE = (*TacitError, SQLAlchemyError, ValueError, KeyError, TypeError, AttributeError)
"""What reading a ledger that somebody changed can raise."""


class ReadOnlyStore(Store):
    """A ledger's database that cannot be written through this object."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        if self.path is not None:
            self.engine = _sqlite(self.path)
        else:
            self.engine = self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )


@dataclass(frozen=True, slots=True)
class Book:
    """One silo's ledger, open for reading. `datasets` names what each source serves."""

    silo: str
    ledger: Ledger
    store: ReadOnlyStore
    identity: Identity
    datasets: Mapping[str, tuple[str, ...]]


@contextmanager
def opened(home: Home, silo: str, federation: Federation) -> Iterator[Book]:
    """Open a silo's ledger for reading; it must be signed by the key the federation knows."""
    config = home.silo_config(silo)
    facts = federation.silos.get(silo)
    if facts is None:
        raise NotFound(
            f"silo {silo!r} is no member of this federation",
            field="silo",
            value=silo,
            allowed=sorted(federation.silos),
        )
    store = ReadOnlyStore(config.ledger_url)
    try:
        identity = identify(store, silo=silo, public=facts.public_key, verify=verify)
        head = HeadFile(home.silo(silo).head)
        ledger = Ledger(store, identity, head, _NoKey(identity.public), verify, clock.now)
        datasets = {name: source.datasets for name, source in config.sources.items()}
        yield Book(silo, ledger, store, identity, datasets)
    finally:
        store.close()


@contextmanager
def opened_mirror(home: Home, federation: Federation) -> Iterator[Mirror | None]:
    """Open the coordinator's mirror for reading; `None` where this home has none."""
    if not home.mirror.is_file():
        yield None
        return
    keys = {name: facts.public_key for name, facts in federation.silos.items()}
    mirror = Mirror(ReadOnlyStore(f"sqlite:///{home.mirror}"), verify, keys)
    try:
        yield mirror
    finally:
        mirror.close()


class _NoKey:
    """The signer of somebody who only looks."""

    def __init__(self, public: str) -> None:
        self.public = public

    def sign(self, message: bytes) -> bytes:
        """Refuse."""
        raise WrongState("the dashboard reads and never signs", field="key")


def _sqlite(path: Path) -> Engine:
    address = f"{path.absolute().as_uri()}?mode=ro"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            address, uri=True, timeout=BUSY, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA query_only=ON")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")  # sqlite3 begins none for reads; one state for all

    return engine


def unreadable(error: Exception) -> str:
    """Say why a ledger cannot be read; a database's own words stay out."""
    if isinstance(error, TacitError):
        return str(error)
    return f"the database cannot be read here ({type(error).__name__})"
