"""Statistics of a gateway over a window of time, read from the sums alone: of all requests, of a key, or of a model.

A window ends with the current minute, unless another end is requested, so that a request counts as soon as its record
is shipped. It is exact: it includes exactly the requests that started at or after `from` and before `to`. Rows that
retention has dropped still count, because their sums stay. Statistics take five statements, six with the models of each
step, and one more for the first day of the window "all"; none of them reads a record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
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
from app.services.reports.splits import (
    EndpointStats,
    GatewayStats,
    ModelStats,
    make_endpoints,
    make_gateways,
    make_models,
)
from app.services.reports.time_window import (
    DEFAULT_TIME_RANGE,
    TIME_RANGES,
    AskedWindow,
    TimeWindow,
    compute_end,
    make_window,
)
from app.services.reports.totals import compute_speed, is_cost_known, make_totals, normalize_usd

# The greatest relative error of a percentile, proved in app/db/histogram.py; shown with the percentiles.
PERCENTILE_ERROR = 0.05


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of a gateway, or of all of them, over a window of time.

    Attributes:
        scope, key: "all" and None for all requests; "key" and the id of the key for those of one key.
        holder, group: with scope "holder" or "group", the name of the one whose keys' requests these are; else None.
        model: the id of the model that served these requests, of all keys; None for all models.
        endpoint: the path of the endpoint whose requests these are; None for all of them.
        time_range: one of TIME_RANGES; None if the window was given by its start.
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
        gateways: most requests first.
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
    time_range: str | None
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
    gateways: list[GatewayStats]
    models: list[ModelStats]
    series_step_s: int
    series: list[SeriesStep]
    split_by: SplitBy | None
    split: list[Share]


class _Chosen(NamedTuple):
    """The requests to which statistics are limited."""

    gateway: str
    key_id: str | None
    model: str | None
    endpoint: str | None
    owned: Owned | None
    time_range: str | None
    window: TimeWindow
    split_by: SplitBy | None


def select_stats(
    gateway: str,
    window: AskedWindow | str = DEFAULT_TIME_RANGE,
    now: datetime | None = None,
    *,
    key_id: str | None = None,
    model: str | None = None,
    endpoint: str | None = None,
    top_models: int = 0,
    owned: Owned | None = None,
    split_by: SplitBy | None = None,
) -> Stats:
    """Returns the statistics of a window.

    Args:
        gateway: a provider's name, or ALL_GATEWAYS.
        window: its start, end and steps; a name of TIME_RANGES means a window that ends now.
        now: the current time, with a timezone; by default PostgreSQL's.
        key_id: the key whose requests to count; None for all keys.
        model: the id of the model that served the requests; None for all models. Not together with `key_id`, because
            there are no sums of both.
        endpoint: the path of an endpoint, None for all of them.
        top_models: the number of models with figures in each step of the series, at most MAX_TOP_MODELS.
        owned: the holder or the group whose keys' requests to count; None for all keys. Not together with `key_id` and
            `model`.
        split_by: whether to split the sums by key, holder or group; not those of one key or of a model.

    Raises:
        BadRequest: the window is empty or in the future, or its step is too short.
        DatabaseError: the database is unavailable or slow.
        ValueError: there are no such sums.
    """
    if sum(each is not None for each in (key_id, model, owned)) > 1 or (split_by and (key_id or model)):
        raise ValueError("there are no sums of a key and a model")
    asked = AskedWindow(time_range=window) if isinstance(window, str) else window
    subject, keys = _make_subject(key_id, model), None if owned is None else owned.keys
    chosen_gateway = None if gateway == ALL_GATEWAYS else gateway
    by_key = subject != ALL_REQUESTS or owned is not None or split_by is not None
    with read_connection() as connection:
        now_end = compute_end(now or select_now(connection))
        needs_first = asked.start is None and TIME_RANGES[asked.time_range].length is None
        first = _make_midnight(select_first_day(connection, subject, keys)) if needs_first else None
        found = make_window(asked, now_end, first, of_subject=by_key)
        usage = select_usage(
            connection,
            start=found.start or found.end,
            end=found.end,
            step=found.step,
            subject=subject,
            gateway=chosen_gateway,
            endpoint=endpoint,
            top_models=top_models,
            keys=keys,
        )
        split = []
        if split_by is not None:
            chosen = Selection(ALL_REQUESTS, chosen_gateway, endpoint, None if keys is None else tuple(keys))
            sums = select_key_sums(connection, chosen, found.start or found.end, found.end)
            split = make_shares(split_by, sums, select_key_owners(connection, list(sums)))
    time_range = asked.time_range if asked.start is None else None
    return _make_stats(usage, _Chosen(gateway, key_id, model, endpoint, owned, time_range, found, split_by), split)


def _make_subject(key_id: str | None, model: str | None) -> str:
    if model is not None:
        return MODEL_PREFIX + model
    return ALL_REQUESTS if key_id is None else KEY_PREFIX + key_id


def _make_midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime.combine(day, time(), UTC)


def _make_stats(usage: Usage, chosen: _Chosen, split: list[Share]) -> Stats:
    total = sum_up(row.sums for row in usage.outcomes)
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
        start=chosen.window.start,
        end=chosen.window.end,
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
        gateways=make_gateways(usage.gateways),
        models=make_models(models),
        series_step_s=int(chosen.window.step.total_seconds()),
        series=make_series(usage, chosen.window),
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
