"""The hours in which a silo lets jobs begin.

    >>> night = Hours(zone="Europe/Berlin", open=("mon-fri 20:00-06:00", "sat-sun 00:00-24:00"))
    >>> night.contains(datetime(2026, 11, 24, 4, 30, tzinfo=UTC))  # a Tuesday, 05:30 in Berlin
    True
    >>> night.opens(datetime(2026, 11, 24, 12, 0, tzinfo=UTC)).isoformat()
    '2026-11-24T20:00:00+01:00'

A window belongs to the day on which it begins: `fri 20:00-06:00` ends on Saturday morning. What
counts is the clock on the wall in the zone, so a window keeps its hours when summer time changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field

from federation.spec import Block

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = "|".join(_DAYS)
_FORM = re.compile(rf"({_DAY})(?:-({_DAY}))? ([0-2]\d):([0-5]\d)-([0-2]\d):([0-5]\d)")
_WHOLE = 24 * 60


@dataclass(frozen=True, slots=True)
class _Window:
    """Days by their numbers, and minutes from their midnight; it ends the next day if not after."""

    days: frozenset[int]
    start: int
    end: int


@lru_cache(maxsize=256)
def _window(text: str) -> _Window:
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not of the form 'mon-fri 20:00-06:00'")
    first, last = found[1], found[2] or found[1]
    count = (_DAYS.index(last) - _DAYS.index(first)) % 7
    days = frozenset((_DAYS.index(first) + day) % 7 for day in range(count + 1))
    start, end = int(found[3]) * 60 + int(found[4]), int(found[5]) * 60 + int(found[6])
    if start >= _WHOLE or end > _WHOLE or start == end:
        raise ValueError(f"{text!r}: from 00:00 to 24:00, and not from a time to the same")
    return _Window(days, start, end)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise ValueError(f"no time zone {name!r}; give one by its IANA name") from None
    return name


def _read(text: str) -> str:
    _window(text)
    return text


class Hours(Block):
    """Windows of days and times in one IANA time zone."""

    zone: Annotated[str, AfterValidator(_zone)]
    open: Annotated[tuple[Annotated[str, AfterValidator(_read)], ...], Field(min_length=1)]

    def contains(self, now: datetime) -> bool:
        """Whether a job may begin at `now`."""
        local = now.astimezone(ZoneInfo(self.zone))
        day, minute = local.weekday(), local.hour * 60 + local.minute
        for text in self.open:
            window = _window(text)
            if window.start < window.end:
                if day in window.days and window.start <= minute < window.end:
                    return True
            elif (day in window.days and minute >= window.start) or (
                (day - 1) % 7 in window.days and minute < window.end
            ):
                return True
        return False

    def opens(self, now: datetime) -> datetime:
        """The next beginning of a window after `now`, in the zone."""
        zone = ZoneInfo(self.zone)
        today = now.astimezone(zone).date()
        beginnings = (
            datetime.combine(day, time(*divmod(window.start, 60)), zone)
            for ahead in range(9)
            for day in [today + timedelta(days=ahead)]
            for window in map(_window, self.open)
            if day.weekday() in window.days
        )
        return min(begin for begin in beginnings if begin.astimezone(UTC) > now)
