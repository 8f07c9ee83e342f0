"""The charges that count on an account, with the times of their reservations."""

from __future__ import annotations

from sqlalchemy import Connection, select

from privacy.ledger import clock, schema
from privacy.ledger.rows import Rows
from privacy.ledger.states import ACTIVE
from privacy.ledger.views import Spend, spend_view

_BATCH = 500


def history(connection: Connection, rows: Rows, account: str) -> list[Spend]:
    """See `Ledger.history`; reads every charge once."""
    limits = rows.account(account).limits
    mine = [c for c in rows.charges() if account in c.lines and c.state in ACTIVE]
    column = schema.entries.c
    times: dict[int, str] = {}
    for begin in range(0, len(mine), _BATCH):
        some = [charge.reserved_at for charge in mine[begin : begin + _BATCH]]
        found = connection.execute(
            select(column.seq, column.recorded_at).where(column.seq.in_(some))
        )
        times |= {row.seq: row.recorded_at for row in found}
    return [
        spend_view(charge, account, limits, clock.parse(times[charge.reserved_at]))
        for charge in mine
    ]
