"""One request: what became of it, when, and what it cost. Its contents are never shown, since they are not kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from flask import g

from app.dashboard.activity import ActivityChoice, make_filter
from app.dashboard.frame import pages, show
from app.dashboard.overview import ACTIVITY
from app.dashboard.window import get_key_id
from app.services.reports import select_neighbours, select_request_story
from app.web import Response, read_query

# What the `type` of an error means, and what to do; as the README says it to callers.
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


class Moment(NamedTuple):
    """A point of the time line: milliseconds since the start, what happened, more about it, and whether it is bad."""

    at_ms: float | None
    name: str
    more: str = ""
    is_bad: bool = False


@pages.get("/dashboard/requests/<path:request_id>")
def show_request(request_id: str) -> Response:
    """Shows a request, by the gateway's id, the provider's or the client's own."""
    choice = read_query(ActivityChoice)
    own = None if g.key.is_operator else g.key.id
    story = select_request_story(request_id, own)
    record = story.data
    parameters = choice.get_parameters()
    newer, older = select_neighbours(make_filter(choice, get_key_id(choice.key)), record)
    duration = record["duration_ms"]
    return show(
        "request.html",
        ACTIVITY,
        story=story,
        record=record,
        parameters=parameters,
        newer=newer,
        older=older,
        moments=make_moments(record),
        ended_at=None if duration is None else record["started_at"] + timedelta(milliseconds=duration),
        advice=ADVICE.get(record["error_type"] or "", ""),
    )


def make_moments(record: dict[str, Any]) -> list[Moment]:
    """Returns the time line of a request, as far as its record tells."""
    moments = [Moment(0, "arrived", f"{record['endpoint']}, {'stream' if record['stream'] else 'whole answer'}")]
    for number, attempt in enumerate(record["attempts"] or [], 1):
        moments.append(_describe_attempt(number, attempt))
    if record["ttft_ms"] is not None:
        moments.append(Moment(record["ttft_ms"], "first token"))
    if record["duration_ms"] is not None:
        is_bad = record["outcome"] != "ok"
        moments.append(
            Moment(record["duration_ms"], "ended", f"{record['outcome']}, status {record['status']}", is_bad)
        )
    return moments


def _describe_attempt(number: int, attempt: dict[str, Any]) -> Moment:
    known = {name: value for name, value in attempt.items() if value is not None}
    more = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.items())
    return Moment(None, f"attempt {number}", more, "error" in known)
