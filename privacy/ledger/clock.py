"""Times as the ledger writes them: UTC, to the microsecond, in order as texts."""

from __future__ import annotations

from datetime import UTC, datetime

from privacy.errors import InvalidRequest


def now() -> datetime:
    """The time by this host's clock."""
    return datetime.now(UTC)


def stamp(moment: datetime) -> str:
    """Write a time; one without a time zone raises `InvalidRequest`."""
    if moment.tzinfo is None:
        raise InvalidRequest(
            "a time without a zone", field="time", value=str(moment), allowed="an aware time"
        )
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse(text: str) -> datetime:
    """Read a time that `stamp` wrote."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
