"""What the ledgers say, as frozen rows: pure functions of a home, its ledgers opened read-only.

Epsilons are for display; shares and dates come from `used`, the part of an account that is gone
by its own filter; what an account claims to others is the largest capacity ever set.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import func, select

from dashboard import reading
from dashboard.reading import Book
from federation import approvals as asked
from federation import capacities, waiting
from federation.home import Home
from federation.settings import Federation
from privacy.ledger import Account, AccountTerms, Spend, clock, schema
from privacy.ledger.balance import Balance, Tally, repeats, used
from privacy.ledger.filters import Filter, for_terms
from privacy.ledger.forecast import forecast
from privacy.ledger.history import history
from privacy.ledger.rows import Rows
from privacy.ledger.views import account_view


@dataclass(frozen=True, slots=True)
class SpendLine:
    """One charge: what it takes alone, and where the account stands with all before it.

    `used_after` and `epsilon_after` include reservations; `epsilon` is what the charge would cost
    an account of its own. Epsilons do not add up: the filter composes.
    """

    silo: str
    account: str
    entry: int
    when: datetime
    job: str
    state: str
    mechanism: str
    share: float
    epsilon: float
    used_after: float
    epsilon_after: float


@dataclass(frozen=True, slots=True)
class AccountLine:
    """One account: (silo, source, unit), what it allows, what is gone, where it is heading.

    `standing` is what the ledger says of itself; `dashboard.statuses` weighs it with the check of
    the chain. `breach`: why it is closed, empty otherwise. `jobs_that_fit`: how many more charges
    like the last; `None` where there is none yet.
    """

    silo: str
    source: str
    datasets: tuple[str, ...]
    unit: str
    relation: str
    filter: str
    delta: float
    capacity: float
    claim: float
    spent: float
    reserved: float
    remaining: float
    used: float
    standing: str
    breach: str
    unprotected: int
    touched: int
    per_30_days: float
    spent_by: datetime | None
    jobs_that_fit: int | None
    spends: tuple[SpendLine, ...]

    @property
    def name(self) -> str:
        """SILO/SOURCE/UNIT, as the command line prints it."""
        return f"{self.silo}/{self.source}/{self.unit}"


@dataclass(frozen=True, slots=True)
class ReleaseLine:
    """How many releases of a job left a silo under one protection; `names` of the unprotected."""

    silo: str
    job: str
    protection: str
    count: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SiloBooks:
    """All that one silo's ledger says; `problem` where it cannot be read, and then no account."""

    silo: str
    entries: int = 0
    accounts: tuple[AccountLine, ...] = ()
    releases: tuple[ReleaseLine, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Overview:
    """A home as it stands.

    `elsewhere`: members whose ledgers are not under this home. `holders`: the silos that declare
    rows of each data set. `silos_per_subject`: the most of them that one person can be in, as the
    federation declares; None: all. `approvals`: what each silo was
    asked to let run, and what was answered; a silo's ledger alone says what then ran. Of silos
    elsewhere they are what a coordinator's jobs wait for. `proposals`: larger capacities that wait
    for a second person.
    """

    federation: str
    silos: tuple[SiloBooks, ...]
    elsewhere: tuple[str, ...]
    silos_per_subject: int | None
    holders: Mapping[str, tuple[str, ...]]
    approvals: tuple[asked.Line, ...] = ()
    proposals: tuple[capacities.Word, ...] = ()

    @property
    def accounts(self) -> tuple[AccountLine, ...]:
        """The accounts of all silos."""
        return tuple(account for silo in self.silos for account in silo.accounts)

    @property
    def releases(self) -> tuple[ReleaseLine, ...]:
        """The releases of all silos."""
        return tuple(line for silo in self.silos for line in silo.releases)


def overview(home: Home) -> Overview:
    """Read every ledger under a home; raises where there is no federation."""
    federation = home.federation()
    here = home.silo_names()
    elsewhere = tuple(sorted(set(federation.silos) - set(here)))
    silos = tuple(_books(home, federation, silo) for silo in here)
    return Overview(
        federation=federation.name,
        silos=silos,
        elsewhere=elsewhere,
        silos_per_subject=federation.max_silos_per_subject,
        holders={name: federation.silos_with(name) for name in federation.datasets},
        approvals=(
            *(line for silo in here for line in _approvals(home, silo)),
            *waiting.lines(home, elsewhere),
        ),
        proposals=tuple(word for books in silos for word in _proposals(home, books)),
    )


def marks(home: Home) -> Hashable:
    """What changes when a ledger under a home does: heads, and the files they are in.

    Somebody who edits an old row leaves the head as it is, so the files count too.
    """
    files = [home.federation_file, home.mirror, Path(f"{home.mirror}-wal")]
    for document in sorted(home.jobs.glob("*/waiting.json")):
        files += [document, document.with_name("job.json")]
    heads = []
    federation = home.federation()
    for silo in home.silo_names():
        files += [home.silo(silo).config, home.silo(silo).head]
        for request in sorted(home.silo(silo).jobs.glob("*/request.json")):
            files += [request, request.with_name("approval.json")]
        files += sorted(home.silo(silo).capacities.glob("*.json"))
        try:
            with reading.opened(home, silo, federation) as book:
                head = book.ledger.head()
                heads.append((silo, head.seq, head.hash))
                if book.store.path is not None:
                    files += [book.store.path, Path(f"{book.store.path}-wal")]
        except reading.UNREADABLE as error:
            heads.append((silo, -1, reading.unreadable(error)))
    return tuple(heads), tuple(_stamp(file) for file in files)


def _approvals(home: Home, silo: str) -> tuple[asked.Line, ...]:
    """The requests at a silo; none where its settings cannot be read, which its books tell."""
    try:
        return asked.lines(home, silo, clock.now())
    except reading.UNREADABLE:
        return ()


def _proposals(home: Home, books: SiloBooks) -> tuple[capacities.Word, ...]:
    """What waits for a second person at a silo; none where its settings cannot be read."""
    allowed = {f"{line.source}/{line.unit}": line.capacity for line in books.accounts}
    try:
        return tuple(capacities.proposals(home, books.silo, allowed, clock.now()))
    except reading.UNREADABLE:
        return ()


def _stamp(file: Path) -> tuple[int, int]:
    """Size and time of a file; an empty one is none, as readers leave empty logs behind."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return (found.st_size, found.st_mtime_ns) if found.st_size else (0, 0)


def _books(home: Home, federation: Federation, silo: str) -> SiloBooks:
    entries = 0
    try:
        with reading.opened(home, silo, federation) as book:
            entries = book.ledger.head().seq
            accounts = tuple(_account(book, account.id) for account in book.ledger.accounts())
            return SiloBooks(silo, entries, accounts, _releases(book))
    except reading.UNREADABLE as error:
        return SiloBooks(silo, entries, problem=reading.unreadable(error))


def _account(book: Book, account_id: str) -> AccountLine:
    with book.store.reading() as connection:
        rows = Rows(connection, book.identity)
        opening, balance = rows.opening(account_id), rows.account(account_id)
        account = account_view(opening, balance, rows.account_seq(account_id))
        spends = history(connection, rows, account_id)
    filter_ = for_terms(AccountTerms.read(opening["terms"]), opening["parameters"])
    ahead = forecast(book.ledger, account_id)
    return AccountLine(
        silo=book.silo,
        source=account.source,
        datasets=book.datasets.get(account.source, ()),
        unit=account.unit.value,
        relation=account.relation.value,
        filter=account.filter,
        delta=account.delta,
        capacity=account.capacity_epsilon,
        claim=account.largest_capacity_epsilon,
        spent=account.spent_epsilon,
        reserved=account.reserved_epsilon,
        remaining=account.remaining_epsilon,
        used=account.used,
        standing=account.status,
        breach=balance.breached or "",
        unprotected=account.unprotected,
        touched=account.seq,
        per_30_days=ahead.rate_per_30_days,
        spent_by=ahead.spent_by,
        jobs_that_fit=repeats(balance, spends[-1].charge) if spends else None,
        spends=_course(book.silo, account, balance, filter_, spends),
    )


def _course(
    silo: str, account: Account, balance: Balance, filter_: Filter, spends: list[Spend]
) -> tuple[SpendLine, ...]:
    """The charges in the order of their reservations, each with what is used after it."""
    lines, total = [], Tally.empty(filter_.positions())
    for spend in spends:
        total = total.plus(spend.charge)
        lines.append(
            SpendLine(
                silo=silo,
                account=f"{silo}/{account.id}",
                entry=spend.seq,
                when=spend.when,
                job=spend.job,
                state=spend.state,
                mechanism=spend.event.model_dump_json(),
                share=spend.share,
                epsilon=filter_.epsilon(spend.charge.losses),
                used_after=used(balance.limits, total),
                epsilon_after=filter_.epsilon(total.sums()),
            )
        )
    return tuple(lines)


def _releases(book: Book) -> tuple[ReleaseLine, ...]:
    column = schema.releases.c
    counted = select(column.job, column.protection, func.count().label("number")).group_by(
        column.job, column.protection
    )
    named = (
        select(column.job, column.name)
        .where(column.protection == "unprotected")
        .distinct()
        .order_by(column.name)
    )
    names: dict[str, list[str]] = {}
    with book.store.reading() as connection:
        for row in connection.execute(named):
            names.setdefault(row.job, []).append(row.name)
        return tuple(
            ReleaseLine(
                book.silo,
                row.job,
                row.protection,
                row.number,
                tuple(names.get(row.job, ())) if row.protection == "unprotected" else (),
            )
            for row in connection.execute(counted.order_by(column.job, column.protection))
        )
