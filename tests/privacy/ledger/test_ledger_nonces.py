"""Messages that were seen: the first time, a redelivery, a replay."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import create_engine, text

from privacy.errors import InvalidRequest, KeyConflict
from privacy.ledger.store import Store


def rows(place):
    with create_engine(Store(place.url).engine.url).connect() as connection:
        return sorted(connection.execute(text("SELECT nonce FROM nonces")).scalars())


def test_a_message_is_new_once_and_a_redelivery_after(place, ledger):
    until = place.clock.now + timedelta(minutes=12)
    head = ledger.head()
    assert ledger.see_nonce("n" * 32, "a" * 64, until) is True
    assert ledger.see_nonce("n" * 32, "a" * 64, until) is False
    with pytest.raises(KeyConflict) as replayed:
        ledger.see_nonce("n" * 32, "b" * 64, until)
    assert replayed.value.field == "nonce"
    other = place.open()  # it is in the database
    assert other.see_nonce("n" * 32, "a" * 64, until) is False
    other.close()
    assert ledger.head() == head and ledger.verify().ok


def test_nonces_are_kept_to_their_time_and_dropped_after(place, ledger):
    for minutes in (5, 10, 15):
        ledger.see_nonce(f"n{minutes}", "a", place.clock.now + timedelta(minutes=minutes))
    place.clock.forward(600)
    assert ledger.see_nonce("n10", "a", place.clock.now) is False  # to the last moment
    assert rows(place) == ["n10", "n15"]
    with pytest.raises(InvalidRequest):
        ledger.see_nonce("late", "a", place.clock.now - timedelta(seconds=1))
    for bad in ("", "a b", "n" * 201, 7):
        with pytest.raises(InvalidRequest):
            ledger.see_nonce(bad, "a", place.clock.now)


def test_of_many_at_once_one_is_the_first(place, ledger):
    until = place.clock.now + timedelta(minutes=12)
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda _: ledger.see_nonce("n", "a", until), range(12)))
    assert seen.count(True) == 1


def test_a_malformed_row_is_found(place, ledger):
    ledger.see_nonce("n", "a", place.clock.now + timedelta(minutes=12))
    with create_engine(Store(place.url).engine.url).begin() as connection:
        connection.execute(text("UPDATE nonces SET until = 'z'"))  # never purged
    found = ledger.verify()
    assert not found.ok and "nonces" in found.first_bad["reason"]
