"""Statements on the driver's own cursor: what fails there fails as SQLAlchemy says it does."""

from __future__ import annotations

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, insert, select, text
from sqlalchemy.exc import DBAPIError

from privacy.ledger.statements import Statement

HELD = Table(
    "held", MetaData(), Column("number", Integer, primary_key=True), Column("word", Integer)
)


def test_rows_are_named_by_their_columns() -> None:
    engine = create_engine("sqlite://")
    HELD.metadata.create_all(engine)
    put, look = Statement(insert(HELD)), Statement(select(HELD).where(HELD.c.number.in_([1, 3])))
    with engine.begin() as connection:
        for number in (1, 2, 3):
            put.write(connection, number=number, word=number * 10)
        assert [(row.number, row.word) for row in look.all(connection)] == [(1, 10), (3, 30)]
        assert look.first(connection).word == 10
        assert Statement(select(HELD).where(HELD.c.number == 9)).first(connection) is None


def test_a_constraint_that_fails_is_a_database_error_and_shows_no_value() -> None:
    engine = create_engine("sqlite://")
    HELD.metadata.create_all(engine)
    put = Statement(insert(HELD))
    with engine.begin() as connection:
        put.write(connection, number=1, word=4711)
        with pytest.raises(DBAPIError) as caught:
            put.write(connection, number=1, word=4711)
    assert "4711" not in str(caught.value)


def test_a_connection_that_the_server_ended_is_not_used_again(postgres) -> None:
    engine = create_engine(postgres())
    ask = Statement(select(HELD))
    HELD.metadata.create_all(engine)
    with pytest.raises(DBAPIError), engine.begin() as connection:
        with create_engine(engine.url).connect() as other:
            other.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid != pg_backend_pid()"
                )
            )
        ask.all(connection)
    with engine.begin() as connection:
        assert ask.all(connection) == []
