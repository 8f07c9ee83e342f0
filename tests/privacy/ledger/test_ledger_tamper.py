"""What verify finds: a changed byte anywhere, lost rows, other chains, restored backups."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, inspect, text

from privacy.errors import LedgerTampered, PrivacyError, Refused
from privacy.events import Gaussian, Repeat
from privacy.ledger import Head, Ledger, Stop, canonical, checkpoint, triggers
from privacy.ledger.heads import SLOT, HeadFile
from privacy.ledger.store import Store
from secure.keys import verify

ACCOUNT = "heart/record"
ON_SQLITE = pytest.mark.parametrize("make", ["sqlite"], indirect=True)
JOB = Repeat(times=100, of=Gaussian(sigma=100.0))
HALF = Repeat(times=50, of=Gaussian(sigma=100.0))
KINDS = {
    "open",
    "reserve",
    "release",
    "expire",
    "start",
    "read",
    "settle",
    "forfeit",
    "egress",
    "capacity",
    "reprice",
    "breach",
}


def egress(ledger: Ledger, job: str, round_: int, **changes: Any) -> None:
    line: dict[str, Any] = {
        "job": job,
        "round": round_,
        "name": "update",
        "protection": "dp",
        "digest": "a" * 64,
        "request": "b" * 64,
        "size": 100,
        "event": Gaussian(sigma=100.0),
    }
    ledger.record_egress(**(line | changes))


def fill(place: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of every kind."""
    ledger.open_account(place.terms(source="lungs"))
    place.run(ledger, "job-1")
    egress(ledger, "job-1", 1)
    egress(ledger, "job-1", 2, protection="unprotected", event=None)
    ledger.settle("job-1", executed={ACCOUNT: HALF}, stop=Stop.OTHER_PARTY, released=2)
    place.reserve(ledger, "job-2")
    ledger.release("job-2")
    place.reserve(ledger, "job-3")
    place.clock.forward(3600)
    ledger.expire()
    place.run(ledger, "job-4")
    ledger.forfeit("job-4")
    ledger.set_capacity(ACCOUNT, 3.0, "agreed")
    from privacy.accounting import rdp as accountant

    true_rdp = accountant.rdp
    monkeypatch.setattr(accountant, "rdp", lambda *a, **k: 1.25 * true_rdp(*a, **k))
    dearer = place.open()
    dearer.reprice(ACCOUNT)
    dearer.close()
    monkeypatch.undo()
    ledger.mark_breached(["lungs/record"], "a person looked")
    place.run(ledger, "job-5")
    assert {entry.kind for entry in ledger.entries()} == KINDS


@contextmanager
def tampering(place: Any) -> Iterator[Connection]:
    """A connection past the triggers, which are back in place afterwards."""
    engine = create_engine(Store(place.url).engine.url)
    with engine.begin() as connection:
        if place.sqlite:
            for name in triggers.statements("sqlite"):
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            connection.exec_driver_sql("SET session_replication_role = replica")
        yield connection
        triggers.create(connection)
    engine.dispose()


def flipped(value: Any) -> Any:
    """The value with one bit of one byte changed; still a text, or an integer."""
    if value is None:
        return "x"
    if isinstance(value, int):
        return value ^ 1024
    middle = len(value) // 2
    return value[:middle] + chr(ord(value[middle]) ^ 1) + value[middle + 1 :]


