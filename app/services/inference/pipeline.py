"""One chat request, from its body to its finished record.

Read it from the top: a body becomes a `ChatRequest`, the request goes to the provider that serves its model, the
answer comes back whole or as a stream, and whatever happens the activity is finished exactly once.
"""

from __future__ import annotations

import string
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from app.errors import ClientGone, GatewayError, UpstreamError
from app.metrics import observe_overhead
from app.runtime import get_settings
from app.services.endpoints.chat_assembly import CompletionCollector, process_completion
from app.services.inference.cancellation import ends_early
from app.services.inference.chat_request import ChatRequest, read_chat_request
from app.services.inference.dispatch import post_chat_with_retries
from app.services.inference.metering import record_completion, record_error, record_stream
from app.services.journal.record import Activity
from app.services.providers import Provider, get_client
from app.services.streaming.client_connection import ClientConnection
from app.services.streaming.relay import Relay
from app.services.streaming.sse import event_data, split_events
from app.services.streaming.stream_summary import Sightings
from app.upstream import Response

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class ChatAnswer:
    """What the client gets: the JSON of a completion, or a `Relay` to iterate over and close."""

    body: bytes | Relay
    headers: dict[str, str]


def answer_chat(content: bytes, activity: Activity, client: ClientConnection) -> ChatAnswer:
    """Serves one chat completion request.

    Args:
        content: the request's body.
        activity: its record, begun; it is finished here or, for a stream, when the stream is closed.
        client: its connection.

    Raises:
        GatewayError: the request was refused, by the gateway or by the provider.
    """
    try:
        request = read_chat_request(content, activity)
        return _send(request, activity, client)
    except GatewayError as error:
        record_error(activity, error)
        raise
    except BaseException:
        record_error(activity, GatewayError("The gateway failed."))
        raise


def _send(request: ChatRequest, activity: Activity, client: ClientConnection) -> ChatAnswer:
    upstream = get_client(request.provider)
    settings = get_settings()
    deadline_s = activity.started_s + settings.upstream_total_timeout_s
    activity.dispatch()
    sent_s = time.monotonic()
    with ends_early(client, deadline_s, request.provider.title):
        answer = post_chat_with_retries(
            upstream,
            request.provider.name,
            request.body,
            stream=request.stream_upstream,
            retries=settings.upstream_retries,
            deadline_s=deadline_s,
            attempts=activity.row.attempts,
        )
    activity.row.upstream_status, activity.row.upstream_request_id = answer.status, answer.request_id
    activity.row.model_served = request.model[:500]
    if request.stream:
        relay = _relay(request, activity, client, answer, deadline_s)
        try:
            relay.begin()
        except BaseException:
            relay.close()
            raise
        return ChatAnswer(relay, _headers(request, answer, activity, time.monotonic() - sent_s))
    completion = _receive(request, activity, client, answer, deadline_s)
    headers = _headers(request, answer, activity, time.monotonic() - sent_s)
    return ChatAnswer(_encode(process_completion(completion)), headers)


def _receive(
    request: ChatRequest, activity: Activity, client: ClientConnection, answer: Response, deadline_s: float
) -> dict[str, Any]:
    """Waits for the whole answer and returns it, recorded."""
    if request.stream_upstream:
        return _collect(request, activity, client, answer, deadline_s)
    with ends_early(client, deadline_s, request.provider.title):
        completion = answer.read_json(idle_timeout_s=get_settings().upstream_idle_timeout_s, deadline_s=deadline_s)
    _check_completion(completion, request.provider)
    record_completion(activity, request, completion, answer.headers)
    checked: dict[str, Any] = completion
    return checked


def _headers(request: ChatRequest, answer: Response, activity: Activity, upstream_s: float) -> dict[str, str]:
    """Returns the headers that tell the client who served it, and how long the provider and the gateway took.

    For a stream the provider's time ends with its first event, which is when the head of ours is sent.
    """
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name.startswith(request.provider.shown_headers)
        and value.isprintable()  # gunicorn sends no control characters.
    }
    headers["x-gateway-provider"] = request.provider.name
    # The provider words it, and a header takes little more than ASCII.
    headers["x-gateway-model"] = quote(activity.row.model_served or request.model, safe=string.punctuation + " ")
    if request.dropped:
        headers["x-gateway-dropped-params"] = ", ".join(request.dropped)
    if answer.request_id:
        headers["x-upstream-request-id"] = answer.request_id
    own_s = time.monotonic() - activity.started_s - upstream_s
    observe_overhead(request.stream, own_s)
    headers["server-timing"] = f"gateway;dur={own_s * 1000:.2f}, upstream;dur={upstream_s * 1000:.2f}"
    return headers


def _check_completion(completion: Any, provider: Provider) -> None:
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not isinstance(choices, list) or not all(_is_choice(choice) for choice in choices):
        raise UpstreamError(f"{provider.title} answered with something that is not a chat completion. Retry.")


def _is_choice(choice: Any) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("message", {}), dict)


def _relay(
    request: ChatRequest, activity: Activity, client: ClientConnection, answer: Response, deadline_s: float
) -> Relay:
    def report(sightings: Sightings, error: GatewayError | None) -> None:
        record_stream(activity, request, sightings, error)

    return Relay(
        answer,
        client=client,
        settings=get_settings(),
        deadline_s=deadline_s,
        show_usage=request.show_usage or not request.stream,
        report=report,
    )


def _collect(
    request: ChatRequest, activity: Activity, client: ClientConnection, answer: Response, deadline_s: float
) -> dict[str, Any]:
    """Reads a stream to its end and returns it as one completion; what goes wrong is a real HTTP error still."""
    collector = CompletionCollector()
    relay = _relay(request, activity, client, answer, deadline_s)
    try:
        for block in relay:
            if client.is_gone():  # Nothing is sent to it meanwhile that could fail.
                raise ClientGone
            for event in split_events(block):
                data = event_data(event)
                if data is not None and data != b"[DONE]":
                    collector.add(_decode(data))
    except BrokenPipeError:
        pass  # The relay's way to end an answer that did not complete; `error` says why.
    finally:
        relay.close()
    if relay.error is not None:
        raise relay.error
    return collector.completion()
