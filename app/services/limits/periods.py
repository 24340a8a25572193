"""Finds the period of a budget that an instant belongs to.

    day, week, month   calendar periods of the budget's time zone; first_day is the day of the week (1 is Monday) or of
                       the month with which one begins
    total              one period that never ends
    rolling:24h        hours, of which the current one and the 24 before it count
    rolling:30d        days, of which the current one and the 30 before it count

The current hour or day is only partly over, so one more counts than the name says. Then no span of 24 hours or 30 days
can exceed the amount. Instants are seconds since 1970, and periods begin at whole minutes.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

WINDOWS = ("day", "week", "month", "total", "rolling:24h", "rolling:30d")

_HOURS, _DAYS = 24, 30


class Period(NamedTuple):
    """A period of a budget.

    Attributes:
        start: its first instant, in UTC.
        end: the first instant after it; None if it never ends.
        since: the start of the oldest period that counts together with this one; None if this one counts alone.
    """

    start: datetime
    end: datetime | None
    since: datetime | None


def get_period(window: str, timezone: str, first_day: int, at_s: float) -> Period:
    """Returns the period of a window that an instant belongs to.

    Args:
        window: one of WINDOWS.
        timezone: the name of a time zone, such as "Europe/Berlin".
        first_day: the day with which a week or a month begins.
        at_s: the instant, in seconds since 1970.

    Raises:
        ValueError: there is no such window or time zone.
    """
    if window == "total":
        return Period(datetime.fromtimestamp(0, UTC), None, None)
    if window == "rolling:24h":
        start = datetime.fromtimestamp(at_s // 3600 * 3600, UTC)
        return Period(start, start + timedelta(hours=1), start - timedelta(hours=_HOURS))
    zone = _get_zone(timezone)
    today = datetime.fromtimestamp(at_s, zone).date()
    if window == "rolling:30d":
        since = _find_midnight(today - timedelta(days=_DAYS), zone)
        return Period(_find_midnight(today, zone), _find_midnight(today + timedelta(days=1), zone), since)
    first, after = _find_days(window, today, first_day)
    return Period(_find_midnight(first, zone), _find_midnight(after, zone), None)


def compute_reset(window: str, timezone: str, period: Period, oldest: datetime | None) -> datetime | None:
    """Returns when the current use begins to count less, or not at all.

    Args:
        window, timezone: as for `get_period`.
        period: the current period.
        oldest: the start of the oldest period in a rolling window with any use; None if nothing is used, and then the
            result is when a use at this moment would no longer count.

    Returns:
        The end of the period; for a rolling window, when its oldest use leaves it. None if that never happens.
    """
    if not window.startswith("rolling"):
        return period.end
    start = period.start if oldest is None else oldest
    if window == "rolling:24h":
        return start + timedelta(hours=_HOURS + 1)
    zone = _get_zone(timezone)
    return _find_midnight(start.astimezone(zone).date() + timedelta(days=_DAYS + 1), zone)


def _find_days(window: str, today: date, first_day: int) -> tuple[date, date]:
    """Returns the first day of the calendar period that contains `today`, and the first day after it."""
    if window == "day":
        return today, today + timedelta(days=1)
    if window == "week":
        first = today - timedelta(days=(today.isoweekday() - first_day) % 7)
        return first, first + timedelta(days=7)
    if window == "month":
        first = today.replace(day=first_day)
        if today < first:
            first = (first.replace(day=1) - timedelta(days=1)).replace(day=first_day)
        return first, (first.replace(day=1) + timedelta(days=31)).replace(day=first_day)
    raise ValueError(f"there is no window {window!r}; known are {', '.join(WINDOWS)}")


def _find_midnight(day: date, zone: ZoneInfo) -> datetime:
    """Returns the first instant of a day.

    It is the first of two midnights where the clock is set back to midnight, and the instant of the change where the
    clock is set forward at midnight: a nonexistent time with `fold` 0 has the offset from before.
    """
    return datetime.combine(day, time(), zone).astimezone(UTC)


@lru_cache(maxsize=64)
def _get_zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
