"""The spans of one request: its own, and one for each target that it was sent to.

Attribute names follow OpenTelemetry's semantic conventions for HTTP servers and for generative AI. Names missing there
begin with `gateway.`. Message contents are never included.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from app.services.journal import ActivityRecord
from app.services.traces.context import make_span_id

# Endpoints whose operation has another name in the conventions.
_OPERATIONS = {"completions": "text_completion"}


class Span(NamedTuple):
    """One span, before its conversion to OpenTelemetry.

    Attributes:
        span_id, parent_id: 16 hexadecimal digits; a parent of None is the root of the trace.
        is_call: whether it is a call of a provider; otherwise it is the request itself.
        start_ns, end_ns: since 1970.
        error: the failure, in one word; None without one.
    """

    name: str
    span_id: str
    parent_id: str | None
    is_call: bool
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    error: str | None


class _Call(NamedTuple):
    """A target that the request was sent to."""

    span_id: str
    provider: str
    model: str
    start_ns: int


class RequestSpans:
    """Collects the spans of one request.

    Args:
        endpoint: the name of the endpoint that serves it, such as `chat`.
        parent_id: the client's span; None without one.
    """

    __slots__ = ("_calls", "_endpoint", "_parent_id", "_span_id", "_start_ns")

    def __init__(self, endpoint: str, parent_id: str | None) -> None:
        self._endpoint = endpoint
        self._parent_id = parent_id
        self._span_id = make_span_id()
        self._start_ns = time.time_ns()
        self._calls: list[_Call] = []

    def begin_call(self, provider: str, model: str) -> str:
        """Begins the span of a target, which covers all its retries; returns the id of the span."""
        call = _Call(make_span_id(), provider, model, time.time_ns())
        self._calls.append(call)
        return call.span_id

    def end(self, record: ActivityRecord) -> list[Span]:
        """Returns the spans of a request that ends now, the request's own first.

        Args:
            record: the final record.
        """
        end_ns = time.time_ns()
        spans = [self._make_own(record, end_ns)]
        for number, call in enumerate(self._calls):
            is_last = number == len(self._calls) - 1
            spans.append(
                self._make_call(call, record, end_ns if is_last else self._calls[number + 1].start_ns, is_last)
            )
        return spans

    def _make_own(self, record: ActivityRecord, end_ns: int) -> Span:
        error = None if record.outcome == "ok" else record.error_code or record.error_type or record.outcome
        attributes = {
            "http.request.method": "POST",
            "http.route": record.endpoint,
            "url.path": record.endpoint,
            "http.response.status_code": record.status,
            "error.type": error,
            "gateway.request_id": record.request_id,
            "gateway.key_id": record.key_id,
            "gateway.outcome": record.outcome,
        }
        name = f"POST {record.endpoint}"
        # A refused request is the caller's error and not the server's.
        failed = error if record.status >= 500 or record.outcome not in {"ok", "rejected", "client_gone"} else None
        return Span(
            name, self._span_id, self._parent_id, False, self._start_ns, end_ns, _without_none(attributes), failed
        )

    def _make_call(self, call: _Call, record: ActivityRecord, end_ns: int, is_last: bool) -> Span:
        operation = _OPERATIONS.get(self._endpoint, self._endpoint)
        attempts = [each for each in record.attempts if (each.get("provider"), each["model"]) == call[1:3]]
        error = attempts[-1]["error"] if attempts else None
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": call.provider,
            "gen_ai.request.model": call.model,
            "gen_ai.request.stream": record.stream or None,
            "http.response.status_code": attempts[-1]["status"] if attempts else None,
            "gateway.attempts": len(attempts) if len(attempts) > 1 else None,
        }
        if is_last:
            if error is None and record.outcome != "ok":
                error = record.error_code or record.error_type or record.outcome
            attributes |= _describe_answer(record)
        attributes["error.type"] = error
        name = f"{operation} {call.model}"
        return Span(name, call.span_id, self._span_id, True, call.start_ns, end_ns, _without_none(attributes), error)


def _describe_answer(record: ActivityRecord) -> dict[str, Any]:
    return {
        "gen_ai.response.model": record.model_served,
        "gen_ai.response.finish_reasons": None if record.finish_reason is None else [record.finish_reason],
        "gen_ai.response.time_to_first_chunk": None if record.ttft_ms is None else record.ttft_ms / 1000,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": record.reasoning_tokens,
        "http.response.status_code": record.upstream_status,
        "gateway.cost_usd": None if record.cost_usd is None else float(record.cost_usd),
        "gateway.cost_kind": record.cost_kind,
        "gateway.upstream_request_id": record.upstream_request_id,
    }


def _without_none(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
