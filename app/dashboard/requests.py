"""One request: its outcome, its times, and its cost. Its contents are never shown, since they are not kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from flask import g

from app.dashboard.activity import ActivityChoice, make_filter
from app.dashboard.frame import pages, show
from app.dashboard.overview import ACTIVITY
from app.dashboard.window import select_key_id
from app.services.reports import select_neighbours, select_request_story
from app.web import Response, read_query

# The meaning of each error `type`, and the remedy, as in docs/errors.md for callers.
ADVICE = {
    "invalid_request_error": "The request itself was wrong. Its sender must correct it; `param` names the field.",
    "authentication_error": "The key was missing, wrong, revoked or expired.",
    "permission_error": "The key may not do this. Use another key, or another model.",
    "insufficient_quota": "A budget of the key has too little left. Raise it, or wait for its next period.",
    "not_found_error": "There is no such model or path. The message names similar ones.",
    "rate_limit_error": "A limit of the key or of the provider was reached. The sender should wait for `retry-after`.",
    "configuration_error": "A setting is missing on this gateway. The operator must set it.",
    "unavailable_error": "The gateway was overloaded, or its database did not answer. A retry helps.",
    "gateway_shutdown": "The gateway was being restarted. A retry helps.",
    "upstream_authentication_error": "The provider refused the gateway's own key. The operator must correct it.",
    "upstream_error": "The provider failed. A retry helps, unless it happens again and again.",
    "upstream_timeout": "The provider took too long. Streaming, or fewer tokens, helps.",
    "api_error": "The gateway itself failed. Its log has the reason, under the request's id.",
}


class Span(NamedTuple):
    """A part of the duration of a request.

    Attributes:
        name: its content.
        more: details, such as the model and the status.
        start_ms, end_ms: since the request arrived; None if no time is known.
        colour: the class of its colour.
        is_bad: whether it failed.
    """

    name: str
    more: str
    start_ms: float | None
    end_ms: float | None
    colour: str = "a"
    is_bad: bool = False


@pages.get("/dashboard/requests/<path:request_id>")
def show_request(request_id: str) -> Response:
    """Shows a request, by the gateway's id, the provider's or the client's own."""
    choice = read_query(ActivityChoice)
    own = None if g.key.is_operator else g.key.id
    story = select_request_story(request_id, own)
    record = story.data
    parameters = choice.get_parameters()
    newer, older = select_neighbours(make_filter(choice, select_key_id(choice.key)), record)
    duration = record["duration_ms"]
    return show(
        "request.html",
        ACTIVITY,
        story=story,
        record=record,
        parameters=parameters,
        newer=newer,
        older=older,
        spans=make_spans(record),
        ended_at=None if duration is None else record["started_at"] + timedelta(milliseconds=duration),
        advice=ADVICE.get(record["error_type"] or "", ""),
    )


def make_spans(record: dict[str, Any]) -> list[Span]:
    """Returns the parts of a request's duration, as far as its record has them.

    An attempt is drawn from the end of the one before, so a pause between two belongs to the later one.
    """
    attempts = [each for each in record["attempts"] or [] if "requests" not in each]
    spans: list[Span] = []
    at_ms = 0.0
    for number, attempt in enumerate(attempts, 1):
        took_ms = attempt.get("ms")
        end_ms = None if took_ms is None else at_ms + took_ms
        is_bad = attempt.get("error") is not None
        start_ms = None if end_ms is None else at_ms
        spans.append(
            Span(f"Attempt {number}", _describe(attempt), start_ms, end_ms, "failed" if is_bad else "c", is_bad)
        )
        at_ms = at_ms if end_ms is None or not is_bad else end_ms
    end_ms, first_ms = record["duration_ms"], record["ttft_ms"]
    if end_ms is None:
        return spans
    is_bad = record["outcome"] != "ok"
    if first_ms is None or first_ms > end_ms:
        waited = "Waited for the answer" if record["upstream_status"] or spans else "Checked and refused"
        return [*spans, Span(waited, f"status {record['status']}", min(at_ms, end_ms), end_ms, "c", is_bad)]
    spans.append(Span("Waited for the first token", "", min(at_ms, first_ms), first_ms, "c"))
    spans.append(Span("Answer", f"status {record['status']}", first_ms, end_ms, "a", is_bad))
    return spans


def _describe(attempt: dict[str, Any]) -> str:
    target = "/".join(str(attempt[name]) for name in ("provider", "model") if attempt.get(name))
    result = attempt.get("error") or "served"
    status = "" if attempt.get("status") is None else f"status {attempt['status']}"
    cost = "" if attempt.get("cost_usd") is None else f"{attempt['cost_usd']} USD"
    tokens = "" if attempt.get("tokens") is None else f"{attempt['tokens']} tokens"
    return ", ".join(part for part in (target, status, result, tokens, cost) if part)
