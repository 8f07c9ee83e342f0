"""Making a ledger, crashed in between, and opening what is none or half of one."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, inspect, text

from privacy.errors import InvalidRequest, LedgerMissing, LedgerTampered
from privacy.ledger import founding
from privacy.ledger.heads import HeadFile
from privacy.ledger.store import Store


class CrashError(Exception):
    pass


def die(*_, **__):
    raise CrashError


def tables(place):
    return inspect(create_engine(Store(place.url).engine.url)).get_table_names()


def test_a_ledger_made_is_there_whole_with_its_head(place):
    place.create().close()
    assert place.head.exists()
    with pytest.raises(InvalidRequest, match="already"):
        place.create()
    ledger = place.open()
    assert ledger.verify().ok and ledger.head().seq == 0
    ledger.close()


@pytest.mark.parametrize(
    ("where", "what"),
    [(HeadFile, "write"), (Store, "create_file"), (Store, "upgrade"), (founding, "_identify")],
)
def test_a_crash_while_it_was_made_leaves_nothing_in_the_way(place, monkeypatch, where, what):
    with monkeypatch.context() as patch, pytest.raises(CrashError):
        patch.setattr(where, what, die)
        place.create()
    assert tables(place) == []  # tables and identity come in one transaction
    with pytest.raises(LedgerMissing):
        place.open()
    ledger = place.create()
    ledger.open_account(place.terms())
    assert ledger.verify().ok
    ledger.close()
    again = place.open()
    assert again.verify().ok
    again.close()


def test_a_head_with_entries_is_nobodys_to_write_over(place, ledger):
    """The database is gone, its head says that there was one."""
    place.reserve(ledger)
    other = place.open()
    other.close()
    with create_engine(Store(place.url).engine.url).begin() as connection:
        for table in tables(place):
            connection.execute(text(f"DROP TABLE {table}"))
    with pytest.raises(InvalidRequest, match="already"):
        place.create()
    with pytest.raises(LedgerMissing):
        place.open()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM alembic_version",
        "INSERT INTO alembic_version VALUES ('zzz')",
        "DROP TABLE alembic_version",
    ],
)
def test_tables_that_do_not_say_their_version_were_tampered_with(place, ledger, statement):
    with create_engine(Store(place.url).engine.url).begin() as connection:
        connection.execute(text(statement))
    assert not ledger.verify().ok
    for attempt in (place.open, place.create, lambda: ledger.upgrade(place.url)):
        with pytest.raises(LedgerTampered) as refused:
            attempt()
        assert refused.value.exit_code == 4


def test_a_ledger_without_its_identity_was_tampered_with(place, ledger):
    with create_engine(Store(place.url).engine.url).begin() as connection:
        on = "" if place.sqlite else " ON identity"
        connection.exec_driver_sql(f"DROP TRIGGER identity_no_delete{on}")
        connection.exec_driver_sql("DELETE FROM identity")
    assert not ledger.verify().ok
    with pytest.raises(LedgerTampered):
        place.open()
