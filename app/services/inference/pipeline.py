"""The steps of one inference request, whatever its endpoint: from its body to the response that the client gets.

    authenticate (web/access.py) → refuse unread after many refusals → admit → parse, validate → translate → route
    → adapt → journal the start → dispatch → respond or relay → meter → finish

Most requests are routed to one target. If several may serve a request, target_selection.py chooses the first and, after
a failure before the client has received anything, the next.

A request of a key with limits takes permits after it is admitted, and reserves its highest possible cost before its
start is journaled; limited.py has the rest.

Each step is a line of `Pipeline.serve`. The `Exchange` owns the request. It is finished exactly once: here, or for a
stream when the stream ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from app.config import MAX_NAME_CHARACTERS
from app.errors import FAILED, GatewayError, UpstreamError
from app.runtime import Component, Runtime
from app.services.endpoints import Collector, InferenceBody, StreamSummary, make_parameter_error
from app.services.inference.adaptation import UpstreamRequest, adapt
from app.services.inference.admission import Admission
from app.services.inference.cancellation import Watcher
from app.services.inference.dispatch import Dispatcher
from app.services.inference.exchange import Exchange
from app.services.inference.json_body import parse_body
from app.services.inference.limited import LimitedRequest
from app.services.inference.metering import finish_stream, finish_with_error, record_stream
from app.services.inference.reception import (
    encode_whole,
    raise_if_silent,
    read_whole,
    receive_unless_stream,
)
from app.services.inference.refusals import Refusals
from app.services.inference.response_headers import make_response_headers
from app.services.inference.retry_digest import note_retry_digest
from app.services.inference.target_selection import TargetSelection
from app.services.inference.validation import validate_body
from app.services.keys import KeySnapshot
from app.services.limits import Limits
from app.services.providers import PROVIDERS
from app.services.routing import Routes
from app.services.streaming import EventReader, Relay
from app.services.traces import SpanExporter
from app.upstream import Response, make_unreadable_error


@dataclass(slots=True)
class GatewayResponse:
    """A response to the client: JSON, or a `Relay` or another iterator over the blocks of a stream."""

    body: bytes | Iterator[bytes]
    headers: dict[str, str]
    status: int = 200


class Pipeline(Component):
    """Serves inference requests with the components of this process.

    Attributes:
        refusals: counts the refused requests of each key; asked before a request gets an `Exchange`.
        keys: the limits of each key.
        admission, selection: components of the steps; dry_run.py uses them too.
        span_exporter: exports the spans of requests; None if OTEL_EXPORTER_OTLP_ENDPOINT is not set.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.refusals = runtime.get(Refusals)
        self.keys = runtime.get(KeySnapshot)
        self.span_exporter = None if self.settings.otlp_endpoint is None else runtime.get(SpanExporter)
        self._limits = runtime.get(Limits)
        self.admission = runtime.get(Admission)
        self._routes = runtime.get(Routes)
        self.selection = runtime.get(TargetSelection)
        self._dispatcher = runtime.get(Dispatcher)
        self._watcher = runtime.get(Watcher)

    def serve(self, exchange: Exchange, read_body: Callable[[], bytes]) -> GatewayResponse:
        """Serves one inference request.

        Args:
            exchange: the request; it is finished here or, for a stream, when the stream is closed.
            read_body: reads the request's body; it raises GatewayError if that fails.

        Raises:
            GatewayError: the request was refused, by the gateway or by the provider.
            TooManyRefusals: it was one of so many refused requests that they share one record.
        """
        try:
            self.admission.admit(exchange)
            policy = exchange.policy
            if policy is not None:
                # Takes a permit of each rate and a slot for concurrent requests before the body is read.
                exchange.limited = self._limits.enter(policy, LimitedRequest)
            body, fields = self.read(exchange, read_body)
            request = self.select(exchange, body, fields)
            exchange.write_start()
            sent_s = time.monotonic()
            while True:
                try:
                    if fields.stream:
                        return self._relay(exchange, request, sent_s)
                    return self._respond(exchange, request, sent_s)
                except UpstreamError as error:
                    following = self.selection.advance(exchange, request, error)
                    if following is None:
                        raise
                    request = following
        except GatewayError as error:
            self._finish(exchange, error)
            raise
        except BaseException:
            self._finish(exchange, GatewayError(FAILED))
            raise

    def _finish(self, exchange: Exchange, error: GatewayError) -> None:
        if exchange.is_started:
            finish_with_error(exchange, error)
        else:
            self.refusals.finish(exchange, error)

    def read(self, exchange: Exchange, read_body: Callable[[], bytes]) -> tuple[dict[str, Any], InferenceBody]:
        """Returns the client's body and its documented fields, checked; translates it if the endpoint needs that."""
        content, record = read_body(), exchange.record
        if record.client_retry is not None:
            note_retry_digest(exchange, content)
        body = parse_body(content)
        # Recorded before validation, so that the record of a refused request has these fields too.
        if isinstance(body.get("model"), str):
            record.model_requested = body["model"][:MAX_NAME_CHARACTERS]
        name = body.get("provider")
        if isinstance(name, str) and name.lower() in PROVIDERS:
            record.gateway = name.lower()
        fields = validate_body(body, exchange.endpoint.body)
        if fields.stream and exchange.endpoint.stream is None:
            raise make_parameter_error("stream", "be false or absent, because this endpoint does not stream")
        if fields.stream:
            record.stream = True
            self.admission.count_stream(exchange)
        translation = exchange.endpoint.translation
        if translation is not None:
            exchange.translated = translation.translate_request(body, fields, exchange.get_header)
        return body, fields

    def select(self, exchange: Exchange, body: dict[str, Any], fields: InferenceBody) -> UpstreamRequest:
        """Returns the request for its first target, with its highest possible cost reserved."""
        record, policy, limited = exchange.record, exchange.policy, exchange.limited
        if fields.models is not None:
            record.model_requested = fields.model
        route = self._routes.find_route(exchange.endpoint, fields, policy)
        if not route.is_fixed:
            return self.selection.begin(exchange, body, fields, route)
        target = route.target
        # `Exchange.set_target`, inlined: nearly every request comes here, and this saves a call.
        record.gateway = target.provider.name
        if target.is_listed:
            record.model_served = target.model  # An unlisted model is recorded once the provider has served it.
        most = None if policy is None else policy.max_output_tokens
        request = adapt(body, fields, exchange.endpoint, target, exchange.get_header, exchange.translated, most)
        if limited is not None:
            limited.reserve_for(exchange.endpoint, request, record)
        return request

    def _relay(self, exchange: Exchange, request: UpstreamRequest, sent_s: float) -> GatewayResponse:
        """Returns the stream once its first event, or a heartbeat, is available."""
        response, content = self._fetch(exchange, request)
        if content is not None:
            _put_back_as_stream(exchange, request, response, content)

        has_begun = False

        def on_end(summary: StreamSummary, error: GatewayError | None) -> None:
            if content is None:
                record_stream(exchange, request, summary, is_complete=error is None)
            exchange.record.bytes_out = summary.bytes_sent
            if has_begun:  # Otherwise another target may follow, or the client gets the error as a whole response.
                finish_stream(exchange, error)

        relay = _make_relay(exchange, request, response, None, on_end)
        try:
            relay.begin()
            has_begun = True
            if self.selection.health.states:
                self.selection.health.record_success(request.target)
            return GatewayResponse(relay, make_response_headers(exchange, request, response, time.monotonic() - sent_s))
        except BaseException:
            relay.close()
            raise

    def _respond(self, exchange: Exchange, request: UpstreamRequest, sent_s: float) -> GatewayResponse:
        """Returns the whole response, which may be collected from a stream of the provider."""
        response, content = self._fetch(exchange, request)
        if content is None:
            value = _collect(exchange, request, response)
        else:
            value = read_whole(exchange, request, response, content)
        if self.selection.health.states:
            self.selection.health.record_success(request.target)
        body = encode_whole(exchange, request, value)
        headers = make_response_headers(exchange, request, response, time.monotonic() - sent_s)
        exchange.finish("ok", 200)
        return GatewayResponse(body, headers)

    def _fetch(self, exchange: Exchange, request: UpstreamRequest) -> tuple[Response, bytes | None]:
        """Returns the provider's response and its content, or None in place of the content of a stream."""
        with self._watcher.watch(exchange.client, exchange.deadline_s, request.target.provider.title):
            response = self._dispatch(exchange, request)
            if request.first_byte_timeout_s is not None:
                raise_if_silent(exchange, request, response)
            return response, receive_unless_stream(exchange, request, response)

    def _dispatch(self, exchange: Exchange, request: UpstreamRequest) -> Response:
        response = self._dispatcher.dispatch(exchange, request)
        record = exchange.record
        record.upstream_status, record.upstream_request_id = response.status, response.request_id
        return response


