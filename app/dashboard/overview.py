"""Overview: recent figures at a glance; every number leads to the requests behind it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from flask import g

from app.dashboard.calls import write_calls
from app.dashboard.charts import Chart, Line, Steps, draw_bars, draw_lines
from app.dashboard.frame import get_origin, pages, show
from app.dashboard.models import EXAMPLE, find_example_model
from app.dashboard.window import ENDPOINT_PATHS, RANGE_NAMES, Window, select_key_id, select_window_stats, write_time
from app.layout import FILTERS, get_root, make_address
from app.services.journal import select_integrity_report
from app.services.providers import PROVIDERS, is_configured
from app.services.reports import OUTCOMES, ActivityFilter, Stats, select_activity_page
from app.web import Response, read_query
from app.yielding import with_pauses

ACTIVITY = "dashboard/activity"
# Everything but success; this includes failures caused by clients, because the operator wants to see them.
FAILURES = tuple(outcome for outcome in OUTCOMES if outcome != "ok")
_LATEST_FAILURES = 8
_MODELS = 8


@pages.get("/dashboard/")
def show_overview() -> Response:
    """Shows the figures of a window of time."""
    window = read_query(Window)
    key_id = select_key_id(window.key)
    stats = select_window_stats(window, key_id)
    fixed = {name: value for name, value in window.get_parameters().items() if name != "time_range"}
    fixed |= {"from": write_time(stats.start) or "", "to": write_time(stats.end) or ""}
    failures = select_activity_page(
        ActivityFilter(
            start=stats.start,
            end=stats.end,
            key_id=key_id,
            gateway=window.gateway,
            model=window.model,
            endpoint=window.endpoint,
            outcomes=FAILURES,
        ),
        None,
        _LATEST_FAILURES,
    )
    return show(
        "overview.html",
        "dashboard/",
        stats=stats,
        integrity=select_integrity_report() if g.key.is_operator else None,
        window=window,
        parameters=window.get_parameters(),
        fixed=fixed,
        ranges=RANGE_NAMES,
        providers=list(PROVIDERS),
        endpoints=ENDPOINT_PATHS,
        charts=list(with_pauses(draw_charts(stats, fixed), slice_items=1)) if stats.series else [],
        models=stats.models[:_MODELS],
        failures=failures.data if stats.failed_requests else [],
        failure_outcomes=FAILURES,
        has_provider=any(is_configured(provider) for provider in PROVIDERS.values()),
        first_call=write_calls(get_origin() + "/v1/chat/completions", EXAMPLE | {"model": find_example_model()})[
            "curl"
        ],
    )


def make_steps(stats: Stats, parameters: dict[str, Any]) -> Steps:
    """Returns the steps of statistics; each leads to its requests that match the parameters."""
    length = timedelta(seconds=stats.series_step_s)
    root = get_root()
    links = [
        root
        + make_address(ACTIVITY, parameters | {"from": write_time(step.start), "to": write_time(step.start + length)})
        for step in stats.series
    ]
    return Steps([step.start for step in stats.series], length, stats.end, links)


def draw_requests(stats: Stats, steps: Steps) -> Chart:
    """Returns the chart of requests by outcome."""
    ok = [step.outcomes.get("ok", 0) for step in stats.series]
    gone = [step.outcomes.get("client_gone", 0) for step in stats.series]
    failed = [step.requests - good - left for step, good, left in zip(stats.series, ok, gone, strict=True)]
    lines = [Line("succeeded", "ok", ok), Line("client left", "gone", gone), Line("failed", "failed", failed)]
    return draw_bars("Requests", steps, lines, FILTERS["short"])


def draw_charts(stats: Stats, parameters: dict[str, Any]) -> Iterator[Chart]:
    """Yields the charts of statistics: requests, time to first token, cost, tokens."""
    steps, series = make_steps(stats, parameters), stats.series
    yield draw_requests(stats, steps)
    yield draw_lines(
        "Time to first token",
        steps,
        [
            Line("median", "a", [step.ttft_ms.p50 for step in series]),
            Line("95 %", "b", [step.ttft_ms.p95 for step in series]),
        ],
        FILTERS["ms"],
    )
    yield draw_bars(
        "Cost",
        steps,
        [
            Line("exact", "a", [_to_float(step.cost) for step in series]),
            Line("estimated", "c", [_to_float(step.estimated_cost) for step in series]),
        ],
        FILTERS["usd"],
    )
    yield draw_bars(
        "Tokens",
        steps,
        [
            Line("prompt", "a", [step.prompt_tokens for step in series]),
            Line("completion", "c", [step.completion_tokens for step in series]),
        ],
        FILTERS["short"],
    )


def _to_float(value: Any) -> float | None:
    return None if value is None else float(value)
