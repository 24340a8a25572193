"""Records the use of a request: tokens with their source, cost with its kind, speed, and errors."""

from __future__ import annotations

import time
from collections.abc import Mapping

from app.config import MAX_NAME_CHARACTERS
from app.errors import ClientGone, GatewayError, UpstreamError
from app.services.endpoints import ResponseSummary, StreamSummary, Usage
from app.services.inference.adaptation import UpstreamRequest
from app.services.inference.error_text import make_error_text
from app.services.inference.exchange import Exchange
from app.services.pricing import compute_cost, get_price


def record_response(
    exchange: Exchange, request: UpstreamRequest, summary: ResponseSummary, headers: Mapping[str, str]
) -> None:
    """Records the model, finish reason, usage, cost and speed of a whole response."""
    record = exchange.record
    record.model_served = (summary.model or request.target.model)[:MAX_NAME_CHARACTERS]
    record.finish_reason = summary.finish_reason
    _record_usage(exchange, request, summary.usage or Usage(), summary.output_tokens_estimate)
    generation_s = request.target.provider.get_generation_s(headers)
    _record_speed(exchange, generation_s or time.monotonic() - exchange.served_from_s)


def record_stream(exchange: Exchange, request: UpstreamRequest, summary: StreamSummary, *, is_complete: bool) -> None:
    """Records the same for a stream, complete or not, and its event count, bytes and times.

    A mistake of the gateway here must not keep the request from being finished, so it is logged and not raised.
    """
    record = exchange.record
    try:
        if exchange.limited is not None:
            exchange.limited.received_bytes = summary.bytes_received
        record.events, record.bytes_out = summary.events, summary.bytes_sent
        record.longest_gap_ms = summary.longest_gap_s * 1000
        record.finish_reason = summary.finish_reason
        # With status 200 but no event, or only an error, a response confirms no model.
        if summary.events or summary.usage is not None:
            record.model_served = (summary.model or request.target.model)[:MAX_NAME_CHARACTERS]
            # Each event with output counts as one token, which is about right.
            _record_usage(exchange, request, summary.usage or Usage(), summary.output_events)
        if summary.first_output_s is not None and summary.last_output_s is not None:
            record.ttft_ms = (summary.first_output_s - exchange.served_from_s) * 1000
            _record_speed(exchange, summary.last_output_s - summary.first_output_s)
    except Exception as error:
        exchange.note_fault("usage", error)


def _record_usage(exchange: Exchange, request: UpstreamRequest, usage: Usage, counted: int | None) -> None:
    """Records the provider's usage and its cost. Numbers missing in it are counted, and then the cost is an estimate.

    Args:
        exchange: the request.
        request: as it was sent.
        usage: the provider's.
        counted: the gateway's own count of the output, or None.
    """
    record = exchange.record
    record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
    record.cached_tokens, record.reasoning_tokens = usage.cached_tokens, usage.reasoning_tokens
    if usage.cost_usd is not None:
        record.stated_cost_usd = usage.cost_usd
    if record.prompt_tokens is not None and record.completion_tokens is not None:
        record.usage_source = "provider"
        _record_cost(exchange, request, "exact")
        return
    record.usage_source = "counted"
    if record.prompt_tokens is None:
        record.prompt_tokens = request.prompt_tokens_estimate
    if record.completion_tokens is None:
        record.completion_tokens = counted
    _record_cost(exchange, request, "estimated")


def _record_cost(exchange: Exchange, request: UpstreamRequest, kind: str) -> None:
    """Records the cost, if the price is known, with its kind (`exact` or `estimated`)."""
    record, target = exchange.record, request.target
    price = request.price or get_price(target.provider.billing, target.model, request.service_tier)
    if price is None or record.prompt_tokens is None or record.completion_tokens is None:
        return
    if price.completion is None and record.completion_tokens:
        return
    cost = compute_cost(price, record.prompt_tokens, record.cached_tokens or 0, record.completion_tokens)
    record.cost_usd, record.cost_kind = format(cost, "f"), kind
    record.price_source = price.source
    record.price_date = price.date.isoformat() if price.date is not None else None


def _record_speed(exchange: Exchange, generation_s: float) -> None:
    tokens = exchange.record.completion_tokens
    if tokens and generation_s > 0:
        exchange.record.tokens_per_second = tokens / generation_s


def finish_stream(exchange: Exchange, error: GatewayError | None) -> None:
    """Finishes a request whose stream was sent to the client; `error` ended the stream early, or is None."""
    if error is None:
        exchange.finish("ok", 200)
        return
    # A client that has received part of the stream has seen status 200. Otherwise it gets an HTTP error.
    saw_response = bool(exchange.record.bytes_out) and not isinstance(error, ClientGone)
    finish_with_error(exchange, error, status=200 if saw_response else None)


def finish_with_error(exchange: Exchange, error: GatewayError, status: int | None = None) -> None:
    """Finishes a request with an error.

    Args:
        exchange: the request.
        error: the error that the client gets.
        status: the HTTP status that the client saw; that of the error in the endpoint's API if not given.
    """
    record = exchange.record
    try:
        if exchange.limited is not None and record.upstream_status is not None:
            exchange.limited.fail_attempt(error)  # Failures before a response were noted by the dispatcher.
        record.error_type, record.error_code, record.error_param = error.type, error.code, error.param
        record.error_message = make_error_text(error.message)
        if isinstance(error, UpstreamError):
            record.upstream_status = error.upstream_status or record.upstream_status
            record.upstream_request_id = error.upstream_request_id or record.upstream_request_id
        if status is None:
            status = exchange.endpoint.errors.get_status(error)
    except Exception as fault:
        exchange.note_fault("error", fault)
    exchange.finish(error.outcome, error.status if status is None else status)