def test_one_flipped_byte_in_any_column_of_any_table(place, ledger, monkeypatch):
    fill(place, ledger, monkeypatch)
    entries = ledger.head().seq
    good = ledger.verify()
    assert (good.ok, good.entries, good.first_bad) == (True, entries, None)
    engine = create_engine(Store(place.url).engine.url)
    tables = inspect(engine).get_table_names()
    keys = {t: inspect(engine).get_pk_constraint(t)["constrained_columns"] for t in tables}
    assert set(tables) == {
        "accounts",
        "alembic_version",
        "charges",
        "entries",
        "identity",
        "nonces",
        "releases",
    }
    checked = 0
    for table in tables:
        with engine.connect() as connection:
            rows = [dict(r) for r in connection.execute(text(f"SELECT * FROM {table}")).mappings()]
        some = [rows[0], rows[len(rows) // 2], rows[-1]] if len(rows) > 3 else rows
        for row in some:
            for column in row:
                change(place, table, keys[table], row, column, flipped(row[column]))
                found = ledger.verify()
                assert not found.ok, f"{table}.{column} of {row}"
                if table in ("entries", "charges", "accounts", "releases") and column != "seq":
                    assert found.first_bad["seq"] == row["seq"], (table, column, found)
                changed = row | {column: flipped(row[column])}
                change(place, table, keys[table], changed, column, row[column])
                checked += 1
    assert checked == 84
    assert ledger.verify().ok
    engine.dispose()


def change(
    place: Any, table: str, keys: list[str], row: dict[str, Any], column: str, value: Any
) -> None:
    where = " AND ".join(f"{key} = :key_{key}" for key in keys)
    values = {f"key_{key}": row[key] for key in keys} | {"value": value}
    with tampering(place) as connection:
        done = connection.execute(
            text(f"UPDATE {table} SET {column} = :value WHERE {where}"), values
        )
        assert done.rowcount == 1


@ON_SQLITE  # PostgreSQL refuses bytes that are not UTF-8
def test_an_entry_that_is_no_text_is_named(place, ledger):
    place.run(ledger)
    with tampering(place) as connection:
        connection.exec_driver_sql("UPDATE entries SET body = CAST(x'ff00' AS TEXT) WHERE seq = 3")
    found = ledger.verify()
    assert not found.ok and found.first_bad["seq"] == 3


@pytest.mark.parametrize("table", ["entries", "identity"])
@pytest.mark.parametrize("respelt", [str.upper, lambda text: f"{text[:2]} {text[2:]}"])
def test_the_same_bytes_in_another_spelling_are_a_changed_column(place, ledger, table, respelt):
    place.run(ledger)
    for column in ("signature", "hash"):
        with tampering(place) as connection:
            row = dict(connection.execute(text(f"SELECT * FROM {table}")).mappings().first())
        keys = ["seq"] if table == "entries" else ["ledger"]
        change(place, table, keys, row, column, respelt(row[column]))
        found = ledger.verify()
        assert not found.ok and found.first_bad["seq"] == row.get("seq", 0)
        if table == "identity":
            with pytest.raises(LedgerTampered):
                place.open()
        change(place, table, keys, row, column, row[column])
    assert ledger.verify().ok


@pytest.mark.parametrize("seq", [1, 3, 4])
def test_a_deleted_row_is_found(place, ledger, seq):
    place.run(ledger)
    assert ledger.head().seq == 4
    with tampering(place) as connection:
        connection.exec_driver_sql(f"DELETE FROM entries WHERE seq = {seq}")
    found = ledger.verify()
    assert not found.ok and found.first_bad["seq"] == seq
    if seq == 4:
        with pytest.raises(LedgerTampered, match="entries were lost"):
            place.reserve(ledger, "job-2")


@pytest.mark.parametrize("table", ["charges", "accounts", "releases"])
def test_a_deleted_or_invented_cache_row_is_found(place, ledger, table):
    place.run(ledger)
    egress(ledger, "job-1", 1)
    column = {"charges": "key", "accounts": "account", "releases": "job"}[table]
    with tampering(place) as connection:
        row = dict(connection.execute(text(f"SELECT * FROM {table}")).mappings().one())
        invented = {**row, column: "another"} | ({"number": 9} if table == "releases" else {})
        names = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), invented)
    assert "another" in ledger.verify().first_bad["reason"]
    with tampering(place) as connection:
        connection.execute(text(f"DELETE FROM {table}"))
    found = ledger.verify()
    assert not found.ok and found.first_bad["seq"] == row["seq"]


def test_swapped_entries_are_found(place, ledger):
    place.run(ledger)
    with tampering(place) as connection:
        for old, new in ((2, 1002), (3, 2), (1002, 3)):
            connection.exec_driver_sql(f"UPDATE entries SET seq = {new} WHERE seq = {old}")
    found = ledger.verify()
    assert not found.ok and found.first_bad["seq"] == 2


def test_a_chain_of_another_ledger_is_found(place, ledger, make):
    """The same silo and key, another ledger: its whole database in place of this one's."""
    other = make()
    other.key = place.key
    twin = other.create()
    twin.open_account(other.terms())
    place.run(ledger)
    other.run(twin)
    assert twin.verify().ok
    other.head = place.head
    swapped = other.open()
    found = swapped.verify()
    assert not found.ok and "another ledger" in found.first_bad["reason"]
    with pytest.raises(LedgerTampered):
        other.reserve(swapped, "job-2")
    rows = list(twin.entries())
    with tampering(place) as connection:  # and its entries put into this one
        connection.exec_driver_sql("DELETE FROM entries WHERE seq = 2")
        entry = rows[1]
        connection.execute(
            text(
                "INSERT INTO entries (seq, kind, job, account, recorded_at, body, prev_hash, hash,"
                " signature) VALUES (2, 'reserve', 'job-1', :account, :at, :body, :prev, :hash, :s)"
            ),
            {
                "account": ACCOUNT,
                "at": entry.data["at"],
                "body": entry.body,
                "prev": entry.data["prev"],
                "hash": entry.hash,
                "s": entry.signature,
            },
        )
    found = ledger.verify()
    assert not found.ok and found.first_bad["seq"] == 2
    swapped.close()
    twin.close()