def _put_back_as_stream(exchange: Exchange, request: UpstreamRequest, response: Response, content: bytes) -> None:
    """Replaces a whole response, whose usage is recorded, with a stream of the same content."""
    endpoint = exchange.endpoint
    assert endpoint.stream is not None
    value = read_whole(exchange, request, response, content)
    try:
        response.body.put_back(endpoint.stream.make_events(endpoint.normalise(value)))
    except ValueError as error:
        raise make_unreadable_error(request.target.provider.title) from error


def _collect(exchange: Exchange, request: UpstreamRequest, response: Response) -> Any:
    """Reads a stream to its end and returns it as one response. A failure can still become a real HTTP error."""
    assert exchange.endpoint.stream is not None
    collector = exchange.endpoint.stream.make_collector()
    relay = _make_relay(exchange, request, response, collector, on_end=lambda summary, error: None)
    try:
        for _ in relay:
            pass  # The events go to the collector, so these blocks are heartbeats.
    except BrokenPipeError:
        pass  # Raised for an incomplete response; `relay.error` has the reason.
    finally:
        relay.close()
        record_stream(exchange, request, relay.summary, is_complete=relay.error is None)
    if relay.error is not None:
        raise relay.error
    return collector.make_response()


def _make_relay(
    exchange: Exchange,
    request: UpstreamRequest,
    response: Response,
    collector: Collector | None,
    on_end: Callable[[StreamSummary, GatewayError | None], None],
) -> Relay:
    provider, translation, writer = request.target.provider, exchange.endpoint.translation, None
    timeout_s = request.first_byte_timeout_s
    if translation is not None and exchange.translated is not None and collector is None:
        writer = translation.make_writer(exchange.translated.context, exchange.request_id)
    reader = EventReader(
        exchange.endpoint,
        provider.title,
        show_usage=request.show_usage,
        collector=collector,
        key_setting=provider.key_setting,
        writer=writer,
        choices_expected=request.choices_expected,
    )
    return Relay(
        response,
        reader,
        client=exchange.client,
        settings=exchange.settings,
        deadline_s=exchange.deadline_s,
        on_end=on_end,
        first_event_by_s=None if timeout_s is None else exchange.attempt_started_s + timeout_s,
    )
