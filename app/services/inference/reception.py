"""Receives a provider's response, as a stream or whole, and reads a whole one.

A provider may send a JSON document although a stream was requested, or events although none was. Either way the
response was paid for, so the two are told apart by content and not by request.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import Any

from app.errors import UpstreamError
from app.lenient_json import decode_leniently, encode
from app.services.inference.adaptation import UpstreamRequest
from app.services.inference.exchange import Exchange
from app.services.inference.metering import record_response
from app.upstream import (
    Response,
    make_first_byte_timeout,
    make_reported_error,
    make_unexpected_error,
    make_unreadable_error,
    reports_error,
)

# How long a client that wants a stream waits for the first bytes, in seconds, which show whether they are one. After
# that the content type decides, and the reader of events also accepts a whole response. The first heartbeat is late by
# this time at most. A client without a stream gets no heartbeats, so there the wait for the first bytes is longer.
_LOOK_S = 1.0

_BLANKS = b"\xef\xbb\xbf \t\r\n"
_EVENT_START = re.compile(rb"[\xef\xbb\xbf \t\r\n]*+(?:data:|event:|id:|retry:|:)")


def raise_if_silent(exchange: Exchange, request: UpstreamRequest, response: Response) -> None:
    """Waits for the first byte of a response's body, until the request's `first_byte_timeout_s` since it was sent.

    Raises:
        UpstreamTimeout: no byte arrived in time; the response is closed.
    """
    assert request.first_byte_timeout_s is not None
    left_s = exchange.attempt_started_s + request.first_byte_timeout_s - time.monotonic()
    if not response.peek(max(left_s, 0.001)) and not response.body.complete:
        response.body.close()
        raise make_first_byte_timeout(request.target.provider.title)


def receive_unless_stream(exchange: Exchange, request: UpstreamRequest, response: Response) -> bytes | None:
    """Returns the body of a whole response, or None for a stream, whose body is still to be received.

    Raises:
        UpstreamError: the body could not be received.
    """
    try:
        if exchange.endpoint.stream is None:
            return _read(exchange, response)
        return _receive_either(exchange, request, response)
    except BaseException:
        response.body.close()
        raise


def _receive_either(exchange: Exchange, request: UpstreamRequest, response: Response) -> bytes | None:
    kind = response.headers.get("content-type", "").lower()
    declares_stream = kind.startswith("text/event-stream")
    if request.stream or declares_stream:
        start = _look(exchange, response).lstrip(_BLANKS)
        if not start.startswith(b"{") and (start or declares_stream or "json" not in kind):
            return None
        line, blank_line, _ = start.partition(b"\n\n")
        if declares_stream and blank_line and _is_json(line):
            response.body.close()  # Chutes reports a failure in such a line, after which a stream may stay open.
            return line
    content = _read(exchange, response)
    # The response was requested or declared as a whole one, so its beginning has not been checked.
    if _EVENT_START.match(content):
        response.body.put_back(content)
        return None
    return content


def _look(exchange: Exchange, response: Response) -> bytes:
    """Returns the first bytes of a response; for a client that wants a stream, only if they come soon."""
    if exchange.record.stream:
        return response.peek(min(_LOOK_S, exchange.settings.stream_heartbeat_s / 4))
    return response.wait_for_start(
        idle_timeout_s=exchange.settings.upstream_idle_timeout_s, deadline_s=exchange.deadline_s
    )


def _is_json(line: bytes) -> bool:
    with suppress(ValueError):
        decode_leniently(line)
        return True
    return False


def _read(exchange: Exchange, response: Response) -> bytes:
    return response.read(idle_timeout_s=exchange.settings.upstream_idle_timeout_s, deadline_s=exchange.deadline_s)


def read_whole(exchange: Exchange, request: UpstreamRequest, response: Response, content: bytes) -> Any:
    """Returns a whole response as JSON values and records its usage.

    Raises:
        UpstreamError: the content is not a response of this endpoint, or it reports a failure of the provider.
    """
    provider, endpoint = request.target.provider, exchange.endpoint
    try:
        value = endpoint.decode(content)
    except ValueError as error:
        raise make_unreadable_error(provider.title) from error
    if reports_error(value):
        raise _make_reported_error(request, response, value)
    try:
        if request.support.read_response is not None:
            value = request.support.read_response(value)
        summary = endpoint.summarize(value)
    except ValueError:
        raise make_unexpected_error(provider.title, endpoint.title, value) from None
    record_response(exchange, request, summary, response.headers)
    if summary.failure is not None:
        raise _make_reported_error(request, response, summary.failure)
    return value


def _make_reported_error(request: UpstreamRequest, response: Response, document: Any) -> UpstreamError:
    provider = request.target.provider
    return make_reported_error(
        provider.title, provider.key_setting, document, headers=response.headers, request_id=response.request_id
    )


def encode_whole(exchange: Exchange, request: UpstreamRequest, value: Any) -> bytes:
    """Returns a whole response for the client: normalised, translated, and as JSON that strict parsers read.

    Raises:
        UpstreamError: the response is nested too deeply, not of the requested kind, or cannot be translated.
    """
    endpoint, translated = exchange.endpoint, exchange.translated
    try:
        value = endpoint.normalise(value)
        if endpoint.translation is not None and translated is not None:
            value = endpoint.translation.translate_response(value, translated.context, exchange.request_id)
        return encode(value) if endpoint.encode is None else endpoint.encode(value, request.fields)
    except ValueError as error:
        raise make_unreadable_error(request.target.provider.title) from error
