"""`POST /v1/chat/completions`, OpenAI's chat endpoint."""

from __future__ import annotations

from flask import Blueprint, Response, g, request

from app.errors import BadRequest, BodyTooLarge, ClientGone, GatewayError
from app.runtime import get_settings
from app.services.inference.activity import Activity, begin_activity
from app.services.inference.admission import admit
from app.services.inference.metering import record_error
from app.services.inference.pipeline import answer_chat
from app.services.streaming.client_connection import ClientConnection

bp = Blueprint("chat", __name__)

STREAM_HEADERS = {
    "cache-control": "no-cache, no-transform",
    # nginx would otherwise collect events into its buffer before it sends any.
    "x-accel-buffering": "no",
}


@bp.post("/v1/chat/completions")
def create_chat_completion() -> Response:
    """Answers a chat completion request, as JSON or as Server-Sent Events."""
    activity = begin_activity(g.key.id, "/v1/chat/completions")
    g.request_id = activity.request_id
    activity.row.client_retry = _retry_count()
    content = _read_body(activity)
    client = ClientConnection(request.environ.get("gunicorn.socket"))
    answer = answer_chat(content, activity, client)
    if isinstance(answer.body, bytes):
        return Response(answer.body, content_type="application/json", headers=answer.headers)
    return Response(
        answer.body,
        content_type="text/event-stream; charset=utf-8",
        headers={**STREAM_HEADERS, **answer.headers},
        direct_passthrough=True,  # gunicorn iterates over the relay itself, with nothing in between.
    )


def _retry_count() -> int | None:
    """Returns which retry of the OpenAI SDK this is, None when the client does not say."""
    text = request.headers.get("x-stainless-retry-count", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else None


def _read_body(activity: Activity) -> bytes:
    """Reads the body of a request that there is room for; a refusal is put on its record."""
    try:
        admit()
        return _bounded_body(get_settings().max_body_bytes)
    except GatewayError as error:
        record_error(activity, error)
        raise
    except OSError as error:
        gone = ClientGone()
        record_error(activity, gone)
        raise gone from error
    except Exception as error:  # gunicorn's own, for a body whose chunked coding is broken.
        broken = BadRequest("The body's transfer coding is broken. Send it again.", code="invalid_body")
        record_error(activity, broken)
        raise broken from error


def _bounded_body(max_bytes: int) -> bytes:
    """Reads the body, refusing it by its announced length before any of it is read."""
    length = request.content_length
    if length is not None and length > max_bytes:
        raise _too_large(max_bytes)
    # gunicorn's own stream, which ends where the body does; werkzeug would wrap it in another that looks for that end.
    content: bytes = request.environ["wsgi.input"].read(max_bytes + 1 if length is None else length)
    if len(content) > max_bytes:
        raise _too_large(max_bytes)
    if length is not None and len(content) < length:
        raise ClientGone  # gunicorn returns what came before the connection ended.
    return content


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is larger than {max_bytes} bytes. Send less, or ask the operator for a higher limit."
    )
