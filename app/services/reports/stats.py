"""Statistics of a gateway over a window of time, read from the sums alone: of all requests, of a key, or of a model.

A window ends with the current minute, so that a request counts as soon as its record is shipped. It is exact: it holds
the requests that started at or after `from` and before `to`, and no others. Rows that retention has dropped still
count, because their sums stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec

from app.config import ALL_GATEWAYS
from app.db import read_connection
from app.db.clock import select_now
from app.db.key_sums import select_key_owners, select_key_sums
from app.db.rollup_rows import Selection
from app.db.rollup_tables import ALL_REQUESTS, KEY_PREFIX, MODEL_PREFIX
from app.db.rollups import ModelRow, OutcomeRow, Usage, select_first_day, select_usage
from app.db.sums import Sums, sum_up
from app.db.tables import OUTCOMES
from app.services.reports.series import Percentiles, SeriesStep, make_percentiles, make_series
from app.services.reports.shares import Owned, Share, SplitBy, make_shares
from app.services.reports.splits import EndpointStats, ModelStats, make_endpoints, make_models
from app.services.reports.totals import compute_speed, is_cost_known, make_totals, normalize_usd

# The greatest relative error of a percentile, as app/db/histogram.py proves; shown with the percentiles.
PERCENTILE_ERROR = 0.05

# Longer windows of a key or a model begin on a whole hour, because their sums by minute are kept for three days only
# (app/db/rollup_pruning.py).
MAX_SUBJECT_WINDOW_BY_MINUTE = timedelta(days=2)

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


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of a gateway, or of all of them, over a window of time.

    Attributes:
        scope, key: "all" and None for all requests; "key" and the id of the key for those of one key.
        holder, group: with scope "holder" or "group", the name of the one whose keys' requests these are; else None.
        model: the id of the model that served these requests, of all keys; None for all models.
        endpoint: the path of the endpoint whose requests these are; None for all of them.
        start, end: `from` and `to` in JSON; `start` is None if there never was a request.
        successful_requests, failed_requests: those with the outcome ok, and all others.
        total_tokens, prompt_tokens, completion_tokens, cached_tokens: of requests whose usage is known; cached tokens
            are a part of the prompt's. None if no usage is known.
        total_cost: USD, of requests with the provider's own usage and a known price.
        estimated_cost: USD, of requests whose usage was counted here because the response was cut. Both costs are None
            if no cost is known.
        unpriced_requests: requests without an exact or estimated cost.
        unique_users, unique_models: gateway keys that made requests, and models that served them. The keys of one model
            are not counted, so they are None.
        avg_speed_tokens_per_sec: completion tokens by the time they took, over all responses together.
        avg_tokens_per_request: over all requests.
        avg_cost_per_request: USD, over requests with an exact or estimated cost.
        top_model: the model with the most requests.
        ttft_ms, duration_ms: time to first token and duration; rejected and lost requests are left out.
        percentile_error: the greatest relative error of the percentiles.
        outcomes: requests by outcome.
        errors: requests by the `type` of their error, the most frequent first.
        endpoints: most requests first.
        models: most requests first, and OTHER_MODELS last.
        series: one entry for each step of `series_step_s` seconds.
        split_by, split: what the requests are split by, the most costly first; None and [] if that is not wanted.
    """

    gateway: str
    scope: Literal["all", "key", "holder", "group"]
    key: str | None
    holder: str | None
    group: str | None
    model: str | None
    endpoint: str | None
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
    unique_users: int | None
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
    endpoints: list[EndpointStats]
    models: list[ModelStats]
    series_step_s: int
    series: list[SeriesStep]
    split_by: SplitBy | None
    split: list[Share]


class _Chosen(NamedTuple):
    """The requests that statistics are about: those from `start` to before `end`; `start` is None without any."""

    gateway: str
    key_id: str | None
    model: str | None
    endpoint: str | None
    owned: Owned | None
    time_range: str
    start: datetime | None
    end: datetime
    split_by: SplitBy | None


