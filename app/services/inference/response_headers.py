"""Headers of a successful response: who served it, the changes to the request, the limits, and the time it took."""

from __future__ import annotations

import string
import time
from functools import lru_cache
from urllib.parse import quote

from app.logs import redact
from app.metrics import observe_overhead
from app.services.inference.adaptation import UpstreamRequest
from app.services.inference.attempts import describe_attempts
from app.services.inference.exchange import Exchange
from app.upstream import Response

# Longer values of a provider's header are left out. The longest, Fireworks' sampling options, has about 100 characters.
_MAX_SHOWN_HEADER_CHARACTERS = 500


def make_response_headers(
    exchange: Exchange, request: UpstreamRequest, response: Response, upstream_s: float
) -> dict[str, str]:
    """Returns the headers that name the provider and the model, and how long the provider and the gateway took.

    For a stream the provider's time ends with its first event, when the head of the client's response is sent.
    """
    provider = request.target.provider
    headers = {
        name: value
        for name, value in response.headers.items()
        # isprintable: gunicorn refuses control characters.
        if name in provider.shown_headers and len(value) <= _MAX_SHOWN_HEADER_CHARACTERS and value.isprintable()
    }
    headers["x-gateway-provider"] = provider.name
    headers["x-gateway-model"] = _quote_model(exchange.record.model_served or request.target.model)
    if request.dropped:
        headers["x-gateway-dropped-params"] = ", ".join(request.dropped)
    if request.applied:
        headers["x-gateway-applied-params"] = ", ".join(request.applied)
    if len(exchange.record.attempts) > 1:
        headers["x-gateway-attempts"] = describe_attempts(exchange.record.attempts)
    if response.request_id:
        headers["x-upstream-request-id"] = response.request_id
    _redact_values(headers)
    now_s = time.monotonic()
    if exchange.limited is not None:
        exchange.limited.renew_headers(headers, provider, now_s)
    own_s = now_s - exchange.started_s - upstream_s
    observe_overhead(exchange.record.stream, own_s)
    headers["server-timing"] = f"gateway;dur={own_s * 1000:.2f}, upstream;dur={upstream_s * 1000:.2f}"
    return headers


@lru_cache(maxsize=256)
def _quote_model(name: str) -> str:
    """Returns a model's name, which the provider chooses, without characters that headers must not contain."""
    return quote(name, safe=string.punctuation + " ", errors="replace")


def _redact_values(headers: dict[str, str]) -> None:
    """Redacts secrets in the values, in place; a provider may repeat its key in any of them."""
    together = "\n".join(headers.values())  # One call for all values, because there is hardly ever anything to find.
    if redact(together) != together:
        for name, value in headers.items():
            headers[name] = redact(value)
