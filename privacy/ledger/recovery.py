"""After a backup was restored: no budget comes back with it.

Entries that others hold are appended again, byte by byte as they were signed. Where some are
lost for good, every account is marked breached; what the lost receipts show was reserved is
charged whole, and so is every charge that is open. The breach entry names the heads that were
lost, so that those who hold them can see that the loss was owned up to.

Without a head file nobody here knows how many entries there were, nor with one that stands behind
entries that others hold: it came back with the backup. A receipt of the last entry shows
that others know of none beyond it; then only what is open is charged whole, for of that a start,
a read or a release may be missing. Without such a receipt every account is marked breached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from privacy.errors import LedgerTampered
from privacy.ledger import canonical, schema, verify
from privacy.ledger.balance import unbounded
from privacy.ledger.chain import Head, Identity, Receipt
from privacy.ledger.heads import HeadFile
from privacy.ledger.replay import Body
from privacy.ledger.rows import Rows
from privacy.ledger.signing import Verifier
from privacy.ledger.states import Line
from privacy.ledger.store import Store
from privacy.ledger.writer import Writer

REASON = "entries were lost when a backup was restored"
HEADLESS = "the head file was lost or restored, and with it how many entries there were"
_KEPT = ("key", "job", "digest", "payload", "refundable", "expires", "accountant", "releases")


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a recovery did.

    `replayed`: entries appended again; `lost`: heads known elsewhere that could not be; `breached`:
    the accounts closed for it.
    """

    replayed: int
    lost: tuple[Head, ...]
    breached: tuple[str, ...]


def recover(
    store: Store,
    identity: Identity,
    heads: HeadFile,
    writer: Writer,
    check: Verifier,
    receipts: list[Receipt],
) -> Recovery:
    """See `Ledger.recover`. What is in the database must itself be whole (`LedgerTampered`)."""
    for receipt in receipts:
        receipt.check(identity.public, check)
        if receipt.ledger != identity.ledger:
            raise LedgerTampered("a receipt of another ledger", field="receipts")
    with heads.locked():
        verify.check_database(store, identity, check)
        ordered = sorted(receipts, key=lambda receipt: receipt.seq)
        replayed = _replant(store, identity, writer, ordered)
        known = [receipt.head for receipt in ordered]
        filed = heads.read(identity.ledger)
        lost = unknown(store, identity, [*known, *([filed.head] if filed else [])])
        breached: tuple[str, ...] = ()
        last = _last(store, identity)
        if filed and filed.spoiled and filed.head.seq >= last.seq:
            filed = None  # the spoiled half may have named a later entry
        if filed and filed.head.seq < last.seq and replayed:
            filed = None  # restored too: it says nothing of what came after the last known entry
        if lost or filed is None:
            reached = not lost and any(head.seq == last.seq for head in known)
            gone = {head.hash for head in lost}
            shown = [receipt for receipt in ordered if receipt.hash in gone]
            entry = writer.append_lost(lambda rows, _: _breach(rows, lost, shown, not reached))
            breached = tuple(entry.data["accounts"]) if entry else ()
            last = entry.head if entry else last
        heads.write(identity.ledger, last)
    return Recovery(replayed, tuple(lost), breached)


def _replant(store: Store, identity: Identity, writer: Writer, ordered: list[Receipt]) -> int:
    last, count = _last(store, identity), 0
    for receipt in ordered:
        if receipt.seq == last.seq + 1 and receipt.data["prev"] == last.hash:
            writer.replant(receipt)
            last = receipt.head
            count += 1
    return count


def _last(store: Store, identity: Identity) -> Head:
    with store.reading() as connection:
        seq, _, hash_ = Rows(connection, identity).last()
    return Head(seq, hash_)


def unknown(store: Store, identity: Identity, known: list[Head]) -> list[Head]:
    """The heads among `known` that are not in the chain, nor owned up to by a breach entry."""
    table = schema.entries.c
    with store.reading() as connection:
        owned = {
            (head["seq"], head["hash"])
            for body in connection.execute(
                select(table.body).where(table.kind == "breach")
            ).scalars()
            for head in canonical.decode(body)["lost"]
        }
        lost = []
        for head in known:
            query = select(table.hash).where(table.seq == head.seq)
            found = connection.execute(query).scalar() if head.seq else identity.genesis
            if found != head.hash and (head.seq, head.hash) not in owned:
                lost.append(head)
    return sorted(set(lost), key=lambda head: head.seq)


def _breach(rows: Rows, lost: list[Head], receipts: list[Receipt], close: bool) -> Body | int:
    """Charge whole what the lost receipts show, and what is still open; `close` every account.

    Of a charge that is open here the lost entries may have told of a start, a read or a release.
    """
    charges: dict[str, Any] = {}
    accounts = rows.accounts()
    forfeited = [charge.key for charge in rows.open_charges()]
    if not lost and not forfeited and not (close and accounts):
        return 0
    totals = {account: rows.account(account).total() for account in accounts}
    for receipt in receipts:
        data = receipt.data
        if data["kind"] != "reserve" or rows.find_charge(data["key"]) is not None:
            continue
        lines = {}
        for account in set(data["lines"]) & set(accounts):
            line = Line.read(data["lines"][account])
            charge = unbounded(totals[account], line.charge)
            totals[account] = totals[account].plus(charge)
            lines[account] = Line(line.event, charge, line.epsilon).document()
        charges[data["key"]] = {**{field: data[field] for field in _KEPT}, "lines": lines}
    return {
        "kind": "breach",
        "accounts": accounts if close else [],
        "reason": REASON if lost else HEADLESS,
        "lost": [{"seq": head.seq, "hash": head.hash} for head in lost],
        "charges": charges,
        "forfeited": forfeited,
    }
