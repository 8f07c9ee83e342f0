"""Reserving, and giving reservations back that were never started."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from privacy.errors import InvalidRequest, KeyConflict, Refused, WrongState
from privacy.ledger import canonical
from privacy.ledger.balance import Balance, admit, share, used
from privacy.ledger.clock import stamp
from privacy.ledger.filters.amounts import Charge
from privacy.ledger.pricing import Pricer
from privacy.ledger.replay import Body
from privacy.ledger.rows import Rows
from privacy.ledger.states import Line, State


class Due(Exception):
    """Not an error: reservations whose time is over are to be given back first."""


def reserve(
    rows: Rows,
    price: Pricer,
    now: datetime,
    *,
    key: str,
    job: str,
    events: Mapping[str, dict[str, Any]],
    releases: Mapping[str, int],
    refundable: bool,
    digest: str,
    expires: datetime,
    accountant: str,
) -> Body | int:
    """Reserve on every account, or on none (`Refused`); `Due` before others have expired."""
    payload = canonical.sha256(
        {
            "job": job,
            "events": dict(events),
            "releases": dict(releases),
            "refundable": refundable,
            "digest": digest,
        }
    )
    before = rows.find_charge(key)
    if before is not None:
        if before.payload != payload:
            raise KeyConflict(
                f"key {key!r} stands for another request; take a new key", field="key", value=key
            )
        if before.state in (State.RELEASED, State.EXPIRED):
            raise WrongState(
                f"key {key!r} is {before.state.value}; take a new key", field="key", value=key
            )
        return before.reserved_at
    if stamp(expires) <= stamp(now):
        raise InvalidRequest(
            "expires: the reservation would have expired already",
            field="expires",
            value=stamp(expires),
            allowed=f"after {stamp(now)}",
        )
    _whole_sources(rows, events)
    if rows.due(stamp(now)):
        raise Due
    lines = {}
    for account in sorted(events):
        balance = rows.account(account)
        asked = price.one(rows, account, (events[account], balance.epsilon))
        charge = admit(balance, asked)
        if charge is None:
            raise refusal(account, balance, asked)
        lines[account] = Line(events[account], charge, balance.epsilon).document()
    return {
        "kind": "reserve",
        "key": key,
        "job": job,
        "digest": digest,
        "payload": payload,
        "refundable": refundable,
        "expires": stamp(expires),
        "accountant": accountant,
        "releases": dict(releases),
        "lines": lines,
    }


def release(rows: Rows, *, key: str) -> Body | int:
    """Give one reservation back; one already given back is no error."""
    charge = rows.charge(key)
    if charge.state in (State.RELEASED, State.EXPIRED):
        return charge.last
    if charge.state is not State.RESERVED:
        raise WrongState(
            f"key {key!r} is {charge.state.value}: what was started is settled, never released",
            field="key",
            value=charge.state.value,
            allowed=State.RESERVED.value,
        )
    return {"kind": "release", "job": charge.job, "keys": [key]}


def expire(rows: Rows, now: datetime) -> Body | int:
    """Give back the reservations whose time is over."""
    due = sorted(rows.due(stamp(now)))
    return {"kind": "expire", "keys": due} if due else 0


def refusal(account: str, balance: Balance, asked: Charge) -> Refused:
    """What a refusal says: public facts only."""
    left = 1 - used(balance.limits, balance.total())
    if balance.breached is not None:
        reason = f"it is breached ({balance.breached}) and admits nothing more"
    else:
        reason = (
            f"the job asks for {share(balance.limits, asked):.4%} of it and {max(left, 0):.4%} "
            f"is left (capacity epsilon {balance.epsilon:g})"
        )
    return Refused(
        f"account {account}: {reason}",
        field=account,
        value=share(balance.limits, asked),
        allowed=max(left, 0.0),
    )


def _whole_sources(rows: Rows, events: Mapping[str, object]) -> None:
    if not events:
        raise InvalidRequest("events: a reservation names the accounts it charges", field="events")
    for source in {account.rpartition("/")[0] for account in events}:
        missing = sorted(set(rows.accounts_of(source)) - set(events))
        if missing:
            raise InvalidRequest(
                f"events: a job on {source!r} is charged to every account of it; "
                f"{', '.join(missing)} is missing",
                field="events",
                value=sorted(events),
                allowed=rows.accounts_of(source),
            )
