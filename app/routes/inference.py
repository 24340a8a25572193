"""`POST /v1/chat/completions` and every other inference endpoint: one view for each row of ENDPOINTS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from flask import Blueprint

from app.config import MAX_NAME_CHARACTERS
from app.errors import BadRequest, BodyTooLarge, ClientGone, GatewayError, TooManyRefusals
from app.runtime import get_component
from app.services.administration import select_own_budgets
from app.services.endpoints import ENDPOINTS, Endpoint
from app.services.idempotency import Claim, make_claim
from app.services.inference import DryRuns, Exchange, GatewayResponse, Pipeline, begin_trace, serve_once
from app.services.keys import Key
from app.services.streaming import ClientConnection
from app.web import (
    NO_STORE,
    Response,
    decode_body,
    get_authorization,
    get_content_length,
    get_environ,
    get_state,
    json_response,
    raise_if_unsupported,
    use_errors_below,
    use_request_id,
)

bp = Blueprint("inference", __name__)

STREAM_HEADERS = {
    "cache-control": "no-cache, no-transform",
    # Without this header nginx would buffer events.
    "x-accel-buffering": "no",
}


def make_view(endpoint: Endpoint) -> Callable[[], Response]:
    """Returns the view that serves requests to an endpoint; `g.key` must be set when it is called."""

    def view() -> Response:
        """Serves a request to one inference endpoint, as JSON or as Server-Sent Events."""
        try:
            return _serve(endpoint)
        except TooManyRefusals as error:
            use_request_id(error.request_id)  # Many requests share this one row and its log line.
            raise

    return view


def _serve(endpoint: Endpoint) -> Response:
    pipeline, environ, key = get_component(Pipeline), get_environ(), get_state().key
    assert key is not None
    pipeline.refusals.raise_if_too_many(endpoint, key.id)
    is_repeatable = "HTTP_IDEMPOTENCY_KEY" in environ and _accept_idempotency_key(pipeline)
    # If a request may be repeated, its answer is wanted even if the client leaves.
    client = ClientConnection(None if is_repeatable else environ.get("gunicorn.socket"))
    policy = pipeline.keys.policies.get(key.holder_id)
    is_dry_run = "HTTP_X_GATEWAY_DRY_RUN" in environ and _wants_dry_run(environ["HTTP_X_GATEWAY_DRY_RUN"])
    exchange = Exchange(endpoint, key.id, client, partial(_get_header, environ), policy, key.holder_id)
    if is_dry_run:
        return _run_dry(exchange, key)
    exchange.record.client_retry = _get_retry_count(environ)
    exchange.record.client_request_id = _get_client_request_id(environ)
    if "HTTP_TRACEPARENT" in environ or pipeline.span_exporter is not None:
        begin_trace(exchange, pipeline.span_exporter, environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE"))
    use_request_id(exchange.request_id)
    read = partial(read_body, exchange.settings.max_body_bytes)
    served = _serve_once(pipeline, exchange, read) if is_repeatable else pipeline.serve(exchange, read)
    if endpoint.errors.request_id_header is not None:
        served.headers[endpoint.errors.request_id_header] = exchange.request_id
    if isinstance(served.body, bytes):
        response = Response.make(served.body, "application/json")
    else:
        response = Response.make(served.body, "text/event-stream; charset=utf-8")
        response.add_headers(STREAM_HEADERS)
    response.add_headers(served.headers)
    if served.status != 200:
        response.status_code = served.status
    limited = exchange.limited
    if limited is not None and limited.headers:
        if "HTTP_ORIGIN" in environ:
            response.add_headers(limited.headers)  # The CORS headers must list these names too.
        else:
            response.shared_headers = limited.headers
    return response


def _accept_idempotency_key(pipeline: Pipeline) -> bool:
    """Returns whether answers are kept for requests with an Idempotency-Key; if not, notes it for the caller."""
    # The dashboard sends no key, and answers are encrypted with the key.
    if pipeline.settings.idempotency_hours and get_authorization() is not None:
        return True
    get_state().ignored = "idempotency-key"
    return False


def _serve_once(pipeline: Pipeline, exchange: Exchange, read: Callable[[], bytes]) -> GatewayResponse:
    """Serves a request with an Idempotency-Key."""
    gateway_key = (get_authorization() or "").partition(" ")[2].strip()

    def make() -> Claim:
        return make_claim(
            gateway_key,
            get_environ()["HTTP_IDEMPOTENCY_KEY"],
            key_id=exchange.record.key_id,
            request_id=exchange.request_id,
            path=exchange.endpoint.path,
        )

    return serve_once(pipeline, exchange, make, read)


def _wants_dry_run(text: str) -> bool:
    """Returns whether a request is only to be described.

    Raises:
        BadRequest: the header has another value; serving the request might cost more than the caller intended.
    """
    if text not in {"0", "1"}:  # This includes an empty value, as from an unset shell variable.
        raise BadRequest(
            "`x-gateway-dry-run` must be 1, to see what would become of the request, or 0 or absent to serve it.",
            param="x-gateway-dry-run",
            code="invalid_header",
        )
    return text == "1"


def _run_dry(exchange: Exchange, key: Key) -> Response:
    read = partial(read_body, exchange.settings.max_body_bytes)
    described = get_component(DryRuns).describe(exchange, read)
    if exchange.policy is not None:
        described = msgspec.structs.replace(described, budgets=select_own_budgets(key))
    return json_response(described, headers=NO_STORE | {"x-gateway-dry-run": "1"})


def _add_route(endpoint: Endpoint) -> None:
    # Views are named by path, because endpoints may share a name; Flask forbids dots.
    name = endpoint.path.replace("/", "_").replace(".", "_")
    bp.add_url_rule(endpoint.path, endpoint=name, view_func=make_view(endpoint), methods=["POST"])
    bp.record(lambda state: use_errors_below(state.app, endpoint.path, endpoint.errors))


for _endpoint in ENDPOINTS:
    _add_route(_endpoint)


def _get_header(environ: Mapping[str, Any], name: str) -> str | None:
    return environ.get("HTTP_" + name.upper().replace("-", "_"))


def _get_retry_count(environ: Mapping[str, Any]) -> int | None:
    """Returns the retry count that the OpenAI SDK sent, or None if the client sent none."""
    # Read from the environ, because werkzeug's headers take ten times as long.
    text = environ.get("HTTP_X_STAINLESS_RETRY_COUNT", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else None


def _get_client_request_id(environ: Mapping[str, Any]) -> str | None:
    """Returns the id that the client gave to this request; it may look for the record by it later."""
    text = environ.get("HTTP_X_REQUEST_ID") or environ.get("HTTP_X_CLIENT_REQUEST_ID") or ""
    return text[:MAX_NAME_CHARACTERS] if text and text.isascii() and text.isprintable() else None


def read_body(max_bytes: int) -> bytes:
    """Returns the body of this request. If its Content-Length is too large, it is refused before any of it is read.

    Raises:
        BodyTooLarge: it has more than `max_bytes` bytes.
        BodyTooSlow: it took too long to arrive.
        BadRequest: its transfer coding or its content coding is broken, or it has too many small chunks.
        UnsupportedCoding: it has a content coding unknown to the gateway.
        ClientGone: the client disconnected.
    """
    environ = get_environ()
    coding = environ.get("HTTP_CONTENT_ENCODING")
    raise_if_unsupported(coding)
    length = get_content_length(environ)
    if length is not None and length > max_bytes:
        raise _make_too_large(max_bytes)
    try:
        # gunicorn's own stream, which ends with the body. werkzeug would wrap it to find the end once more.
        content: bytes = environ["wsgi.input"].read(max_bytes + 1 if length is None else length)
    except GatewayError:
        raise  # From the worker class, which limits the time and the chunks of a body.
    except OSError as error:
        raise ClientGone from error
    except Exception as error:  # gunicorn raises its own exceptions for broken chunked coding.
        raise BadRequest("The body's transfer coding is broken. Send it again.", code="invalid_body") from error
    if len(content) > max_bytes:
        raise _make_too_large(max_bytes)
    if length is not None and len(content) < length:
        raise ClientGone  # gunicorn returns the bytes that arrived before the connection ended.
    return decode_body(content, coding, max_bytes)


def _make_too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is larger than {max_bytes} bytes. Send a smaller one, or ask the operator for a higher limit."
    )
