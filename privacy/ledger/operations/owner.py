"""What the owner does: opening accounts, capacities, re-pricing, breach; and the egress log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from privacy.errors import InvalidRequest, KeyConflict, WrongState
from privacy.ledger.balance import rooms, unbounded
from privacy.ledger.clock import stamp
from privacy.ledger.covering import covers_logged
from privacy.ledger.filters.amounts import UNIT, Charge
from privacy.ledger.filters.base import Filter
from privacy.ledger.operations.reserve import Due
from privacy.ledger.pricing import Pricer
from privacy.ledger.replay import Body
from privacy.ledger.rows import Rows
from privacy.ledger.states import ACTIVE, FREE, RUNNING, ChargeState, Line, State
from privacy.ledger.terms import AccountTerms

PROTECTIONS = ("dp", "masked", "encrypted", FREE, "unprotected")
OUTGROWN = "re-pricing found more spent than the account's capacity"


def open_account(rows: Rows, now: datetime, *, terms: AccountTerms, filter_: Filter) -> Body | int:
    """Open an account; the same terms again are no error, other terms are a `KeyConflict`.

    Not while a charge on the source is open: every job on it is charged to each of its accounts.
    Not once its rows were used either: an account claims for all that its source released.
    """
    opening: dict[str, Any] = {
        "terms": terms.document(),
        "parameters": filter_.parameters(),
        "positions": filter_.positions(),
        "limits": list(filter_.limits(terms.epsilon)),
    }
    if terms.id in rows.accounts():
        if rows.opening(terms.id) != opening:
            raise KeyConflict(
                f"account {terms.id} is there with other terms; terms never change",
                field="account",
                value=terms.id,
            )
        return 0
    if not any(opening["limits"]):
        raise InvalidRequest(
            f"epsilon: {terms.epsilon:g} at delta {terms.delta:g} leaves filter "
            f"{terms.filter!r} nothing to admit",
            field="epsilon",
            value=terms.epsilon,
        )
    if rows.due(stamp(now)):
        raise Due
    open_ = [c.key for c in rows.open_charges() if any(_on(terms.source, a) for a in c.lines)]
    if open_:
        raise WrongState(
            f"source {terms.source!r} has an open charge, {open_[0]}, that would miss the account; "
            "settle or release it first",
            field="source",
            value=open_,
            allowed="no charge that is reserved, started or read",
        )
    for other in rows.accounts_of(terms.source):
        if rows.account(other).used_rows:
            raise WrongState(
                f"the rows of source {terms.source!r} were used already, as {other} counts; an "
                "account that is opened now would leave that out of what it claims",
                field="source",
                value=terms.source,
                allowed="a source on which nothing was charged and nothing left unprotected",
            )
    return {"kind": "open", "account": terms.id, "opening": opening}


def egress(
    rows: Rows,
    *,
    job: str,
    round_: int,
    name: str,
    protection: str,
    digest: str,
    request: str,
    size: int,
    event: dict[str, Any] | None,
) -> Body | int:
    """Log a release; the same again answers the same, another one in its place is refused."""
    if protection not in PROTECTIONS:
        raise InvalidRequest(
            f"protection: {protection!r} is not known",
            field="protection",
            value=protection,
            allowed=PROTECTIONS,
        )
    line = {
        "job": job,
        "round": round_,
        "name": name,
        "protection": protection,
        "digest": digest,
        "request": request,
        "size": size,
        "event": event,
    }
    before = rows.find_release(job, round_, name)
    if before is not None:
        seq: int = before["seq"]
        logged = rows.receipt(seq).data
        if any(logged[field] != value for field, value in line.items()):
            raise KeyConflict(
                f"{name} of round {round_} of job {job} was released already, otherwise",
                field="request",
                value=request,
            )
        return seq
    charges = [charge for charge in rows.charges_of(job) if charge.state in RUNNING]
    # A charge that was never read can be given back whole, so nothing may have left on it.
    read = [charge for charge in charges if charge.state is State.READ]
    if protection != FREE and len(read) < max(len(charges), 1):
        raise WrongState(
            f"job {job} has no running charge whose first read is recorded: "
            "nothing of it may leave",
            field="job",
            value=job,
            allowed="a charge that was started and read",
        )
    key, number = (None, 0) if protection == FREE else _paying(rows, read, line)
    accounts = sorted({account for charge in charges for account in charge.lines})
    return {
        "kind": "egress",
        **line,
        "charge": key,
        "number": number,
        "unprotected": accounts if protection == "unprotected" else [],
    }


def _paying(rows: Rows, charges: list[ChargeState], line: dict[str, Any]) -> tuple[str, int]:
    """The charge that pays for a line of the egress log, and how many of that name it then has.

    The event must be among what the charge reserved; how often, its settlement looks at.
    """
    name, event = line["name"], line["event"]
    for charge in charges:
        number = rows.number(charge.key, name) + 1
        if number <= charge.releases.get(name, 0):
            break
    else:
        paid = sum(charge.releases.get(name, 0) for charge in charges)
        raise WrongState(
            f"{name} of round {line['round']} of job {line['job']} is beyond the {paid} releases "
            "of that name that were reserved",
            field="name",
            value=name,
            allowed=paid,
        )
    reserved = [part.event for part in charge.lines.values()]
    if event is not None and not covers_logged(reserved, [(event, 1)]):
        raise WrongState(
            f"{name} of round {line['round']} of job {line['job']} costs what was not reserved",
            field="event",
            value=event,
            allowed=reserved,
        )
    return charge.key, number


def set_capacity(
    rows: Rows,
    price: Pricer,
    *,
    account: str,
    epsilon: float,
    reason: str,
    was: float | None,
    agreed: Sequence[Mapping[str, Any]],
) -> Body | int:
    """Another capacity; the claim stays the largest ever set."""
    now = rows.account(account).epsilon
    if was is not None and now != was:
        raise WrongState(
            f"account {account} allows {now:g} now and not {was:g}, as was agreed",
            field="account",
            value=now,
            allowed=was,
        )
    return {
        "kind": "capacity",
        "account": account,
        "epsilon": epsilon,
        "limits": list(price.filter(rows, account).limits(epsilon)),
        "reason": reason,
        "agreed": [dict(statement) for statement in agreed],
    }


def reprice(rows: Rows, price: Pricer, *, account: str, accountant: str) -> Body | int:
    """Price every active charge of an account again; only what rises is changed."""
    balance = rows.account(account)
    total = balance.total()
    active = [c for c in rows.charges() if account in c.lines and c.state in ACTIVE]
    held = [charge.lines[account] for charge in active]
    today = price.all(rows, account, [(line.event, line.epsilon) for line in held])
    lines = {}
    for charge, old, now in zip(active, held, today, strict=True):
        raised = _raised(old.charge, now)
        if raised != old.charge:
            without = total.plus(old.charge, -1)
            raised = unbounded(without, raised)
            total = without.plus(raised)
            lines[charge.key] = Line(old.event, raised, old.epsilon).document()
    if not lines:
        return 0
    # The claim is the largest capacity ever set, so that is what must still hold.
    claimed = price.filter(rows, account).limits(balance.largest)
    fits = any(room is not None and room >= 0 for room in rooms(claimed, total))
    return {
        "kind": "reprice",
        "account": account,
        "accountant": accountant,
        "lines": lines,
        "breached": None if fits and total.delta <= UNIT else OUTGROWN,
    }


def breach(rows: Rows, *, accounts: list[str], reason: str) -> Body | int:
    """Close accounts for good."""
    for account in accounts:
        rows.account(account)
    return {
        "kind": "breach",
        "accounts": accounts,
        "reason": reason,
        "lost": [],
        "charges": {},
        "forfeited": [],
    }


def _on(source: str, account: str) -> bool:
    return account.rpartition("/")[0] == source


def _raised(old: Charge, new: Charge) -> Charge:
    losses = tuple(
        None if a is None or b is None else max(a, b)
        for a, b in zip(old.losses, new.losses, strict=True)
    )
    return Charge(losses, max(old.delta, new.delta))
