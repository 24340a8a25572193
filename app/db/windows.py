"""Splits a time window into runs of rollup rows.

A window that is exact to the minute needs few rows: whole days in its middle, hours and minutes at its two ends.
So 30 days and "all" read about as many rows as 24 hours.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

STEPS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}

_COARSEST_FIRST = ["day", "hour", "minute"]
_MIDNIGHT = datetime(2000, 1, 1, tzinfo=UTC)


class Span(NamedTuple):
    """A run of rollup rows of one `level` that start at or after `start` and before `end`."""

    level: str
    start: datetime
    end: datetime


def compose_window(start: datetime, end: datetime, step: timedelta = STEPS["day"]) -> list[Span]:
    """Returns the spans, oldest first, that cover [start, end) exactly with rows no coarser than `step`.

    Raises:
        ValueError: `start` or `end` is not a whole minute, or `step` is not a whole number of its own level.
    """
    if any(moment.second or moment.microsecond for moment in (start, end)):
        raise ValueError("a window begins and ends at whole minutes")
    levels = [level for level in _COARSEST_FIRST if STEPS[level] <= step]
    if not levels or step % STEPS[levels[0]]:
        raise ValueError("a step is whole minutes below an hour, whole hours below a day, or whole days")
    return _compose(start, end, levels)


def _compose(start: datetime, end: datetime, levels: list[str]) -> list[Span]:
    if start >= end:
        return []
    level, *finer = levels
    inner_start, inner_end = _round(start, STEPS[level], up=True), _round(end, STEPS[level], up=False)
    if inner_start >= inner_end:
        return _compose(start, end, finer)
    before, after = _compose(start, inner_start, finer), _compose(inner_end, end, finer)
    return [*before, Span(level, inner_start, inner_end), *after]


def _round(moment: datetime, step: timedelta, *, up: bool) -> datetime:
    over = (moment - _MIDNIGHT) % step
    return moment + (step - over) if up and over else moment - over
