"""What a request used: tokens with their source, cost with its kind, speed, and the outcome, put on its record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from app.errors import ClientGone, GatewayError, UpstreamError
from app.logs import log_event
from app.metrics import count_request
from app.services.inference.admission import release
from app.services.inference.chat_request import ChatRequest
from app.services.journal.record import Activity
from app.services.pricing import compute_cost, get_price
from app.services.streaming.sse import Usage
from app.services.streaming.stream_summary import Sightings


def record_completion(
    activity: Activity, request: ChatRequest, completion: dict[str, Any], headers: Mapping[str, str]
) -> None:
    """Finishes the record of an unstreamed request that was answered."""
    row = activity.row
    choices = completion["choices"]
    if isinstance(completion.get("model"), str):
        row.model_served = completion["model"][:500]
    row.finish_reason = _finish_reason(choices)
    _put_usage(activity, request, _usage(completion.get("usage")))
    generation_s = request.provider.get_generation_s(headers) or time.monotonic() - activity.started_s
    _put_speed(activity, generation_s)
    _finish(activity, "ok", 200)


def _finish_reason(choices: list[Any]) -> str | None:
    first = choices[0] if choices else None
    reason = first.get("finish_reason") if isinstance(first, dict) else None
    return reason[:100] if isinstance(reason, str) else None


def record_stream(activity: Activity, request: ChatRequest, seen: Sightings, error: GatewayError | None) -> None:
    """Finishes the record of a stream, complete or not."""
    row = activity.row
    row.events, row.bytes_out = seen.events, seen.bytes_out
    row.longest_gap_ms = seen.longest_gap_s * 1000
    row.finish_reason = seen.finish_reason
    if seen.model:
        row.model_served = seen.model[:500]
    usage = seen.usage
    if usage is None or (error is not None and usage.completion_tokens is None):
        _put_counted(activity, request, seen)
    else:
        _put_usage(activity, request, usage)
    if seen.first_output_s is not None and seen.last_output_s is not None:
        row.ttft_ms = (seen.first_output_s - activity.started_s) * 1000
        _put_speed(activity, seen.last_output_s - seen.first_output_s)
    if error is None:
        _finish(activity, "ok", 200)
    else:
        # A client that was sent something has seen 200; for any other, what went wrong is a real HTTP error.
        is_under_way = request.stream and seen.bytes_out > 0
        seen_by_client = 200 if is_under_way and not isinstance(error, ClientGone) else error.status
        record_error(activity, error, status=seen_by_client)


def _put_counted(activity: Activity, request: ChatRequest, seen: Sightings) -> None:
    """Counts where the provider gave no usage: an event with output is a token, give or take."""
    row = activity.row
    if not seen.events:
        return
    row.usage_source = "counted"
    row.prompt_tokens, row.completion_tokens = request.prompt_tokens_estimate, seen.outputs
    _put_cost(activity, request, "estimated")


def _usage(raw: Any) -> Usage | None:
    try:
        return msgspec.convert(raw, Usage, strict=False)
    except msgspec.ValidationError:
        return None


def _put_usage(activity: Activity, request: ChatRequest, usage: Usage | None) -> None:
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return
    row = activity.row
    row.usage_source = "provider"
    row.prompt_tokens, row.completion_tokens = usage.prompt_tokens, usage.completion_tokens
    if usage.prompt_tokens_details is not None:
        row.cached_tokens = usage.prompt_tokens_details.cached_tokens
    if usage.completion_tokens_details is not None:
        row.reasoning_tokens = usage.completion_tokens_details.reasoning_tokens
    _put_cost(activity, request, "exact")


def _put_cost(activity: Activity, request: ChatRequest, kind: str) -> None:
    """Puts the cost on the record, `kind` being what it is if the price is known."""
    row = activity.row
    price = get_price(request.provider.billing, request.model, request.service_tier)
    if price is None or row.prompt_tokens is None or row.completion_tokens is None:
        return
    cost = compute_cost(price, row.prompt_tokens, row.cached_tokens or 0, row.completion_tokens)
    row.cost_usd, row.cost_kind = format(cost, "f"), kind
    row.price_source = price.source
    row.price_date = price.date.isoformat() if price.date is not None else None


def _put_speed(activity: Activity, generation_s: float) -> None:
    tokens = activity.row.completion_tokens
    if tokens and generation_s > 0:
        activity.row.tokens_per_second = tokens / generation_s


def record_error(activity: Activity, error: GatewayError, status: int | None = None) -> None:
    """Finishes the record of a request that ended with an error.

    Args:
        activity: the record.
        error: what the client was told.
        status: the HTTP status the client saw; the error's own when not given.
    """
    row = activity.row
    row.error_type, row.error_code = error.type, error.code and error.code[:200]
    if isinstance(error, UpstreamError):
        row.upstream_status = error.upstream_status or row.upstream_status
        row.upstream_request_id = error.upstream_request_id or row.upstream_request_id
    _finish(activity, error.outcome, error.status if status is None else status)


def _finish(activity: Activity, outcome: str, status: int) -> None:
    if not activity.dispatched:
        activity.row.cost_usd, activity.row.cost_kind = "0", "exact"  # Nothing was sent, so nothing is owed.
    if not activity.finish(outcome, status):
        return  # A stream that was collected for an unstreamed request has finished its record by itself.
    row = activity.row
    release(row.stream)
    count_request(row)
    log_event(
        "request",
        request_id=activity.request_id,
        key=row.key_id,
        path=row.endpoint,
        gateway=row.gateway,
        model=row.model_served or row.model_requested,
        stream=row.stream,
        status=row.status,
        outcome=row.outcome,
        error_code=row.error_code or row.error_type,
        duration_ms=row.duration_ms,
        ttft_ms=row.ttft_ms,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cost_usd=row.cost_usd,
        upstream_request_id=row.upstream_request_id,
    )