@ON_SQLITE  # where a copied file is a backup; on PostgreSQL the deleted row stands for it
def test_a_restored_backup_is_found(tmp_path, make, request):
    place = make()
    ledger = place.create()
    ledger.open_account(place.terms())
    place.reserve(ledger)
    ledger.close()
    database = Path(place.url.removeprefix("sqlite:///"))
    shutil.copy(database, tmp_path / "backup.db")
    ledger = place.open()
    ledger.start("job-1", go="g")
    ledger.mark_read("job-1")
    ledger.close()
    shutil.copy(tmp_path / "backup.db", database)
    ledger = place.open()
    found = ledger.verify()
    assert not found.ok and found.first_bad["seq"] == 3
    with pytest.raises(LedgerTampered):
        ledger.release("job-1")
    ledger.close()


def test_a_rewritten_chain_is_found_by_heads_held_elsewhere(place, ledger, tmp_path):
    """The owner rewrites everything with the right key, head file included."""
    place.run(ledger)
    anchor = tmp_path / "anchor.json"
    ledger.checkpoint(anchor)
    held = [
        checkpoint.read(anchor, public=place.key.public, verify=verify),
        Head(2, list(ledger.entries())[1].hash, "coordinator"),
    ]
    vouched = ledger.verify(held)
    assert (vouched.ok, vouched.vouched_to, vouched.vouched_by) == (True, 4, "anchor.json")
    assert ledger.verify().vouched_to == 0

    with tampering(place) as connection:
        for table in ("entries", "charges"):
            seq = 1 if table == "entries" else 0
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE seq > {seq}")
        first = connection.execute(text("SELECT body, hash FROM entries")).one()
        balance = canonical.encode(canonical.decode(first.body)["after"]["accounts"][ACCOUNT])
        connection.execute(
            text("UPDATE accounts SET balance = :balance, seq = 1"), {"balance": balance}
        )
    HeadFile(place.head).write(canonical.decode(first.body)["ledger"], Head(1, first.hash))
    clean = ledger.verify()
    assert clean.ok and clean.vouched_to == 0  # its own word, and nobody else's
    found = ledger.verify(held)
    assert not found.ok and found.first_bad["seq"] == 2
    for key in ("other-1", "other-2", "other-3"):
        place.reserve(ledger, key)
    found = ledger.verify(held)
    assert not found.ok and found.first_bad["seq"] == 2


def test_a_forged_admission_is_found(place, ledger, monkeypatch):
    """An entry sealed with the right key that admits what the filter refuses."""
    from privacy.ledger import replay
    from privacy.ledger.operations import reserve as operation

    huge = Repeat(times=10**6, of=Gaussian(sigma=100.0))
    with pytest.raises(Refused):
        place.reserve(ledger, events={ACCOUNT: huge})
    with monkeypatch.context() as patch:
        patch.setattr(operation, "admit", lambda balance, asked: asked)
        patch.setattr(replay, "admit", lambda balance, asked: asked)
        place.reserve(ledger, events={ACCOUNT: huge})
    found = ledger.verify()
    assert not found.ok and found.first_bad["seq"] == 2
    assert "cannot have admitted" in found.first_bad["reason"]


def test_missing_or_changed_triggers_are_found(place, ledger):
    engine = create_engine(Store(place.url).engine.url)
    with engine.begin() as connection:
        on = "" if place.sqlite else " ON entries"
        connection.exec_driver_sql(f"DROP TRIGGER entries_no_delete{on}")
    engine.dispose()
    found = ledger.verify()
    assert not found.ok and "entries_no_delete" in found.first_bad["reason"]


@pytest.mark.parametrize("statement", ["UPDATE {} SET signature = 'x'", "DELETE FROM {}"])
@pytest.mark.parametrize("table", ["entries", "identity"])
def test_the_database_itself_refuses_to_forget(place, ledger, table, statement):
    engine = create_engine(Store(place.url).engine.url)
    with pytest.raises(Exception, match="append-only"), engine.begin() as connection:
        connection.exec_driver_sql(statement.format(table))
    if not place.sqlite:
        with pytest.raises(Exception, match="append-only"), engine.begin() as connection:
            connection.exec_driver_sql(f"TRUNCATE {table}")
    engine.dispose()
    assert ledger.verify().ok


def test_a_changed_balance_is_not_believed(place, ledger):
    """Before anything is decided on it, a cache is compared with the entry that made it."""
    place.run(ledger)
    with tampering(place) as connection:
        row = connection.execute(text("SELECT balance FROM accounts")).one()
        empty = canonical.decode(row.balance)
        empty["spent"]["losses"] = [0 for _ in empty["spent"]["losses"]]
        connection.execute(
            text("UPDATE accounts SET balance = :new"), {"new": canonical.encode(empty)}
        )
    for attempt in (
        lambda: place.reserve(ledger, "job-2"),
        lambda: ledger.would_admit(ACCOUNT, JOB),
        lambda: ledger.settle("job-1", executed=None, stop=Stop.COMPLETED),
    ):
        with pytest.raises(LedgerTampered, match="not as entry"):
            attempt()


