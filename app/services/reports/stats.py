"""Statistics of a gateway over a window of time, read from the rollups alone.

A window ends with the current minute, so that a request counts as soon as its record is shipped. It is exact: it holds
the requests that started at or after `from` and before `to`, and no others. Rows that retention has dropped still
count, because their sums stay in the rollups.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from app.config import ALL_GATEWAYS
from app.db import read_connection
from app.db.clock import select_now
from app.db.histogram import histogram_quantile_ms
from app.db.rollups import OutcomeRow, SeriesRow, Sums, Usage, select_first_day, select_usage, sum_up
from app.db.tables import OUTCOMES
from app.services.reports.model_stats import ModelStats, make_models
from app.services.reports.totals import compute_speed, is_cost_known, make_totals, normalize_usd

# The greatest relative error of a percentile, as app/db/histogram.py proves; shown with the percentiles.
PERCENTILE_ERROR = 0.05

_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True)
class TimeRange:
    """How far a window reaches back, None for the first day with requests, and the step of its series."""

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


class Percentiles(msgspec.Struct, frozen=True):
    """Percentiles of a duration in milliseconds; None if no request has the duration."""

    p50: float | None
    p95: float | None
    p99: float | None


class SeriesStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a window's time series.

    Attributes:
        start: aligned to UTC midnights, so the window may cut the first step and the last.
        errors: requests with another outcome than ok.
        tokens: prompt and completion tokens; None if unknown.
        cost, estimated_cost: USD; None if unknown.
    """

    start: datetime
    requests: int
    errors: int
    tokens: int | None
    cost: Decimal | None
    estimated_cost: Decimal | None
    unpriced_requests: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of a gateway, or of all of them, over a window of time.

    Attributes:
        start, end: `from` and `to` in JSON; `start` is None if there never was a request.
        successful_requests, failed_requests: those with the outcome ok, and all others.
        total_tokens, prompt_tokens, completion_tokens, cached_tokens: of requests whose usage is known; cached tokens
            are a part of the prompt's. None if no usage is known.
        total_cost: USD, of requests with the provider's own usage and a known price.
        estimated_cost: USD, of requests whose usage was counted here because the response was cut. Both costs are None
            if no cost is known.
        unpriced_requests: requests without an exact or estimated cost.
        unique_users, unique_models: gateway keys that made requests, and models that served them.
        avg_speed_tokens_per_sec: completion tokens by the time they took, over all responses together.
        avg_tokens_per_request: over all requests.
        avg_cost_per_request: USD, over requests with an exact or estimated cost.
        top_model: the model with the most requests.
        ttft_ms, duration_ms: time to first token and duration; rejected and lost requests are left out.
        percentile_error: the greatest relative error of the percentiles.
        outcomes: requests by outcome.
        errors: requests by the `type` of their error, the most frequent first.
        models: most requests first, and OTHER_MODELS last.
        series: one entry for each step of `series_step_s` seconds.
    """

    gateway: str
    time_range: str
    start: datetime | None = msgspec.field(name="from")
    end: datetime = msgspec.field(name="to")
    total_requests: int
    successful_requests: int
    failed_requests: int
    total_tokens: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    total_cost: Decimal | None
    estimated_cost: Decimal | None
    unpriced_requests: int
    unique_users: int
    unique_models: int
    avg_speed_tokens_per_sec: float | None
    avg_tokens_per_request: float | None
    avg_cost_per_request: Decimal | None
    top_model: str | None
    ttft_ms: Percentiles
    duration_ms: Percentiles
    percentile_error: float
    outcomes: dict[str, int]
    errors: dict[str, int]
    models: list[ModelStats]
    series_step_s: int
    series: list[SeriesStep]


class _Window(NamedTuple):
    """The minutes from `start` to before `end`; `start` is None if there never was a request."""

    start: datetime | None
    end: datetime
    step: timedelta


def select_stats(gateway: str, time_range: str, now: datetime | None = None) -> Stats:
    """Returns the statistics of a window that ends now.

    Args:
        gateway: a provider's name, or ALL_GATEWAYS.
        time_range: one of TIME_RANGES.
        now: the current time, with a timezone; by default PostgreSQL's.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    chosen = TIME_RANGES[time_range]
    with read_connection() as connection:
        end = (now or select_now(connection)).astimezone(UTC).replace(second=0, microsecond=0) + _MINUTE
        if chosen.length is not None:
            start: datetime | None = end - chosen.length
        else:
            first = select_first_day(connection)
            start = None if first is None else datetime.combine(first, time(), UTC)
        usage = select_usage(
            connection,
            start=start or end,
            end=end,
            step=chosen.step,
            gateway=None if gateway == ALL_GATEWAYS else gateway,
        )
    return _make_stats(gateway, time_range, usage, _Window(start, end, chosen.step))


