"""The spans of a window cover each of its minutes once, with few rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.db.windows import STEPS, Span, compose_window

MINUTE, HOUR, DAY = STEPS["minute"], STEPS["hour"], STEPS["day"]
START = datetime(2026, 3, 1, tzinfo=UTC)
MOMENTS = st.integers(0, 60 * 24 * 60).map(lambda minutes: START + minutes * MINUTE)


@given(st.tuples(MOMENTS, MOMENTS).map(sorted), st.sampled_from([MINUTE, 15 * MINUTE, HOUR, 6 * HOUR, DAY]))
def test_spans_follow_each_other_from_start_to_end(window: list[datetime], step: timedelta) -> None:
    start, end = window
    spans = compose_window(start, end, step)
    edges = [start, *(span.end for span in spans)]
    assert [span.start for span in spans] == edges[: len(spans)]
    assert edges[-1] == end or (start == end and not spans)
    for span in spans:
        assert span.start < span.end and STEPS[span.level] <= step
        assert (span.start - START) % STEPS[span.level] == (span.end - START) % STEPS[span.level] == timedelta(0)


@given(st.tuples(MOMENTS, MOMENTS).map(sorted))
def test_a_window_reads_at_most_two_hours_of_minutes_and_two_days_of_hours(window: list[datetime]) -> None:
    spans = compose_window(*window)
    minutes = sum((span.end - span.start) // MINUTE for span in spans if span.level == "minute")
    hours = sum((span.end - span.start) // HOUR for span in spans if span.level == "hour")
    assert minutes <= 118 and hours <= 46 and len(spans) <= 5


def test_a_day_that_begins_within_an_hour_is_hours_between_minutes() -> None:
    begin = datetime(2026, 3, 1, 10, 58, tzinfo=UTC)
    assert compose_window(begin, begin + DAY, HOUR) == [
        Span("minute", begin, begin + 2 * MINUTE),
        Span("hour", begin + 2 * MINUTE, begin + 23 * HOUR + 2 * MINUTE),
        Span("minute", begin + 23 * HOUR + 2 * MINUTE, begin + DAY),
    ]


def test_a_window_that_ends_before_it_begins_has_no_spans() -> None:
    assert compose_window(START + DAY, START) == []


@pytest.mark.parametrize("step", [timedelta(seconds=30), 90 * MINUTE, 36 * HOUR, timedelta(0)])
def test_a_step_that_no_level_divides_is_refused(step: timedelta) -> None:
    with pytest.raises(ValueError, match="a step is"):
        compose_window(START, START + DAY, step)


def test_a_window_that_ends_within_a_minute_is_refused() -> None:
    with pytest.raises(ValueError, match="whole minutes"):
        compose_window(START, START + timedelta(seconds=90))
