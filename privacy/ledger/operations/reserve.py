"""Reserving, and giving reservations back that were never started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from privacy.errors import InvalidRequest, KeyConflict, Refused, WrongState
from privacy.ledger import canonical
from privacy.ledger.balance import Balance, admit, share
from privacy.ledger.clock import stamp
from privacy.ledger.filters.amounts import Charge
from privacy.ledger.pricing import Pricer
from privacy.ledger.replay import Body
from privacy.ledger.rows import Rows
from privacy.ledger.states import Line, State
from privacy.ledger.views import Account, account_view


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
    approval: Mapping[str, Any] | None,
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
            seen = account_view(rows.opening(account), balance, rows.account_seq(account))
            epsilon = price.filter(rows, account).epsilon(asked.losses)
            raise refusal(seen, balance, asked, epsilon)
        lines[account] = Line(events[account], charge, balance.epsilon).document()
    entry: Body = {
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
    return entry if approval is None else entry | {"approval": dict(approval)}


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


def refusal(account: Account, balance: Balance, asked: Charge, epsilon: float) -> Refused:
    """What a refusal says: public facts only.

    `epsilon` is what the account's filter makes of the job alone, to be held beside the epsilon
    that is left; the shares tell it where the filter's delta is what has run out.
    """
    if balance.breached is not None:
        reason = f"it is breached ({balance.breached}) and admits nothing more"
    else:
        part = share(balance.limits, asked)
        asks = f"epsilon {epsilon:.2f}" if math.isfinite(epsilon) else "no finite epsilon"
        of = f"{part:.1%} of it" if part <= 1 else "more than all of it"
        reason = (
            f"the job asks for {asks} by the account's filter ({of}), and epsilon "
            f"{account.remaining_epsilon:.2f} of {account.capacity_epsilon:g} is left at delta "
            f"{account.delta:g} ({max(1 - account.used, 0.0):.1%} of it; shares add up, epsilons "
            "need not)"
        )
    return Refused(
        f"account {account.id}: {reason}",
        field=account.id,
        value=epsilon,
        allowed={"remaining_epsilon": account.remaining_epsilon, "delta": account.delta},
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
