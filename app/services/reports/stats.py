"""Statistics of a gateway over a window of time, read from the rollups alone.

A window ends with the minute that is under way, so that a request counts as soon as it is shipped, and it is exact:
it holds the requests that started at or after `from` and before `to`, no other. Rows that retention has dropped are
counted like any other, because the rollups outlive them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any, NamedTuple

from app.db.engine import reading
from app.db.histogram import histogram_quantile_ms
from app.db.rollups import ModelRow, OutcomeRow, SeriesRow, Sums, Usage, select_first_day, select_usage, sum_up
from app.db.tables import OUTCOMES
from app.services.reports.totals import compute_speed, describe_totals, is_priced, plain_usd

ALL_GATEWAYS = "all"

# What a percentile may be off by, as app/db/histogram.py proves; shown with the percentiles.
PERCENTILE_ERROR = 0.05

_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
_QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class TimeRange:
    """How far a window reaches back, None for the very beginning, and the step of its series."""

    length: timedelta | None
    step: timedelta


# Steps give a chart 25 to 60 points.
TIME_RANGES: dict[str, TimeRange] = {
    "1h": TimeRange(_HOUR, _MINUTE),
    "24h": TimeRange(_DAY, _HOUR),
    "7d": TimeRange(7 * _DAY, 6 * _HOUR),
    "30d": TimeRange(30 * _DAY, _DAY),
    "all": TimeRange(None, _DAY),
}


class Window(NamedTuple):
    """The minutes from `start` to before `end`; `start` is None when there is nothing to begin with."""

    start: datetime | None
    end: datetime
    step: timedelta


def get_stats(gateway: str, time_range: str, now: datetime) -> dict[str, Any]:
    """Returns the statistics, ready for JSON; the README explains each field.

    Args:
        gateway: a provider's name, or ALL_GATEWAYS.
        time_range: one of TIME_RANGES.
        now: the present, with a timezone.

    Raises:
        DatabaseError: the database is away or slow.
    """
    window_end = now.astimezone(UTC).replace(second=0, microsecond=0) + _MINUTE
    with reading() as connection:
        chosen = TIME_RANGES[time_range]
        if chosen.length is not None:
            start: datetime | None = window_end - chosen.length
        else:
            first = select_first_day(connection)
            start = None if first is None else datetime.combine(first, time(), UTC)
        usage = select_usage(
            connection,
            start=start or window_end,
            end=window_end,
            step=chosen.step,
            gateway=None if gateway == ALL_GATEWAYS else gateway,
        )
    window = Window(start, window_end, chosen.step)
    return {"gateway": gateway, "time_range": time_range, "from": start, "to": window_end, **_describe(usage, window)}


def _describe(usage: Usage, window: Window) -> dict[str, Any]:
    total = sum_up(row.sums for row in usage.outcomes)
    models = [row for row in usage.models if row.model]
    return {
        "total_requests": total.requests,
        "successful_requests": total.ok_requests,
        "failed_requests": total.requests - total.ok_requests,
        **describe_totals(total),
        "unique_users": usage.keys,
        "unique_models": len(models),
        **_averages(total, usage.outcomes),
        "top_model": models[0].model if models else None,
        "ttft_ms": _percentiles(usage.histograms.get("ttft", {})),
        "duration_ms": _percentiles(usage.histograms.get("duration", {})),
        "percentile_error": PERCENTILE_ERROR,
        **_counts(usage.outcomes),
        "models": [_describe_model(row) for row in usage.models],
        "series_step_s": int(window.step.total_seconds()),
        "series": _describe_series(usage.series, window),
    }


def _averages(total: Sums, outcomes: Sequence[OutcomeRow]) -> dict[str, Any]:
    """Returns the means; the one of cost is over the requests whose cost is known, be it exact or estimated."""
    tokens = describe_totals(total)["total_tokens"]
    sent = total.requests - sum(row.sums.requests for row in outcomes if row.outcome == "rejected")
    priced = sent - total.unpriced_requests
    cost = plain_usd((total.cost_exact + total.cost_estimated) / priced) if priced and is_priced(total) else None
    return {
        "avg_speed_tokens_per_sec": compute_speed(total),
        "avg_tokens_per_request": round(tokens / total.requests, 2) if total.requests and tokens is not None else None,
        "avg_cost_per_request": cost,
    }


def _percentiles(histogram: dict[int, int]) -> dict[str, float | None]:
    values = {name: histogram_quantile_ms(histogram, quantile) for name, quantile in _QUANTILES.items()}
    # Five digits are a thousandth of the error that the histogram itself has.
    return {name: None if value is None else float(f"{value:.5g}") for name, value in values.items()}


def _counts(rows: Sequence[OutcomeRow]) -> dict[str, dict[str, int]]:
    outcomes, errors = Counter(dict.fromkeys(OUTCOMES, 0)), Counter[str]()
    for row in rows:
        outcomes[row.outcome] += row.sums.requests
        if row.error_type:
            errors[row.error_type] += row.sums.requests
    return {"outcomes": dict(outcomes), "errors": dict(errors.most_common())}


def _describe_model(row: ModelRow) -> dict[str, Any]:
    sums = row.sums
    return {
        "model": row.model or None,
        "requests": sums.requests,
        "errors": sums.requests - sums.ok_requests,
        **describe_totals(sums),
        "avg_speed_tokens_per_sec": compute_speed(sums),
    }


def _describe_series(rows: Sequence[SeriesRow], window: Window) -> list[dict[str, Any]]:
    """Returns one entry for every step of the window; those without requests are known to be zero."""
    if window.start is None:
        return []
    by_start: dict[datetime, list[SeriesRow]] = defaultdict(list)
    for row in rows:
        by_start[row.start].append(row)
    # Steps are aligned to UTC midnights, as in select_usage; the window may cut the first and the last.
    midnight = datetime.combine(window.start, time(), UTC)
    start = midnight + (window.start - midnight) // window.step * window.step
    steps = range(-((start - window.end) // window.step))
    return [_describe_step(start + step * window.step, by_start) for step in steps]


def _describe_step(start: datetime, by_start: dict[datetime, list[SeriesRow]]) -> dict[str, Any]:
    sums = sum_up(row.sums for row in by_start.get(start, []))
    totals = describe_totals(sums)
    return {
        "start": start,
        "requests": sums.requests,
        "errors": sums.requests - sums.ok_requests,
        "tokens": totals["total_tokens"],
        "cost": totals["total_cost"],
        "estimated_cost": totals["estimated_cost"],
        "unpriced_requests": totals["unpriced_requests"],
    }
