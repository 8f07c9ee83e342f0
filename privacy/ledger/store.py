"""The database: one engine, atomic writes under contention, plain reads.

SQLite writes under `BEGIN IMMEDIATE` with `synchronous=FULL` in WAL mode; PostgreSQL under
SERIALIZABLE, the whole transaction again on a serialization failure, a deadlock or a key that
another transaction took. Both have `commit` mean on disk.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from privacy.errors import InvalidRequest, LedgerContention, LedgerMissing, LedgerTampered
from privacy.ledger.schema import REVISION

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for which a transaction waits and is tried again."""

_MIGRATING = threading.Lock()
"""Alembic keeps what it runs on in a global of its own."""

_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-1024")
"""An append touches a handful of pages, so a cache of one MiB is enough, and stays small."""

_RETRIED = ("40001", "40P01", "23505")


class Store:
    """A ledger's database. `path` is the SQLite file, `None` for PostgreSQL."""

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise _bad_url(url) from None
        if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.sqlite = parsed.get_backend_name() == "sqlite"
        if not self.sqlite and parsed.get_backend_name() != "postgresql":
            raise _bad_url(url)
        if self.sqlite and not parsed.database:
            raise _bad_url(url)
        self.path = Path(str(parsed.database)) if self.sqlite else None
        self.shown = parsed.render_as_string(hide_password=True)
        try:
            self.engine = _engine(parsed, self.sqlite)
        except (ModuleNotFoundError, NoSuchModuleError):
            raise LedgerMissing(
                "the PostgreSQL driver is not installed: pip install -c constraints.txt "
                "'.[postgres]' in the checkout",
                field="ledger",
                value=self.shown,
            ) from None

    def create_file(self) -> None:
        """Make the SQLite file at mode 0600, where there is none."""
        if self.path is not None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            os.close(os.open(self.path, flags, 0o600))

    def revision(self) -> str | None:
        """The migration that the database is at; `None` where it holds no ledger.

        Tables of a ledger that do not say which, or say two, are `LedgerTampered`.
        """
        if self.path is not None and not self.path.exists():
            return None
        try:
            with self.engine.connect() as connection:
                found: list[object] = []
                if self.engine.dialect.has_table(connection, "alembic_version"):
                    versions = connection.execute(text("SELECT version_num FROM alembic_version"))
                    found += versions.scalars()
                elif not self.engine.dialect.has_table(connection, "entries"):
                    return None
        except DBAPIError as error:
            if self.path is not None and not isinstance(error, OperationalError):
                raise LedgerTampered(
                    f"{self.shown}: the file is no ledger ({_first_line(error)})",
                    field="ledger",
                    value=self.shown,
                ) from None
            raise LedgerMissing(
                f"{self.shown}: the ledger's database cannot be opened ({_first_line(error)})",
                field="ledger",
                value=self.shown,
            ) from None
        if len(found) != 1:
            raise LedgerTampered(
                f"{self.shown}: the ledger's tables name {len(found)} versions of themselves",
                field="version",
                value=len(found),
                allowed=1,
            )
        return str(found[0])

    def upgrade(self, then: Callable[[Connection], None] = lambda _: None) -> None:
        """Run the migrations that are shipped with the package, and `then`, in one transaction."""
        with self.engine.begin() as connection:
            migrate(connection)
            then(connection)

    def require(self) -> None:
        """Raise `LedgerMissing` unless a ledger of this version is there."""
        found = self.revision()
        if found is None:
            raise LedgerMissing(f"{self.shown}: no ledger here", field="ledger", value=self.shown)
        if found != REVISION:
            raise LedgerMissing(
                f"{self.shown}: the ledger is at version {found}, this program at {REVISION}; "
                "run its upgrade",
                field="ledger",
                value=found,
                allowed=REVISION,
            )

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one consistent state and writes nothing."""
        reading = self.engine.connect().execution_options(tacit_read=True)
        with reading as connection, connection.begin():
            yield connection

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction, all of it again where another came between."""
        deadline = time.monotonic() + PATIENCE
        pause = 0.002
        while True:
            try:
                with self.engine.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                if not _retried(error):
                    raise
                if time.monotonic() > deadline:
                    raise LedgerContention(
                        f"{self.shown}: the database stayed busy for {PATIENCE:g} s; try again",
                        field="ledger",
                    ) from None
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            pause = min(pause * 2, 0.2)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def migrate(connection: Connection) -> None:
    """Run the migrations on a connection, within its transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    with _MIGRATING:
        command.upgrade(config, "head")


def _engine(url: Any, sqlite: bool) -> Engine:
    if not sqlite:
        return create_engine(url, isolation_level="SERIALIZABLE", pool_pre_ping=False)
    engine = create_engine(url, connect_args={"timeout": PATIENCE})

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # this module begins its own transactions
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("tacit_read")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _retried(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state in _RETRIED
    return isinstance(error.orig, sqlite3.OperationalError) and "locked" in str(error.orig)


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().split("\n")[0]


def _bad_url(url: str) -> InvalidRequest:
    return InvalidRequest(
        "ledger: not a database address",
        field="ledger",
        value=url.split("@")[-1],
        allowed="sqlite:///PATH or postgresql://...",
    )
