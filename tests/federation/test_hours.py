"""Hours against a clock that is read minute by minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.documents import parse
from federation.errors import BadInput
from federation.hours import Hours

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WEEK = 7 * 1440


def hours(*windows: str, zone: str = "Europe/Berlin") -> Hours:
    return parse({"zone": zone, "open": list(windows)}, Hours, "hours")


def counted(text: str) -> tuple[set[int], set[int]]:
    """The minutes of a week at which a window begins, and those in it, counted one by one."""
    days, _, times = text.partition(" ")
    first, _, last = days.partition("-")
    start, stop = (int(t[:2]) * 60 + int(t[3:]) for t in times.split("-"))
    begins, inside, day = set(), set(), DAYS.index(first)
    while True:
        minute = day * 1440 + start
        begins.add(minute)
        while minute % 1440 != stop % 1440 or minute == day * 1440 + start:
            inside.add(minute % WEEK)
            minute += 1
        if DAYS[day] == (last or first):
            return begins, inside
        day = (day + 1) % 7


clock = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.integers(0, 59))
window = st.builds(
    lambda first, last, start, end: f"{first}{last} {start}-{end}",
    st.sampled_from(DAYS),
    st.sampled_from(["", *(f"-{day}" for day in DAYS)]),
    clock,
    st.one_of(clock, st.just("24:00")),
).filter(lambda text: text[-11:-6] != text[-5:])


@settings(max_examples=200, deadline=None)
@given(
    windows=st.lists(window, min_size=1, max_size=3),
    now=st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31)),
)
def test_open_and_the_next_opening_are_those_of_a_clock_that_is_read(
    windows: list[str], now: datetime
) -> None:
    known, now = hours(*windows, zone="Asia/Kathmandu"), now.replace(tzinfo=UTC)
    local = now.astimezone(ZoneInfo("Asia/Kathmandu"))  # no summer time, so minutes can be counted
    minute = local.weekday() * 1440 + local.hour * 60 + local.minute
    begins, inside = (set().union(*sets) for sets in zip(*map(counted, windows), strict=True))
    assert known.contains(now) == (minute in inside)
    ahead = next(n for n in range(1, WEEK + 1) if (minute + n) % WEEK in begins)
    assert known.opens(now) == local.replace(second=0, microsecond=0) + timedelta(minutes=ahead)


def test_a_window_keeps_its_hours_when_summer_time_ends() -> None:
    morning = hours("mon-sun 06:00-07:00")
    before = datetime(2026, 10, 24, 4, 30, tzinfo=UTC)  # 06:30 in summer
    after = datetime(2026, 10, 25, 5, 30, tzinfo=UTC)  # 06:30 in winter
    assert morning.contains(before) and morning.contains(after)
    assert not morning.contains(before + timedelta(days=1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"zone": "Europe/Atlantis"}, "IANA"),
        ({"zone": "../../etc/passwd"}, "IANA"),
        ({"zone": ""}, "IANA"),
        ({"open": []}, "open"),
        ({"open": ["mon 20:00"]}, "of the form"),
        ({"open": ["monday 08:00-18:00"]}, "of the form"),
        ({"open": ["mon 8:00-18:00"]}, "of the form"),
        ({"open": ["mon 08:00-08:00"]}, "24:00"),
        ({"open": ["mon 24:00-08:00"]}, "24:00"),
        ({"open": ["mon 08:00-24:01"]}, "24:00"),
        ({"open": "mon 08:00-18:00"}, "open"),
    ],
)
def test_hours_that_say_nothing_are_bad_input(changes: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse({"zone": "UTC", "open": ["mon 08:00-18:00"]} | changes, Hours, "hours")