def test_a_changed_state_is_not_believed(place, ledger):
    place.run(ledger)
    with tampering(place) as connection:
        connection.execute(text("UPDATE charges SET state = 'reserved'"))
    with pytest.raises(LedgerTampered):
        ledger.release("job-1")


def older(content: bytes) -> slice:
    """Where the slot lies that the next write would overwrite."""
    turns = [canonical.decode(content[at : at + SLOT].decode())["turn"] for at in (0, SLOT)]
    return slice(0, SLOT) if turns[0] < turns[1] else slice(SLOT, 2 * SLOT)


def newer(content: bytes) -> slice:
    """Where the slot lies that holds the head."""
    return slice(SLOT, 2 * SLOT) if older(content).start == 0 else slice(0, SLOT)


def spoil(place: Any, which: Callable[[bytes], slice]) -> None:
    content = bytearray(place.head.read_bytes())
    content[which(content)] = bytes(SLOT)
    place.head.write_bytes(content)


DAMAGES = {
    "emptied": lambda whole: b"",
    "another file": lambda whole: b"{}",
    "cut short": lambda whole: whole[:-1],
    "halved": lambda whole: whole[:SLOT],
    "zeroed": lambda whole: bytes(len(whole)),
    "nested": lambda whole: b"[" * len(whole),
    "the older half spoiled": lambda whole: whole.replace(whole[older(whole)], bytes(SLOT)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_head_file_is_found(place, ledger, damage):
    place.head.write_bytes(DAMAGES[damage](place.head.read_bytes()))
    assert not ledger.verify().ok
    with pytest.raises(PrivacyError):
        place.reserve(ledger)


def test_the_head_of_another_ledger_is_found(place, ledger, tmp_path):
    with ledger._store.reading() as connection:
        last = connection.execute(text("SELECT seq, hash FROM entries")).one()
    HeadFile(place.head).write("0" * 32, Head(last.seq, last.hash))
    assert "another ledger" in ledger.verify().first_bad["reason"]
    with pytest.raises(LedgerTampered, match="another ledger"):
        place.reserve(ledger)


def test_every_flipped_byte_of_a_slot_spoils_it(place, ledger):
    content = place.head.read_bytes()
    where = older(content)
    said = content[where].rstrip()
    for at in range(0, len(said), 7):
        changed = bytearray(content)
        changed[where.start + at] ^= 1
        place.head.write_bytes(changed)
        with pytest.raises(LedgerTampered):
            place.reserve(ledger)


def test_what_a_crash_spoils_while_it_writes_the_head_is_made_good(place, ledger):
    place.reserve(ledger)
    spoil(place, newer)  # the database was committed before
    assert ledger.verify().ok
    ledger.start("job-1", go="g")
    spoil(place, older)
    assert not ledger.verify().ok


def test_a_lost_entry_behind_a_spoiled_head_is_found_and_recovery_closes_the_account(place, ledger):
    """The half that is left agrees with the database, but the other one named a later entry."""
    place.reserve(ledger)
    with tampering(place) as connection:
        connection.execute(text("DELETE FROM entries WHERE seq = 2"))
        connection.execute(text("DELETE FROM charges"))
        balance = connection.execute(text("SELECT body FROM entries WHERE seq = 1")).scalar_one()
        balance = canonical.encode(canonical.decode(balance)["after"]["accounts"][ACCOUNT])
        connection.execute(text("UPDATE accounts SET balance = :b, seq = 1"), {"b": balance})
    spoil(place, newer)
    assert "half of the head file" in ledger.verify().first_bad["reason"]
    with pytest.raises(LedgerTampered):
        place.reserve(ledger)
    assert ledger.recover([]).breached == (ACCOUNT,)
    assert ledger.verify().ok


def test_a_missing_head_file_is_found(place, ledger):
    place.run(ledger)
    place.head.unlink()
    assert not ledger.verify().ok
    with pytest.raises(LedgerTampered):
        place.reserve(ledger, "job-2")


def test_checkpoints_are_signed(place, ledger, tmp_path):
    path = tmp_path / "anchor.json"
    ledger.checkpoint(path)
    path.write_text(path.read_text().replace('seq\\":1', 'seq\\":9'))
    with pytest.raises(LedgerTampered):
        checkpoint.read(path, public=place.key.public, verify=verify)
    path.write_text("[]")
    with pytest.raises(LedgerTampered, match="not a checkpoint"):
        checkpoint.read(path, public=place.key.public, verify=verify)
