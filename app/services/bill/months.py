"""Months in the form that callers write."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import NamedTuple

from app.errors import BadRequest

MONTH_PATTERN = r"^20[0-9]{2}-(0[1-9]|1[0-2])$"


class Month(NamedTuple):
    """A month of UTC days: its name, such as "2026-11", its first day, and the day after its last."""

    name: str
    start: date
    end: date

    @property
    def last(self) -> date:
        """Its last day."""
        return self.end - timedelta(days=1)


def make_month(day: date) -> Month:
    """Returns the month of a day."""
    start = day.replace(day=1)
    return Month(f"{day:%Y-%m}", start, (start + timedelta(days=31)).replace(day=1))


def parse_month(text: str) -> Month:
    """Returns the month of a text such as "2026-11".

    Raises:
        BadRequest: it is not a month.
    """
    if not re.fullmatch(MONTH_PATTERN, text):
        raise BadRequest(f"month is {text[:100]!r}; it must be a month such as 2026-11.", param="month")
    return make_month(date.fromisoformat(text + "-01"))


def choose_month(text: str | None, today: date) -> Month:
    """Returns the month of a text or, without one, yesterday's month, whose bill is the newest.

    Raises:
        BadRequest: it is not a month, or it has not begun.
    """
    month = make_month(today - timedelta(days=1)) if text is None else parse_month(text)
    if month.start > today:
        raise BadRequest(f"The month {month.name} has not begun. Name an earlier one.", param="month")
    return month