def _make_stats(gateway: str, time_range: str, usage: Usage, window: _Window) -> Stats:
    total = sum_up(row.sums for row in usage.outcomes)
    named_models = [row.model for row in usage.models if row.model]
    return Stats(
        gateway=gateway,
        time_range=time_range,
        start=window.start,
        end=window.end,
        total_requests=total.requests,
        successful_requests=total.ok_requests,
        failed_requests=total.requests - total.ok_requests,
        **make_totals(total),
        unique_users=usage.keys,
        unique_models=len(named_models),
        **_make_averages(total, usage.outcomes),
        top_model=named_models[0] if named_models else None,
        ttft_ms=_make_percentiles(usage.histograms.get("ttft", {})),
        duration_ms=_make_percentiles(usage.histograms.get("duration", {})),
        percentile_error=PERCENTILE_ERROR,
        outcomes=_count_outcomes(usage.outcomes),
        errors=_count_errors(usage.outcomes),
        models=make_models(usage.models),
        series_step_s=int(window.step.total_seconds()),
        series=_make_series(usage.series, window),
    )


def _make_averages(total: Sums, outcomes: Sequence[OutcomeRow]) -> dict[str, Any]:
    tokens = make_totals(total)["total_tokens"]
    served = total.requests - sum(row.sums.requests for row in outcomes if row.outcome == "rejected")
    priced = served - total.unpriced_requests
    cost = total.cost_exact + total.cost_estimated
    return {
        "avg_speed_tokens_per_sec": compute_speed(total),
        "avg_tokens_per_request": round(tokens / total.requests, 2) if total.requests and tokens is not None else None,
        "avg_cost_per_request": normalize_usd(cost / priced) if priced and is_cost_known(total) else None,
    }


def _make_percentiles(histogram: dict[int, int]) -> Percentiles:
    values = [histogram_quantile_ms(histogram, quantile) for quantile in (0.50, 0.95, 0.99)]
    # Rounding to five digits adds a thousandth of the histogram's own error.
    return Percentiles(*(None if value is None else float(f"{value:.5g}") for value in values))


def _count_outcomes(rows: Sequence[OutcomeRow]) -> dict[str, int]:
    counts = dict.fromkeys(OUTCOMES, 0)
    for row in rows:
        counts[row.outcome] = counts.get(row.outcome, 0) + row.sums.requests
    return counts


def _count_errors(rows: Sequence[OutcomeRow]) -> dict[str, int]:
    counts = Counter[str]()
    for row in rows:
        if row.error_type:
            counts[row.error_type] += row.sums.requests
    return dict(counts.most_common())


def _make_series(rows: Sequence[SeriesRow], window: _Window) -> list[SeriesStep]:
    """Returns an entry for every step of the window; a step without requests is zero, not unknown."""
    if window.start is None:
        return []
    by_start: dict[datetime, list[SeriesRow]] = defaultdict(list)
    for row in rows:
        by_start[row.start].append(row)
    # Steps are aligned to UTC midnights, as in select_usage.
    midnight = datetime.combine(window.start, time(), UTC)
    start = midnight + (window.start - midnight) // window.step * window.step
    starts = [start + number * window.step for number in range(-((start - window.end) // window.step))]
    return [_make_step(start, by_start.get(start, [])) for start in starts]


def _make_step(start: datetime, rows: Sequence[SeriesRow]) -> SeriesStep:
    sums = sum_up(row.sums for row in rows)
    totals = make_totals(sums)
    return SeriesStep(
        start=start,
        requests=sums.requests,
        errors=sums.requests - sums.ok_requests,
        tokens=totals["total_tokens"],
        cost=totals["total_cost"],
        estimated_cost=totals["estimated_cost"],
        unpriced_requests=totals["unpriced_requests"],
    )
