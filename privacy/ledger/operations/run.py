"""Starting, the first read, settling: the part of a charge's life in which data is read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from privacy.errors import InvalidRequest, KeyConflict, WrongState
from privacy.events import NOTHING
from privacy.ledger import canonical
from privacy.ledger.balance import Balance, saturate, unbounded
from privacy.ledger.clock import stamp
from privacy.ledger.covering import covers, covers_logged
from privacy.ledger.filters.amounts import Charge
from privacy.ledger.pricing import Pricer
from privacy.ledger.replay import Body
from privacy.ledger.rows import Rows
from privacy.ledger.states import RETURNING, RUNNING, ChargeState, Line, State, Stop

OVERSPENT = "a job ran more than it had reserved"


def start(rows: Rows, now: datetime, *, key: str, go: str) -> Body | int:
    """Start a reservation on a go; the same go again answers the same."""
    charge = rows.charge(key)
    if charge.state in RUNNING:
        if charge.go != go:
            raise KeyConflict(f"key {key!r} was started on another go", field="go", value=go)
        return charge.last
    if charge.state is not State.RESERVED or charge.expires <= stamp(now):
        seen = charge.state.value if charge.state is not State.RESERVED else State.EXPIRED.value
        raise WrongState(
            f"key {key!r} cannot start: it is {seen}",
            field="key",
            value=seen,
            allowed=State.RESERVED.value,
        )
    for account in charge.lines:
        aside = float(rows.opening(account)["terms"]["delta0"])
        if aside > 0 and rows.account(account).running:
            raise WrongState(
                f"account {account} sets delta aside, so its jobs run one after the other; "
                "settle the running one first",
                field=account,
                value="running",
                allowed="no running job",
            )
    return {"kind": "start", "key": key, "job": charge.job, "go": go}


def read(rows: Rows, *, key: str) -> Body | int:
    """Record the first read."""
    charge = rows.charge(key)
    if charge.state is State.READ:
        return 0
    if charge.state is not State.STARTED:
        raise WrongState(
            f"key {key!r} is {charge.state.value}: nothing may be read",
            field="key",
            value=charge.state.value,
            allowed=State.STARTED.value,
        )
    return {"kind": "read", "key": key, "job": charge.job}


def forfeit(rows: Rows, *, key: str) -> Body | int:
    """End a started charge with all of it spent."""
    charge = rows.charge(key)
    if charge.state is State.FORFEITED:
        return charge.last
    _running(charge)
    return {"kind": "forfeit", "key": key, "job": charge.job}


def settle(
    rows: Rows,
    price: Pricer,
    *,
    key: str,
    executed: Mapping[str, dict[str, Any]] | None,
    stop: Stop,
    released: int | None,
) -> Body | int:
    """Settle a started charge: what it cost in the end, and whether it broke its reservation.

    What was executed and what was reserved are both priced by today's accountant, so that they
    compare like with like; no accountant makes an overspend of a part of what was reserved.
    Nothing comes back unless the job has logged as many releases as whoever computed `executed`
    counted.
    """
    charge = rows.charge(key)
    settlement = canonical.sha256({"executed": executed, "stop": stop.value})
    if charge.state is State.SETTLED:
        if charge.settlement != settlement:
            raise KeyConflict(f"key {key!r} was settled otherwise", field="key", value=key)
        return charge.last
    _running(charge)
    if executed is not None and set(executed) != set(charge.lines):
        raise InvalidRequest(
            "executed: not the accounts of the reservation",
            field="executed",
            value=sorted(executed),
            allowed=sorted(charge.lines),
        )
    if released is not None and released != rows.released(charge.job):
        raise WrongState(
            f"job {charge.job} has logged other releases since what it executed was computed; "
            "compute it again",
            field="released",
            value=released,
            allowed=rows.released(charge.job),
        )
    unread = charge.state is State.STARTED
    back = charge.refundable and stop in RETURNING and released is not None
    if unread and any(
        _costs(price.one(rows, account, (event, charge.lines[account].epsilon)))
        for account, event in (executed or {}).items()
    ):
        raise WrongState(
            f"key {key!r}: something was executed, but no read was ever recorded",
            field="executed",
            value=charge.state.value,
            allowed=State.READ.value,
        )
    reserved = {account: line.event for account, line in charge.lines.items()}
    if not covers_logged((executed or reserved).values(), rows.logged(key)):
        raise WrongState(
            f"key {key!r}: its releases cost more than what is said to have been executed",
            field="executed",
            value=sorted(executed or reserved),
            allowed="an event that holds those of all logged releases",
        )
    lines, breached = {}, {}
    for account, line in charge.lines.items():
        event, cost = line.event, line.charge
        if unread:
            event, cost = NOTHING.model_dump(mode="json"), Charge((0,) * len(cost.losses))
        elif executed is not None and executed[account] != event:
            both = [(executed[account], line.epsilon), (event, line.epsilon)]
            ran, held = price.all(rows, account, both)
            balance = rows.account(account)
            if held.less_than(ran) and not covers(event, executed[account]):
                event, cost = executed[account], _true(balance, cost, ran)
                breached[account] = OVERSPENT
            elif back and price.filter(rows, account).returns:
                event, cost = executed[account], _returned(balance, cost, ran)
        lines[account] = Line(event, cost, line.epsilon).document()
    return {
        "kind": "settle",
        "key": key,
        "job": charge.job,
        "stop": stop.value,
        "settlement": settlement,
        "executed": None if executed is None else dict(executed),
        "released": released,
        "lines": lines,
        "breached": breached,
    }


def _running(charge: ChargeState) -> None:
    if charge.state not in RUNNING:
        raise WrongState(
            f"key {charge.key!r} is {charge.state.value}: only what was started is settled",
            field="key",
            value=charge.state.value,
            allowed=[state.value for state in RUNNING],
        )


def _costs(charge: Charge) -> bool:
    return charge.delta > 0 or any(loss is None or loss > 0 for loss in charge.losses)


def _returned(balance: Balance, reserved: Charge, ran: Charge) -> Charge:
    """What stays: never more than was reserved; a position used up may become whole again."""
    without = balance.total().plus(reserved, -1)
    kept = saturate(balance.limits, without, ran)
    losses = tuple(
        new if old is None else min(old, old if loss is None else loss)
        for old, loss, new in zip(reserved.losses, ran.losses, kept.losses, strict=True)
    )
    return Charge(losses, min(reserved.delta, ran.delta))


def _true(balance: Balance, reserved: Charge, ran: Charge) -> Charge:
    """The true cost of an overspend, beyond any limit, and never less than was reserved."""
    without = balance.total().plus(reserved, -1)
    losses = tuple(
        None if loss is None else max(loss, old or 0)
        for loss, old in zip(ran.losses, reserved.losses, strict=True)
    )
    return unbounded(without, Charge(losses, max(ran.delta, reserved.delta)))
