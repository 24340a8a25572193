"""The steps of a window's time series, and percentiles from histograms."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, time
from decimal import Decimal

import msgspec

from app.db.histogram import histogram_quantiles_ms
from app.db.rollups import Histogram, ModelStepRow, SeriesRow, Usage
from app.db.sums import sum_up
from app.services.reports.splits import OTHER_MODELS
from app.services.reports.time_window import TimeWindow
from app.services.reports.totals import make_totals
from app.yielding import with_pauses

_QUANTILES = (0.50, 0.95, 0.99)
# The number of steps made between two pauses; each takes about 50 µs.
_STEPS = 25


class Percentiles(msgspec.Struct, frozen=True):
    """Percentiles of a duration in milliseconds; None if no request has the duration."""

    p50: float | None
    p95: float | None
    p99: float | None


class StepModel(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one model in a step.

    Attributes:
        model: the id of the model; None for requests whose model neither a list nor a response confirmed, and
            OTHER_MODELS for all models that are not among the top models of the window.
        errors: requests with another outcome than ok.
        tokens: prompt and completion tokens; None if unknown.
        cost, estimated_cost: USD; None if unknown.
    """

    model: str | None
    requests: int
    errors: int
    tokens: int | None
    cost: Decimal | None
    estimated_cost: Decimal | None


class SeriesStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a window's time series.

    Attributes:
        start: aligned to UTC midnights, so the window may cut the first step and the last.
        errors: requests with another outcome than ok.
        tokens: prompt and completion tokens; None if unknown.
        prompt_tokens, completion_tokens, cached_tokens: None if unknown.
        cost, estimated_cost: USD; None if unknown.
        outcomes: requests by outcome, without those that no request had.
        ttft_ms, duration_ms: rejected and lost requests are left out.
        models: the models that had requests, most of them first, if the models of each step were asked for.
    """

    start: datetime
    requests: int
    errors: int
    tokens: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    cost: Decimal | None
    estimated_cost: Decimal | None
    unpriced_requests: int
    outcomes: dict[str, int]
    ttft_ms: Percentiles
    duration_ms: Percentiles
    models: list[StepModel]


def make_series(usage: Usage, window: TimeWindow) -> list[SeriesStep]:
    """Returns an entry for every step of the window; a step without requests is zero, not unknown.

    Args:
        usage: the sums of the window.
        window: there are no steps if its `start` is None.
    """
    start, end, step = window
    if start is None:
        return []
    by_start: dict[datetime, list[SeriesRow]] = defaultdict(list)
    for row in usage.series:
        by_start[row.start].append(row)
    models: dict[datetime, list[StepModel]] = defaultdict(list)
    for of_model in usage.model_series:
        models[of_model.start].append(_make_step_model(of_model))
    # Steps are aligned to UTC midnights, as in select_usage.
    midnight = datetime.combine(start, time(), UTC)
    first = midnight + (start - midnight) // step * step
    starts = [first + number * step for number in range(-((first - end) // step))]
    ttft, duration = usage.histograms.get("ttft", {}), usage.histograms.get("duration", {})
    return [
        _make_step(at, by_start.get(at, []), ttft.get(at, {}), duration.get(at, {}), models.get(at, []))
        for at in with_pauses(starts, slice_items=_STEPS)
    ]


def _make_step_model(row: ModelStepRow) -> StepModel:
    totals = make_totals(row.sums)
    return StepModel(
        model=OTHER_MODELS if row.model is None else row.model or None,
        requests=row.sums.requests,
        errors=row.sums.requests - row.sums.ok_requests,
        tokens=totals["total_tokens"],
        cost=totals["total_cost"],
        estimated_cost=totals["estimated_cost"],
    )


def _make_step(
    start: datetime, rows: Sequence[SeriesRow], ttft: Histogram, duration: Histogram, models: list[StepModel]
) -> SeriesStep:
    sums = sum_up(row.sums for row in rows)
    totals = make_totals(sums)
    return SeriesStep(
        start=start,
        requests=sums.requests,
        errors=sums.requests - sums.ok_requests,
        tokens=totals["total_tokens"],
        prompt_tokens=totals["prompt_tokens"],
        completion_tokens=totals["completion_tokens"],
        cached_tokens=totals["cached_tokens"],
        cost=totals["total_cost"],
        estimated_cost=totals["estimated_cost"],
        unpriced_requests=totals["unpriced_requests"],
        outcomes={row.outcome: row.sums.requests for row in rows},
        ttft_ms=make_percentiles([ttft]),
        duration_ms=make_percentiles([duration]),
        models=models,
    )


def make_percentiles(histograms: Sequence[Histogram]) -> Percentiles:
    """Returns the percentiles of all values of the histograms together."""
    counts = Counter[int]()
    for histogram in histograms:
        counts.update(histogram)
    values = histogram_quantiles_ms(counts, _QUANTILES)
    # Rounding to five digits adds a thousandth of the histogram's own error.
    return Percentiles(*(None if value is None else float(f"{value:.5g}") for value in values))
