"""The counters and histograms for Prometheus, and the functions that count into them.

They are correct with several workers: each worker writes a memory-mapped file, and a scrape adds up the files. Gauges,
which read the state of other packages, are in `app/services/health/gauges.py`.

Each request is counted once, from its finished record; metric_numbers.py adds to the numbers behind its metrics.
docs/metrics.md lists every metric, and app/metric_labels.py bounds the labels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from app.metric_labels import ForeignLabels
from app.metric_numbers import Add, Spread, get_add
from app.runtime import get_component

if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    # At each increment the library makes a system call for the process id, in case of a fork, and takes a lock. Neither
    # is needed in a worker: it never forks, its threads are greenlets, and an increment does not switch greenlets.
    _PID = os.getpid()
    values.Lock = nullcontext  # type: ignore[attr-defined, assignment]

    class _FileValue(values.MultiProcessValue(lambda: _PID)):  # type: ignore[misc]
        """A number in this worker's memory-mapped file, which others read at any time.

        The library's own `inc` takes 1.2 µs longer: it looks up the position in the file, and writes a timestamp too.
        """

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            start = self._file._positions[self._key]
            # An assignment writes eight bytes at once, so no reader sees half a number. When the file grows, the
            # library maps it again, and this view still writes into it.
            self._number = memoryview(self._file._m)[start : start + 8].cast("d")

        def inc(self, amount: float) -> None:
            """Adds `amount`."""
            self._value += amount
            self._number[0] = self._value

    values.ValueClass = _FileValue

# From 5 ms to 15 min.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
_OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1)

requests_total = Counter("gateway_requests_total", "Finished requests.", ["route", "provider", "outcome"])
tokens_total = Counter("gateway_tokens_total", "Tokens used.", ["provider", "model", "kind"])
cost_total = Counter(
    "gateway_cost_usd_total", "Cost of requests in USD; kind is exact or estimated.", ["provider", "kind"]
)
unpriced_total = Counter(
    "gateway_unpriced_requests_total", "Requests with known usage and unknown price.", ["provider"]
)
upstream_errors_total = Counter("gateway_upstream_errors_total", "Errors of providers.", ["provider", "error"])
retries_total = Counter("gateway_upstream_retries_total", "Requests sent to a target again.", ["provider"])
fallbacks_total = Counter("gateway_fallbacks_total", "Targets given up for another one.", ["provider", "reason"])
unrecorded_refusals_total = Counter(
    "gateway_unrecorded_refusals_total", "Refused requests that share a record.", ["route"]
)
dry_runs_total = Counter("gateway_dry_runs_total", "Requests that were described and not sent.", ["route"])
failed_key_checks_total = Counter(
    "gateway_key_checks_failed_total", "Requests refused because their key could not be checked.", ["reason"]
)
limit_refusals_total = Counter(
    "gateway_limit_refusals_total", "Requests refused because of a limit of their key.", ["kind"]
)
limit_draws_total = Counter("gateway_limit_draws_total", "Draws from limits in the database.", ["kind", "result"])
limit_wait_seconds = Histogram("gateway_limit_wait_seconds", "Requests that waited for a draw.", buckets=_SECONDS[:10])
budget_overrun_total = Counter("gateway_budget_overrun_total", "What was used above the amount of a budget.", ["unit"])
budget_unaccounted_total = Counter(
    "gateway_budget_unaccounted_total", "What dead workers had drawn and may have spent.", ["unit"]
)
rejected_rows_total = Counter("gateway_rejected_rows_total", "Records that PostgreSQL refused.")
request_faults_total = Counter(
    "gateway_request_faults_total", "Steps at the end of requests that failed by a mistake in the gateway.", ["step"]
)
webhook_messages_total = Counter(
    "gateway_webhook_messages_total", "Messages to LIMITS_WEBHOOK, and attempts that failed.", ["result"]
)
ttft_seconds = Histogram(
    "gateway_time_to_first_token_seconds", "Streams: until the first output.", ["provider"], buckets=_SECONDS
)
duration_seconds = Histogram(
    "gateway_request_duration_seconds", "From request to end of answer.", ["provider", "stream"], buckets=_SECONDS
)
overhead_seconds = Histogram(
    "gateway_overhead_seconds",
    "Time spent in the gateway itself, before and after the provider's.",
    ["stream"],
    buckets=_OVERHEAD_SECONDS,
)


class FinishedRequest(Protocol):
    """The fields of a finished request's record that metrics use; they have the names of the columns."""

    endpoint: str
    gateway: str | None
    outcome: str
    stream: bool
    duration_ms: float | None
    ttft_ms: float | None
    model_served: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    cost_usd: str | None
    cost_kind: str
    error_type: str | None
    error_code: str | None
    attempts: list[dict[str, Any]]


def count_request(row: FinishedRequest) -> None:
    """Counts a finished request from its record."""
    provider = row.gateway or "none"
    _requests(row.endpoint, provider, row.outcome)(1)
    _duration(provider, row.stream).observe((row.duration_ms or 0) / 1000)
    if row.ttft_ms is not None:
        _ttft(provider).observe(row.ttft_ms / 1000)
    if row.completion_tokens is not None:
        _count_usage(row, provider)
    if row.outcome.startswith("upstream_"):
        error = get_component(ForeignLabels).bound_error(row.error_code or row.error_type or "unknown")
        upstream_errors_total.labels(provider, error).inc()
    if len(row.attempts) > 1:
        _count_retries(row.attempts, provider)


