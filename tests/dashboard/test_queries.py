"""What the page reads: rows of real ledgers, opened without a key and without a way to write."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from dashboard import queries, reading
from federation.errors import NotFound
from federation.home import Home
from privacy.errors import WrongState
from privacy.events import Gaussian, Repeat
from privacy.ledger import AccountTerms
from secure.keys import SigningKey


def test_an_account_shows_what_is_allowed_spent_reserved_and_left(house):
    house.silo("north")
    house.job("north", "job-1", 2.5)
    house.job("north", "job-2", 1.4, settle=False)
    account = queries.overview(house.home).accounts[0]
    assert account.name == "north/heart/record"
    assert account.datasets == ("heart",)
    assert (account.capacity, account.claim) == (10.0, 10.0)
    shown = (account.spent, account.reserved, account.remaining)
    assert shown == pytest.approx((2.5, 1.4, 6.1), abs=1e-3)
    assert account.used == pytest.approx(0.39, abs=1e-3)
    assert account.standing == "healthy"
    assert account.jobs_that_fit == 4  # 6.1 left, 1.4 each


def test_the_claim_stays_the_largest_capacity_ever_set(house):
    ledger = house.silo("north")
    ledger.set_capacity("heart/record", 20.0, "two years")
    ledger.set_capacity("heart/record", 5.0, "too much")
    account = queries.overview(house.home).accounts[0]
    assert (account.capacity, account.claim) == (5.0, 20.0)


def test_the_course_of_an_account_ends_where_the_account_stands(house):
    ledger = house.silo("north", filter="renyi", epsilon=3.0)
    for number, (sigma, times) in enumerate([(60.0, 50), (30.0, 10), (90.0, 200)]):
        key = f"job-{number}"
        ledger.reserve(
            key=key,
            job=key,
            events={"heart/record": Repeat(times=times, of=Gaussian(sigma=sigma))},
            releases={},
            refundable=True,
            digest="d" * 64,
            expires=house.now + timedelta(days=1),
        )
    ledger.release("job-1")
    account = queries.overview(house.home).accounts[0]
    assert [s.job for s in account.spends] == ["job-0", "job-2"]
    last = account.spends[-1]
    assert last.used_after == pytest.approx(account.used)
    assert last.epsilon_after == pytest.approx(account.spent + account.reserved)
    assert account.spends[0].used_after == pytest.approx(account.spends[0].share)
    alone = sum(s.epsilon for s in account.spends)
    assert last.epsilon_after < alone  # they compose; they do not add up


def test_the_forecast_follows_the_pace(house):
    house.silo("north")
    house.now = datetime.now(UTC) - timedelta(days=5)
    house.job("north", "job-1", 5.0)
    account = queries.overview(house.home).accounts[0]
    assert account.per_30_days == pytest.approx(3.0, rel=0.01)  # half in five days
    due = datetime.now(UTC) + timedelta(days=5)
    assert abs(account.spent_by - due) < timedelta(hours=1)


def test_releases_are_counted_by_protection_and_the_unprotected_are_named(full):
    lines = {(r.silo, r.job, r.protection): r for r in queries.overview(full.home).releases}
    assert lines["north", "job-2", "dp"].count == 2
    assert lines["north", "job-2", "dp"].names == ()
    assert lines["east", "job-1", "unprotected"].names == ("scores",)
    account = next(a for a in queries.overview(full.home).accounts if a.silo == "east")
    assert account.unprotected == 1


def test_a_member_whose_ledger_is_elsewhere_is_named_not_shown(house):
    house.silo("north")
    house.keys["far"] = SigningKey.generate()
    house.federate()
    overview = queries.overview(house.home)
    assert overview.elsewhere == ("far",)
    assert [books.silo for books in overview.silos] == ["north"]


def test_one_ledger_that_cannot_be_read_hides_no_other(full):
    full.home.silo("east").ledger.write_bytes(b"not a database" * 500)
    full.home.silo("west").ledger.unlink()
    books = {b.silo: b for b in queries.overview(full.home).silos}
    assert books["east"].problem and not books["east"].accounts
    assert "no ledger here" in books["west"].problem
    assert books["north"].accounts and not books["north"].problem


def test_a_ledger_of_another_key_than_the_members_is_not_shown(house):
    house.silo("north")
    house.keys["north"] = SigningKey.generate()
    house.federate()
    (books,) = queries.overview(house.home).silos
    assert "identity" in books.problem


def test_a_forged_balance_is_not_shown_as_a_balance(house, forge):
    house.silo("north")
    house.job("north", "job-1", 9.0)
    forge(
        house.home.silo("north").ledger,
        "UPDATE accounts SET balance = replace(balance, '\"running\":0', '\"running\":1')",
    )
    (books,) = queries.overview(house.home).silos
    assert books.accounts == ()
    assert "run verify" in books.problem


def test_reading_needs_no_key_no_data_and_writes_no_byte(full):
    for silo in full.home.silo_names():
        full.home.silo(silo).key.unlink()
    assert list(full.root.rglob("absent.csv")) == []
    database = full.home.silo("north").ledger
    before = database.read_bytes()
    assert len(queries.overview(full.home).accounts) == 5
    queries.marks(full.home)
    assert database.read_bytes() == before


def test_what_is_opened_for_reading_cannot_be_written(house):
    house.silo("north")
    with reading.opened(house.home, "north", house.home.federation()) as book:
        with book.store.reading() as connection, pytest.raises(OperationalError, match="readonly"):
            connection.execute(text("DELETE FROM charges"))
        with pytest.raises((WrongState, OperationalError)):
            book.ledger.open_account(
                AccountTerms(
                    source="x", unit="record", relation="add_remove", epsilon=1, delta=1e-5
                )
            )
    assert len(house.ledgers["north"].accounts()) == 1


def test_marks_change_with_every_entry_and_with_a_row_changed_behind_its_back(house, forge):
    house.silo("north")
    seen = [queries.marks(house.home)]
    assert queries.marks(house.home) == seen[0]
    house.job("north", "job-1", 1.0)
    seen.append(queries.marks(house.home))
    house.close()
    seen.append(queries.marks(house.home))
    forge(house.home.silo("north").ledger, "UPDATE charges SET expires = 'never'")
    seen.append(queries.marks(house.home))
    assert seen[0] != seen[1]
    assert seen[2] != seen[3]


def test_a_place_without_a_federation_says_so(tmp_path):
    with pytest.raises(NotFound):
        queries.overview(Home(tmp_path))
