"""Which messages were seen, so that a replay is told from a redelivery.

A cache of things seen for as long as they could be valid, not part of balances: it stands beside
the chain, a restored backup brings back the one of its time, and `verify` checks only that its
rows are well formed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, insert, select

from privacy.errors import InvalidRequest, KeyConflict
from privacy.ledger import clock, schema

TEXT = re.compile(r"[A-Za-z0-9._:/+=-]{1,200}")

_table = schema.nonces
_PURGE = delete(_table).where(_table.c.until < bindparam("now"))
_FIND = select(_table.c.digest).where(_table.c.nonce == bindparam("which"))
_ADD = insert(_table)


def see(connection: Connection, *, nonce: str, digest: str, until: datetime, now: datetime) -> bool:
    """See `Ledger.see_nonce`; in the same transaction drops what is past its time."""
    for field, value in (("nonce", nonce), ("digest", digest)):
        if not isinstance(value, str) or not TEXT.fullmatch(value):
            raise InvalidRequest(
                f"{field}: not a plain text of at most 200 characters", field=field, value=value
            )
    if clock.stamp(until) < clock.stamp(now):
        raise InvalidRequest(
            "until: a message whose time is over cannot be told from a replay",
            field="until",
            value=clock.stamp(until),
            allowed=f"{clock.stamp(now)} or later",
        )
    connection.execute(_PURGE, {"now": clock.stamp(now)})
    before = connection.execute(_FIND, {"which": nonce}).scalar()
    if before is None:
        connection.execute(_ADD, {"nonce": nonce, "digest": digest, "until": clock.stamp(until)})
        return True
    if before != digest:
        raise KeyConflict(
            f"nonce {nonce!r} was seen before, on another message", field="nonce", value=nonce
        )
    return False


def malformed(connection: Connection) -> Iterator[str]:
    """The nonces whose rows nothing here can have written."""
    for nonce, digest, until in connection.execute(select(_table)):
        try:
            whole = clock.stamp(clock.parse(until)) == until
        except (ValueError, TypeError):
            whole = False
        if not (whole and TEXT.fullmatch(str(nonce)) and TEXT.fullmatch(str(digest))):
            yield str(nonce)
