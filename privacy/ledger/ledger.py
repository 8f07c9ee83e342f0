"""One silo's privacy ledger: what every answer cost, and whether the next may be given.

    ledger = Ledger.create(url, silo="north", head=path, signer=key, verify=verify)
    ledger.open_account(AccountTerms(source="heart", unit="record", ...))
    receipt = ledger.reserve(key=job, job=job, events={"heart/record": event}, ...)
    ledger.start(job, go=digest)     # durable before the first row is read
    ledger.mark_read(job)
    ledger.settle(job, executed={"heart/record": event}, stop=Stop.COMPLETED)

Every operation appends at most one entry to a hash chain, in one transaction, and writes the new
head to a file outside the database before it returns. The rules are in docs/ledger.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from privacy.errors import InvalidRequest
from privacy.events import Event
from privacy.ledger import canonical, checkpoint, clock, founding, nonces, recovery
from privacy.ledger import verify as verification
from privacy.ledger.chain import Head, Identity, Receipt
from privacy.ledger.filters import open_filter
from privacy.ledger.heads import HeadFile
from privacy.ledger.looking import Looking
from privacy.ledger.operations import owner, reserve, run
from privacy.ledger.pricing import Pricer, Unpriced, accountant_version
from privacy.ledger.rows import Rows
from privacy.ledger.signing import Signer, Verifier
from privacy.ledger.states import Stop
from privacy.ledger.store import Store
from privacy.ledger.terms import AccountTerms, check_epsilon, name
from privacy.ledger.views import Account
from privacy.ledger.writer import Writer


class Ledger(Looking):
    """A silo's ledger, open; safe to share between threads and processes.

    Make one with `create` or `open`. Errors are those of `privacy.errors`, `LedgerTampered` from
    any operation that meets a row or a head that does not agree.
    """

    def __init__(
        self,
        store: Store,
        identity: Identity,
        heads: HeadFile,
        signer: Signer,
        verify: Verifier,
        now: Callable[[], datetime],
    ) -> None:
        super().__init__(store, identity)
        self._heads = heads
        self._signer = signer
        self._verify = verify
        self._now = now
        self._writer = Writer(store, identity, heads, signer, now)

    @classmethod
    def create(
        cls,
        url: str,
        *,
        silo: str,
        head: Path,
        signer: Signer,
        verify: Verifier,
        clock: Callable[[], datetime] = clock.now,
    ) -> Ledger:
        """Make a new ledger; a place that holds one already raises `InvalidRequest`."""
        name("silo", silo)
        store, heads = Store(url), HeadFile(head)
        identity = founding.found(store, heads, silo=silo, signer=signer, now=clock())
        return cls(store, identity, heads, signer, verify, clock)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        silo: str,
        head: Path,
        signer: Signer,
        verify: Verifier,
        clock: Callable[[], datetime] = clock.now,
    ) -> Ledger:
        """Open the silo's ledger; none there raises `LedgerMissing`."""
        store = Store(url)
        identity = founding.identify(store, silo=silo, public=signer.public, verify=verify)
        return cls(store, identity, HeadFile(head), signer, verify, clock)

    @classmethod
    def upgrade(cls, url: str) -> None:
        """Run the migrations that this version brings, on a ledger that is there."""
        store = Store(url)
        if store.revision() is None:
            store.require()
        store.upgrade()
        store.close()

    def close(self) -> None:
        """Close the database's connections."""
        self._store.close()

    # Accounts

    def open_account(self, terms: AccountTerms) -> Account:
        """Open an account; the same terms again change nothing.

        `WrongState` while its source has an open charge, which would miss the account.
        """
        made = open_filter(terms)
        self._append(
            lambda rows, price, now: owner.open_account(rows, now, terms=terms, filter_=made)
        )
        return self.account(terms.source, terms.unit)

    def set_capacity(
        self,
        account_id: str,
        epsilon: float,
        reason: str,
        *,
        was: float | None = None,
        agreed: Sequence[Mapping[str, Any]] = (),
    ) -> Account:
        """Set an account's capacity; what it claims stays the largest ever set.

        `agreed`: the signed statements of the persons who raise it, part of the entry. `was`, where
        given, is the capacity they knew; `WrongState` where it is another by now.
        """
        check_epsilon(epsilon)
        self._append(
            lambda rows, price, now: owner.set_capacity(
                rows,
                price,
                account=account_id,
                epsilon=epsilon,
                reason=reason,
                was=was,
                agreed=agreed,
            )
        )
        return self.account(*account_id.rsplit("/", 1))

    def reprice(self, account_id: str) -> Account:
        """Price every active charge with today's accountant; charges only rise."""
        self._append(
            lambda rows, price, now: owner.reprice(
                rows, price, account=account_id, accountant=accountant_version()
            )
        )
        return self.account(*account_id.rsplit("/", 1))

    def mark_breached(self, accounts: Iterable[str], reason: str) -> None:
        """Close accounts for good: they admit nothing more."""
        named = sorted(accounts)
        self._append(lambda rows, price, now: owner.breach(rows, accounts=named, reason=reason))

    # Charges

    def reserve(
        self,
        *,
        key: str,
        job: str,
        events: Mapping[str, Event],
        releases: Mapping[str, int],
        refundable: bool,
        digest: str,
        expires: datetime,
        approval: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """Reserve a job on every account of its sources, or on none (`Refused`).

        `releases`: the names of what may leave on it, and how many of each it pays for. A signed
        `approval` of the job, where there is one, becomes part of the entry. The same
        key and request answer the same receipt; another request under the key raises `KeyConflict`,
        a key whose reservation was given back `WrongState`.
        """
        name("key", key)
        name("job", job)
        for called, number in releases.items():
            name("releases", called)
            _count(f"releases.{called}", number)
        dumped = {account: _dump(event) for account, event in events.items()}
        return self._receipt(
            lambda rows, price, now: reserve.reserve(
                rows,
                price,
                now,
                key=key,
                job=job,
                events=dumped,
                releases=releases,
                refundable=refundable,
                digest=digest,
                expires=expires,
                accountant=accountant_version(),
                approval=approval,
            )
        )

    def release(self, key: str) -> Receipt:
        """Give back a reservation that was never started."""
        return self._receipt(lambda rows, price, now: reserve.release(rows, key=key))

    def expire(self) -> int:
        """Give back every reservation whose time is over by this clock; returns how many."""
        done = self._append(lambda rows, price, now: reserve.expire(rows, now))
        return len(done.data["keys"]) if isinstance(done, Receipt) else 0

    def start(self, key: str, *, go: str) -> Receipt:
        """Start a reservation on the coordinator's go; after this nothing times out."""
        return self._receipt(lambda rows, price, now: run.start(rows, now, key=key, go=go))

    def mark_read(self, key: str) -> None:
        """Record, durably, that the first row is about to be read."""
        self._append(lambda rows, price, now: run.read(rows, key=key))

    def settle(
        self,
        key: str,
        *,
        executed: Mapping[str, Event] | None,
        stop: Stop,
        released: int | None = None,
    ) -> Receipt:
        """Settle a started charge on what was executed (`None`: all of it).

        Something comes back only if the charge is refundable, the filter can return, the stop did
        not depend on private data, and `released` is given: what `released(job)` said before
        `executed` was computed. Where the job has logged others since, `WrongState` (field
        `released`) asks for it again. All of it comes back if no row was ever read. More than was
        reserved is charged truly and breaches the account.
        """
        dumped = None if executed is None else {a: _dump(e) for a, e in executed.items()}
        return self._receipt(
            lambda rows, price, now: run.settle(
                rows, price, key=key, executed=dumped, stop=stop, released=released
            )
        )

    def forfeit(self, key: str) -> Receipt:
        """End a started charge with all of it spent."""
        return self._receipt(lambda rows, price, now: run.forfeit(rows, key=key))

    def record_egress(
        self,
        *,
        job: str,
        round: int,
        name: str,
        protection: str,
        digest: str,
        request: str,
        size: int,
        event: Event | None,
    ) -> int:
        """Log a release before it is sent; returns the number of its entry.

        The same line again answers the same number; another one for the same job, round and name
        raises `KeyConflict`, one more than the job reserved of that name `WrongState`. An
        unprotected one is counted on every account of the job.
        """
        _count("round", round)
        _count("size", size)
        done = self._append(
            lambda rows, price, now: owner.egress(
                rows,
                job=job,
                round_=round,
                name=name,
                protection=protection,
                digest=digest,
                request=request,
                size=size,
                event=None if event is None else _dump(event),
            )
        )
        return done.seq if isinstance(done, Receipt) else done

    # Around the chain

    def see_nonce(self, nonce: str, digest: str, until: datetime) -> bool:
        """Record that a message was seen, durably; whether it is the first time.

        `False`: the same nonce came before with the same `digest`, a redelivery. Another digest
        raises `KeyConflict`. The nonce is kept up to `until`, which must lie ahead, and dropped
        after it. What was seen is no part of balances and stands in no entry.
        """
        now = self._now()
        return self._store.write(
            lambda connection: nonces.see(
                connection, nonce=nonce, digest=digest, until=until, now=now
            )
        )

    def checkpoint(self, path: Path) -> Head:
        """Write a signed checkpoint, to be kept where this host cannot change it."""
        head = self.head()
        checkpoint.write(path, self._identity, head, self._signer, self._now())
        return head

    def verify(self, known_heads: Iterable[Head] = ()) -> verification.Verification:
        """Check every column of every table, the head file, and heads known elsewhere."""
        return verification.verify(
            self._store, self._identity, self._heads, self._verify, list(known_heads)
        )

    def recover(self, receipts: Iterable[Receipt]) -> recovery.Recovery:
        """Bring a restored database up to what others know: replay receipts, else breach.

        `receipts`: this ledger's entries as others hold them (the coordinator's mirror, an
        export); others are `LedgerTampered`.
        """
        return recovery.recover(
            self._store, self._identity, self._heads, self._writer, self._verify, list(receipts)
        )

    # Inside

    def _append(self, decide: Decision) -> Receipt | int:
        """Append what an operation decides, once all that it needs beforehand is done."""
        price = Pricer(self._prices)
        while True:
            try:
                return self._writer.append(lambda rows, now: decide(rows, price, now))
            except Unpriced as some:
                price.find(some.lacking)
            except reserve.Due:
                self.expire()

    def _receipt(self, decide: Decision) -> Receipt:
        """The same, with the receipt of the entry that did it, now or before."""
        done = self._append(decide)
        return done if isinstance(done, Receipt) else self._writer.receipt(done)


Decision = Callable[[Rows, Pricer, datetime], "dict[str, Any] | int"]
"""An operation: it looks at the books and returns the next entry, or the number of one before."""


def _count(field: str, value: object) -> None:
    if type(value) is not int or not 0 <= value <= canonical.MAX:
        raise InvalidRequest(f"{field}: {value!r}", field=field, value=value, allowed=">= 0")


def _dump(event: Event) -> dict[str, Any]:
    dumped: dict[str, Any] = event.model_dump(mode="json")
    return dumped
