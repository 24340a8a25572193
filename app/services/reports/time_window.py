"""The windows of statistics: their start, end and steps.

A window is exact to the minute, within the limits of the stored sums (app/db/rollup_pruning.py): minutes of keys and
models for three days, hours and all other minutes for 32, days for ever. So windows that began earlier begin with a
whole hour or day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import NamedTuple

from app.errors import BadRequest

_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

# The age to which a key's or a model's minutes, and all hours, certainly exist. A day less than they are kept.
_SUBJECT_MINUTES_REACH = 2 * _DAY
_HOURS_REACH = 31 * _DAY

# The steps that a caller may choose.
STEPS: dict[str, timedelta] = {
    "1m": _MINUTE,
    "5m": 5 * _MINUTE,
    "15m": 15 * _MINUTE,
    "1h": _HOUR,
    "6h": 6 * _HOUR,
    "1d": _DAY,
}

# A month of hours is 744 steps, and two years of days 731.
MAX_STEPS = 1_000
# Without a chosen step, it is the shortest one with at most this many steps.
_USUAL_STEPS = 62


@dataclass(frozen=True)
class TimeRange:
    """The reach of a window into the past, None for the first day with requests, and the step of its series."""

    length: timedelta | None
    step: timedelta


# The steps give a chart 25 to 60 points.
TIME_RANGES: dict[str, TimeRange] = {
    "1h": TimeRange(_HOUR, _MINUTE),
    "24h": TimeRange(_DAY, _HOUR),
    "7d": TimeRange(7 * _DAY, 6 * _HOUR),
    "30d": TimeRange(30 * _DAY, _DAY),
    "all": TimeRange(None, _DAY),
}
DEFAULT_TIME_RANGE = "24h"


@dataclass(frozen=True, kw_only=True)
class AskedWindow:
    """The window requested by a caller.

    Attributes:
        time_range: one of TIME_RANGES; not used if `start` is given.
        start, end: with a timezone; a window with a start and no end ends now.
        step: one of STEPS; None for a step that fits the window.
    """

    time_range: str = DEFAULT_TIME_RANGE
    start: datetime | None = None
    end: datetime | None = None
    step: str | None = None


class TimeWindow(NamedTuple):
    """The requests from `start` to before `end`; `start` is None if there never was a request."""

    start: datetime | None
    end: datetime
    step: timedelta


def compute_end(now: datetime) -> datetime:
    """Returns the end of the minute in which `now` lies, in UTC."""
    return _round(now.astimezone(UTC), _MINUTE, up=False) + _MINUTE


def make_window(asked: AskedWindow, now_end: datetime, first: datetime | None, *, of_subject: bool) -> TimeWindow:
    """Returns the requested window, rounded outwards to the resolution of the stored sums.

    Args:
        asked: the requested window.
        now_end: `compute_end` of the current time.
        first: the beginning of the window "all"; None if there never was a request.
        of_subject: whether the sums are those of one key or one model.

    Raises:
        BadRequest: the window is empty or in the future, or the step is too short for it.
    """
    if asked.start is None:
        if asked.end is not None:
            raise BadRequest("`to` needs a `from`. Give both, or `time_range`.", param="to", code="invalid_parameter")
        length = TIME_RANGES[asked.time_range].length
        wanted = first if length is None else now_end - length
        end = now_end
    else:
        wanted = asked.start.astimezone(UTC)
        end = min(now_end, _round((asked.end or now_end).astimezone(UTC), _MINUTE, up=True))
        if wanted >= min(end, (asked.end or end).astimezone(UTC)):
            raise BadRequest(
                "`from` must be before `to` and before now; `from` is included and `to` is not.",
                param="from",
                code="invalid_parameter",
            )
        end = _round(end, _get_level(end, now_end, of_subject), up=True)
    start = None if wanted is None else _round(wanted, _get_level(wanted, now_end, of_subject), up=False)
    return TimeWindow(start, end, _choose_step(asked, start or end, end, now_end, of_subject))


def _choose_step(asked: AskedWindow, start: datetime, end: datetime, now_end: datetime, of_subject: bool) -> timedelta:
    finest = _get_level(start, now_end, of_subject)
    if asked.step is None:
        if asked.start is None:
            return TIME_RANGES[asked.time_range].step
        fitting = [step for step in STEPS.values() if step >= finest and (end - start) / step <= _USUAL_STEPS]
        return fitting[0] if fitting else _DAY
    step = STEPS[asked.step]
    if step < finest:
        finest_name = next(name for name, length in STEPS.items() if length >= finest)
        raise BadRequest(
            f"`step` {asked.step} is too short for a window that began so long ago; use {finest_name} or more. "
            "Minutes of a key or a model are kept for two days, hours and other minutes for 31.",
            param="step",
            code="invalid_parameter",
        )
    if (end - start) / step > MAX_STEPS:
        raise BadRequest(
            f"The window has more than {MAX_STEPS} steps of {asked.step}. Use a longer step or a shorter window.",
            param="step",
            code="invalid_parameter",
        )
    return step


def _get_level(moment: datetime, now_end: datetime, of_subject: bool) -> timedelta:
    """Returns the shortest step whose sums are kept from a moment on."""
    if moment < now_end - _HOURS_REACH:
        return _DAY
    return _HOUR if of_subject and moment < now_end - _SUBJECT_MINUTES_REACH else _MINUTE


def _round(moment: datetime, step: timedelta, *, up: bool) -> datetime:
    midnight = datetime.combine(moment, time(), UTC)
    steps = -((midnight - moment) // step) if up else (moment - midnight) // step
    return midnight + steps * step