def select_stats(
    gateway: str,
    time_range: str,
    now: datetime | None = None,
    *,
    key_id: str | None = None,
    model: str | None = None,
    endpoint: str | None = None,
    owned: Owned | None = None,
    split_by: SplitBy | None = None,
) -> Stats:
    """Returns the statistics of a window that ends now.

    Args:
        gateway: a provider's name, or ALL_GATEWAYS.
        time_range: one of TIME_RANGES.
        now: the current time, with a timezone; by default PostgreSQL's.
        key_id: the key whose requests to count; None for all keys.
        model: the id of the model that served the requests; None for all models. Not together with `key_id`, because
            there are no sums of both.
        endpoint: the path of an endpoint, None for all of them.
        owned: the holder or the group whose keys' requests to count; None for all keys. Not together with `key_id` and
            `model`.
        split_by: whether to split the sums by key, holder or group; not those of one key or of a model.

    Raises:
        DatabaseError: the database is unavailable or slow.
        ValueError: there are no such sums.
    """
    if sum(each is not None for each in (key_id, model, owned)) > 1 or (split_by and (key_id or model)):
        raise ValueError("there are no sums of a key and a model")
    subject, keys = _make_subject(key_id, model), None if owned is None else owned.keys
    chosen_gateway = None if gateway == ALL_GATEWAYS else gateway
    by_key = subject != ALL_REQUESTS or owned is not None or split_by is not None
    with read_connection() as connection:
        end = (now or select_now(connection)).astimezone(UTC).replace(second=0, microsecond=0) + _MINUTE
        length = TIME_RANGES[time_range].length
        first = None if length else select_first_day(connection, subject, keys)
        start = _compute_start(end, length, by_key=by_key) if length else _make_midnight(first)
        usage = select_usage(
            connection,
            start=start or end,
            end=end,
            step=TIME_RANGES[time_range].step,
            subject=subject,
            gateway=chosen_gateway,
            endpoint=endpoint,
            keys=keys,
        )
        split = []
        if split_by is not None:
            chosen = Selection(ALL_REQUESTS, chosen_gateway, endpoint, None if keys is None else tuple(keys))
            sums = select_key_sums(connection, chosen, start or end, end)
            split = make_shares(split_by, sums, select_key_owners(connection, list(sums)))
    return _make_stats(usage, _Chosen(gateway, key_id, model, endpoint, owned, time_range, start, end, split_by), split)


def _make_subject(key_id: str | None, model: str | None) -> str:
    if model is not None:
        return MODEL_PREFIX + model
    return ALL_REQUESTS if key_id is None else KEY_PREFIX + key_id


def _compute_start(end: datetime, length: timedelta, *, by_key: bool) -> datetime:
    start = end - length
    by_minute = not by_key or length <= MAX_SUBJECT_WINDOW_BY_MINUTE
    return start if by_minute else start.replace(minute=0)


def _make_midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime.combine(day, time(), UTC)


def _make_stats(usage: Usage, chosen: _Chosen, split: list[Share]) -> Stats:
    total = sum_up(row.sums for row in usage.outcomes)
    step = TIME_RANGES[chosen.time_range].step
    models = usage.models
    if chosen.model is not None and total.requests:
        models = [ModelRow(chosen.model, total)]
    named_models = [row.model for row in models if row.model]
    return Stats(
        gateway=chosen.gateway,
        scope=chosen.owned.kind if chosen.owned is not None else "all" if chosen.key_id is None else "key",
        key=chosen.key_id,
        holder=chosen.owned.name if chosen.owned is not None and chosen.owned.kind == "holder" else None,
        group=chosen.owned.name if chosen.owned is not None and chosen.owned.kind == "group" else None,
        model=chosen.model,
        endpoint=chosen.endpoint,
        time_range=chosen.time_range,
        start=chosen.start,
        end=chosen.end,
        total_requests=total.requests,
        successful_requests=total.ok_requests,
        failed_requests=total.requests - total.ok_requests,
        **make_totals(total),
        unique_users=_count_keys(usage, chosen, total),
        unique_models=len(named_models),
        **_make_averages(total, usage.outcomes),
        top_model=named_models[0] if named_models else None,
        ttft_ms=make_percentiles(list(usage.histograms.get("ttft", {}).values())),
        duration_ms=make_percentiles(list(usage.histograms.get("duration", {}).values())),
        percentile_error=PERCENTILE_ERROR,
        outcomes=_count_outcomes(usage.outcomes),
        errors=_count_errors(usage.outcomes),
        endpoints=make_endpoints(usage.endpoints),
        models=make_models(models),
        series_step_s=int(step.total_seconds()),
        series=make_series(usage.series, usage.histograms, chosen.start, chosen.end, step),
        split_by=chosen.split_by,
        split=split,
    )


def _count_keys(usage: Usage, chosen: _Chosen, total: Sums) -> int | None:
    if chosen.model is not None:
        return None
    return usage.keys if chosen.key_id is None else int(total.requests > 0)


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