def count_fallback(provider: str, reason: str) -> None:
    """Counts a target that was given up for another one.

    Args:
        provider: the provider of the target that was given up.
        reason: the code or the type of its error, as on the attempt.
    """
    fallbacks_total.labels(provider, get_component(ForeignLabels).bound_error(reason)).inc()


def make_gauge(
    name: str, documentation: str, mode: Literal["livesum", "livemax", "livemin"], labels: Sequence[str] = ()
) -> Gauge:
    """Returns a new gauge whose value is the sum, the maximum or the minimum over living workers.

    This module creates gauges, because prometheus_client must be set up for several processes, as above, before the
    first metric is created; an earlier metric would not be shared.
    """
    return Gauge(name, documentation, labels, multiprocess_mode=mode)


def count_unrecorded_refusal(route: str) -> None:
    """Counts a refused request that has no record of its own."""
    unrecorded_refusals_total.labels(route).inc()


def count_dry_run(route: str) -> None:
    """Counts a request that was only described, and has no record."""
    dry_runs_total.labels(route).inc()


def count_failed_key_check(reason: Literal["database_unavailable", "too_many_lookups"]) -> None:
    """Counts a request that was refused because its key could not be checked."""
    failed_key_checks_total.labels(reason).inc()


def count_limit_refusal(
    kind: Literal["requests", "tokens", "concurrent", "budget", "reserved", "unavailable"],
) -> None:
    """Counts a request that a limit refused."""
    limit_refusals_total.labels(kind).inc()


def count_draw(
    kind: Literal["budget", "rate", "concurrent", "all"], result: Literal["done", "refused", "failed"]
) -> None:
    """Counts a draw; all draws of a call fail together."""
    limit_draws_total.labels(kind, result).inc()


def observe_limit_wait(seconds: float) -> None:
    """Counts how long an admitted request waited for a draw, in seconds."""
    limit_wait_seconds.observe(seconds)


def count_overrun(unit: str, amount: float) -> None:
    """Counts use above the amount of a budget, in its unit."""
    budget_overrun_total.labels(unit).inc(amount)


def count_unaccounted(unit: str, amount: float) -> None:
    """Counts a dead worker's draws from a budget that it may have spent without a record, in the budget's unit."""
    budget_unaccounted_total.labels(unit).inc(amount)


def count_rejected_row() -> None:
    """Counts a record that PostgreSQL refused even without its details; it is in rejected.jsonl."""
    rejected_rows_total.inc()


def count_request_fault(step: str) -> None:
    """Counts a failure, by a mistake in the gateway, of a step at the end of a request."""
    request_faults_total.labels(step).inc()


def count_webhook_message(result: Literal["delivered", "retried", "given_up"]) -> None:
    """Counts the outcome of a message to LIMITS_WEBHOOK; "retried" is an attempt that another one follows."""
    webhook_messages_total.labels(result).inc()


def set_clock_skew(seconds: float) -> None:
    """Sets the difference between the clocks of PostgreSQL and this machine, in seconds."""
    _get_clock_skew().set(seconds)


# Created at the first use: a gauge is a file of its process, and commands of `flask` must not create one.
@cache
def _get_clock_skew() -> Gauge:
    return make_gauge("gateway_clock_skew_seconds", "Difference from PostgreSQL's clock, either way.", "livemax")


def observe_overhead(stream: bool, seconds: float) -> None:
    """Counts the time that the gateway itself spent on a request, in seconds."""
    _overhead(stream).observe(seconds)


def _count_retries(attempts: list[dict[str, Any]], provider: str) -> None:
    """Counts repeated attempts at the same target; attempts without a provider were at `provider`."""
    tried = set()
    for attempt in attempts:
        target = attempt.get("provider") or provider, attempt.get("model")
        if target in tried:
            retries_total.labels(target[0]).inc()
        tried.add(target)


def _count_usage(row: FinishedRequest, provider: str) -> None:
    model = get_component(ForeignLabels).bound_model(row.model_served or "unknown")
    _tokens(provider, model, "prompt")(row.prompt_tokens or 0)
    _tokens(provider, model, "completion")(row.completion_tokens or 0)
    if row.cached_tokens:
        _tokens(provider, model, "cached")(row.cached_tokens)
    if row.cost_usd is None:
        _unpriced(provider)(1)
    else:
        _cost(provider, row.cost_kind)(float(row.cost_usd))


@lru_cache(maxsize=256)
def _requests(route: str, provider: str, outcome: str) -> Add:
    return get_add(requests_total.labels(route, provider, outcome))


@lru_cache(maxsize=1024)
def _tokens(provider: str, model: str, kind: str) -> Add:
    return get_add(tokens_total.labels(provider, model, kind))


@lru_cache(maxsize=32)
def _cost(provider: str, kind: str) -> Add:
    return get_add(cost_total.labels(provider, kind))


@lru_cache(maxsize=16)
def _unpriced(provider: str) -> Add:
    return get_add(unpriced_total.labels(provider))


@lru_cache(maxsize=16)
def _duration(provider: str, stream: bool) -> Spread:
    return Spread(duration_seconds.labels(provider, "true" if stream else "false"))


@lru_cache(maxsize=2)
def _overhead(stream: bool) -> Spread:
    return Spread(overhead_seconds.labels("true" if stream else "false"))


@lru_cache(maxsize=16)
def _ttft(provider: str) -> Spread:
    return Spread(ttft_seconds.labels(provider))


def render_metrics() -> bytes:
    """Returns the metrics of all workers in Prometheus' text format, or of this process if it is the only one."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if directory is None or not Path(directory).is_dir():
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
