"""After a restored backup: what others hold is appended again, and nothing is ever given back."""

import dataclasses
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from privacy.errors import LedgerTampered, Refused
from privacy.events import Gaussian, Repeat
from privacy.ledger import State, Stop
from privacy.ledger.mirror import Mirror

ACCOUNT = "heart/record"
TABLES = ("alembic_version", "identity", "entries", "accounts", "charges", "releases", "nonces")
HALF = Repeat(times=50, of=Gaussian(sigma=100.0))


def backup(place) -> Callable[[], None]:
    """Keep the whole database as it is; return what puts it back."""
    if place.sqlite:
        database = Path(place.url.removeprefix("sqlite:///"))
        kept = database.with_suffix(".backup")
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(kept)) as to:
            source.backup(to)

        def restore():
            for leftover in ("-wal", "-shm"):
                Path(f"{database}{leftover}").unlink(missing_ok=True)
            shutil.copy(kept, database)

        return restore
    with create_engine(place.url).begin() as connection:
        for table in TABLES:
            connection.execute(text(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}"))

    def put_back():
        with create_engine(place.url).begin() as connection:
            connection.execute(text("SET session_replication_role = replica"))  # no triggers
            for table in TABLES:
                connection.execute(text(f"DELETE FROM {table}"))
                connection.execute(text(f"INSERT INTO {table} SELECT * FROM kept_{table}"))
                connection.execute(text(f"DROP TABLE kept_{table}"))

    return put_back


def spent(ledger):
    return ledger.account("heart", "record").used


@pytest.fixture
def lived(place, tmp_path):
    """A ledger that lost what came after a backup: what it was, its entries, a mirror of some.

    In the backup job-1 is reserved; after it job-1 was run and settled, job-2 reserved and
    started, job-3 reserved.
    """
    ledger = place.create()
    ledger.open_account(place.terms())
    place.reserve(ledger, "job-1")
    restore = backup(place)
    with Mirror.create(f"sqlite:///{tmp_path / 'mirror.db'}") as mirror:
        mirror.accept(ledger.start("job-1", go="g" * 64))
        ledger.mark_read("job-1")
        half = {"executed": {ACCOUNT: HALF}, "stop": Stop.PUBLIC_LIMIT, "released": 0}
        mirror.accept(ledger.settle("job-1", **half))
        mirror.accept(place.reserve(ledger, "job-2"))
        mirror.accept(ledger.start("job-2", go="g" * 64))
        place.reserve(ledger, "job-3")
        entries, used, head = list(ledger.entries()), spent(ledger), ledger.head()
        ledger.close()
        restore()
        ledger = place.open()
        assert not ledger.verify().ok and spent(ledger) < used
        yield ledger, entries, mirror.receipts(), used, head
    ledger.close()


def test_with_every_later_entry_it_is_as_it_was(lived):
    ledger, entries, _, used, head = lived
    done = ledger.recover(entries)
    assert (done.replayed, done.lost, done.breached) == (len(entries) - 2, (), ())
    assert ledger.verify().ok and ledger.head() == head and spent(ledger) == used
    states = {key: ledger.charge(key).state for key in ("job-1", "job-2", "job-3")}
    assert states == {"job-1": State.SETTLED, "job-2": State.STARTED, "job-3": State.RESERVED}


def test_with_some_of_them_everything_they_show_is_charged_whole_and_the_account_closes(
    lived, place
):
    ledger, _, receipts, used, _ = lived
    done = ledger.recover(receipts)
    assert done.replayed == 1  # the start of job-1 follows the backup; its settlement does not
    assert done.breached == (ACCOUNT,) and len(done.lost) == 4  # three receipts, and the head file
    # Job-1 may have run whole, and job-2 too, for all that is known here.
    one = ledger.would_admit(ACCOUNT, HALF).charge_share
    assert used == pytest.approx(5 * one, rel=1e-6)
    assert spent(ledger) == pytest.approx(4 * one, rel=1e-6)
    assert {s.state for s in ledger.history(ACCOUNT)} == {"forfeited"}
    assert ledger.verify(known_heads=[r.head for r in receipts]).ok
    with pytest.raises(Refused, match="breached"):
        place.reserve(ledger, "job-4")


def test_with_nothing_but_the_head_file_what_was_open_is_charged_whole(lived):
    ledger, _, _, _, head = lived
    done = ledger.recover([])
    assert done.replayed == 0 and [lost.hash for lost in done.lost] == [head.hash]
    assert ledger.charge("job-1").state is State.FORFEITED
    assert ledger.account("heart", "record").status == "breached"
    assert ledger.verify().ok


def test_doing_it_again_changes_nothing(lived):
    ledger, _, receipts, _, _ = lived
    ledger.recover(receipts)
    head, used = ledger.head(), spent(ledger)
    again = ledger.recover(receipts)
    assert (again.replayed, again.lost, again.breached) == (0, (), ())
    assert ledger.head() == head and spent(ledger) == used


def test_a_ledger_that_lost_nothing_is_left_alone(place, ledger):
    place.run(ledger)
    head = ledger.head()
    done = ledger.recover(list(ledger.entries()))
    assert (done.replayed, done.lost, done.breached) == (0, (), ())
    assert ledger.head() == head and ledger.verify().ok


@pytest.mark.parametrize("forge", ["signature", "body"])
def test_only_its_own_signed_entries_are_appended(lived, forge):
    ledger, entries, _, _, _ = lived
    head = ledger.head()
    last = entries[-1]
    bent = {"signature": entries[0].signature, "body": last.body.replace("job-3", "job-9")}
    with pytest.raises(LedgerTampered):
        ledger.recover([*entries[:-1], dataclasses.replace(last, **{forge: bent[forge]})])
    assert ledger.head() == head


def test_entries_of_another_ledger_are_refused(lived, make):
    ledger, _, _, _, _ = lived
    other = make()
    foreign = other.create()
    foreign.open_account(other.terms())
    with pytest.raises(LedgerTampered):
        ledger.recover(list(foreign.entries()))
    foreign.close()


def without_head(place, ledger):
    place.head.unlink()
    assert not ledger.verify().ok
    with pytest.raises(LedgerTampered, match="recover"):
        ledger.expire()


def test_a_backup_without_its_head_file_closes_every_account(lived, place):
    """How many entries were lost nobody here knows: perhaps they spent everything."""
    ledger, _, _, _, _ = lived
    without_head(place, ledger)
    done = ledger.recover([])
    assert (done.replayed, done.lost, done.breached) == (0, (), (ACCOUNT,))
    assert ledger.charge("job-1").state is State.FORFEITED
    assert ledger.account("heart", "record").status == "breached"
    assert ledger.verify().ok
    with pytest.raises(Refused, match="head file"):
        place.reserve(ledger, "job-4")
    head = ledger.head()
    assert ledger.recover([]).breached == () and ledger.head() == head


def test_the_first_entry_too_may_be_all_that_a_backup_holds(place):
    ledger = place.create()
    without_head(place, ledger)
    assert ledger.recover([]).breached == ()  # no entry, no account: nothing to close
    ledger.open_account(place.terms())
    without_head(place, ledger)
    assert ledger.recover([]).breached == (ACCOUNT,)
    ledger.close()


def test_a_head_file_that_came_back_with_the_backup_returns_no_running_job(place, tmp_path):
    """What others hold ends with a start; reads and releases are in no mirror."""
    ledger = place.create()
    ledger.open_account(place.terms())
    restore, head = backup(place), place.head.read_bytes()
    with Mirror.create(f"sqlite:///{tmp_path / 'mirror.db'}") as mirror:
        mirror.accept(place.reserve(ledger))
        mirror.accept(ledger.start("job-1", go="g" * 64))
        receipts = mirror.receipts()
    ledger.mark_read("job-1")
    used = spent(ledger)
    ledger.close()
    restore()
    place.head.write_bytes(head)

    ledger = place.open()
    done = ledger.recover(receipts)
    assert (done.replayed, done.lost, done.breached) == (2, (), ())
    assert ledger.charge("job-1").state is State.FORFEITED and spent(ledger) == used
    assert ledger.account("heart", "record").status == "healthy" and ledger.verify().ok
    assert ledger.recover(receipts).replayed == 0 and spent(ledger) == used
    ledger.close()


def test_a_head_file_lost_alone_costs_what_is_open(place, ledger):
    """Others hold the last entry, and know of none after it."""
    ledger.open_account(place.terms(source="lungs"))
    place.run(ledger, "job-1")
    ledger.settle("job-1", executed={ACCOUNT: HALF}, stop=Stop.PUBLIC_LIMIT, released=0)
    place.reserve(ledger, "job-2")
    used, entries = spent(ledger), list(ledger.entries())
    without_head(place, ledger)
    done = ledger.recover(entries)
    assert (done.lost, done.breached) == ((), ())
    assert ledger.charge("job-2").state is State.FORFEITED  # a start and a release may be missing
    assert spent(ledger) == used and ledger.account("heart", "record").status == "healthy"
    assert ledger.verify().ok

    without_head(place, ledger)
    assert ledger.recover(entries).breached == (ACCOUNT, "lungs/record")  # not the last any more
