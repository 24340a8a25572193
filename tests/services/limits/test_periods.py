"""Periods of budgets: calendar windows in any time zone and rolling ones, with each instant in exactly one period."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.limits import WINDOWS, compute_reset, format_amount, get_period, parse_amount

# Zones that change their clocks at midnight, by half an hour, or in the other half of the year, and zones that do not.
ZONES = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Africa/Cairo", "Australia/Lord_Howe", "Asia/Kathmandu"]


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("window", "zone", "first_day", "instant", "start", "end"),
    [
        ("day", "UTC", 1, "2026-11-26T23:59:59.9+00:00", "2026-11-26T00:00+00:00", "2026-11-27T00:00+00:00"),
        ("day", "UTC", 1, "2026-11-27T00:00:00+00:00", "2026-11-27T00:00+00:00", "2026-11-28T00:00+00:00"),
        # The day on which the clock is put forward has 23 hours, and the one on which it is put back 25.
        ("day", "Europe/Berlin", 1, "2026-03-29T12:00+00:00", "2026-03-28T23:00+00:00", "2026-03-29T22:00+00:00"),
        ("day", "Europe/Berlin", 1, "2026-10-25T00:30+00:00", "2026-10-24T22:00+00:00", "2026-10-25T23:00+00:00"),
        # A day whose midnight does not exist begins at the change of the clock.
        ("day", "America/Sao_Paulo", 1, "2018-11-04T12:00+00:00", "2018-11-04T03:00+00:00", "2018-11-05T02:00+00:00"),
        ("week", "UTC", 1, "2026-11-26T10:00+00:00", "2026-11-23T00:00+00:00", "2026-11-30T00:00+00:00"),
        ("week", "UTC", 7, "2026-11-26T10:00+00:00", "2026-11-22T00:00+00:00", "2026-11-29T00:00+00:00"),
        ("month", "UTC", 1, "2026-12-31T23:59+00:00", "2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00"),
        ("month", "UTC", 28, "2027-03-01T00:00+00:00", "2027-02-28T00:00+00:00", "2027-03-28T00:00+00:00"),
        ("month", "Asia/Kathmandu", 1, "2026-11-30T18:15+00:00", "2026-11-30T18:15+00:00", "2026-12-31T18:15+00:00"),
        ("rolling:24h", "UTC", 1, "2026-11-26T10:59+00:00", "2026-11-26T10:00+00:00", "2026-11-26T11:00+00:00"),
        ("rolling:30d", "UTC", 1, "2026-11-26T10:59+00:00", "2026-11-26T00:00+00:00", "2026-11-27T00:00+00:00"),
    ],
)
def test_an_instant_is_in_the_period_of_its_calendar(
    window: str, zone: str, first_day: int, instant: str, start: str, end: str
) -> None:
    period = get_period(window, zone, first_day, at(instant))
    assert (period.start, period.end) == (datetime.fromisoformat(start), datetime.fromisoformat(end))


@given(
    window=st.sampled_from(WINDOWS),
    zone=st.sampled_from(ZONES),
    first_day=st.integers(1, 28),
    instant=st.datetimes(datetime(2015, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),
)
def test_periods_follow_each_other_without_a_gap(window: str, zone: str, first_day: int, instant: datetime) -> None:
    if window == "week":
        first_day = first_day % 7 + 1
    period = get_period(window, zone, first_day, instant.timestamp())
    assert period.start <= instant and period.start.timestamp() % 60 == 0
    if period.end is None:
        assert window == "total"
        return
    assert instant < period.end
    assert get_period(window, zone, first_day, period.end.timestamp()).start == period.end
    assert get_period(window, zone, first_day, period.end.timestamp() - 1).start == period.start
    if window.startswith("rolling"):
        # Every instant in the same window as an instant of this period lies in a period that still counts.
        span = timedelta(hours=24) if window == "rolling:24h" else timedelta(days=30) - timedelta(hours=1)
        assert period.since is not None and period.since <= period.end - span - timedelta(seconds=1)


@given(
    window=st.sampled_from(["rolling:24h", "rolling:30d"]),
    zone=st.sampled_from(ZONES),
    instant=st.datetimes(datetime(2015, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),
    age=st.timedeltas(timedelta(), timedelta(days=30)),
)
def test_a_use_counts_until_the_reset_and_no_more_from_then_on(
    window: str, zone: str, instant: datetime, age: timedelta
) -> None:
    period = get_period(window, zone, 1, instant.timestamp())
    oldest = get_period(window, zone, 1, (instant - age).timestamp()).start
    reset = compute_reset(window, zone, period, oldest)
    assert reset is not None
    before, after = (get_period(window, zone, 1, reset.timestamp() - less).since for less in (1, 0))
    assert before is not None and after is not None and before <= oldest < after
    assert compute_reset(window, zone, period, None) == compute_reset(window, zone, period, period.start)


@given(st.integers(0, 10**29))
def test_amounts_come_back_whole(number: int) -> None:
    assert parse_amount(format_amount(number, "usd"), "usd") == number
    assert parse_amount(format_amount(-number, "usd"), "usd") == -number
    assert parse_amount(f"{number}.000000000000", "tokens") == number
