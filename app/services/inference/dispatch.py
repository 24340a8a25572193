"""Sends a request to a provider, and retries if that is safe: before the first byte, never past the deadline."""

from __future__ import annotations

import math
import random
import time

from app.errors import GatewayError, UpstreamError, drop_frames
from app.logs import log_event
from app.runtime import Component, Runtime
from app.services.inference.adaptation import UpstreamRequest
from app.services.inference.attempts import end_attempt, open_attempt, withdraw_attempt
from app.services.inference.circuit_breaker import CircuitBreakers
from app.services.inference.exchange import Exchange
from app.services.inference.fallback import is_targets_failure
from app.services.inference.limited import LimitedRequest
from app.services.inference.tracing import add_trace_headers
from app.services.providers import ProviderClients
from app.services.routing import Target, TargetHealth
from app.upstream import Response

# Each pause is drawn evenly from zero to a growing bound ("full jitter": Brooker, "Exponential Backoff and Jitter", AWS
# Architecture Blog, 2015), so that clients that failed together do not retry together.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 4.0

# If a provider asks for a longer pause, the client is told to wait instead, because a wait in the gateway would count
# towards MAX_LIVE_REQUESTS.
LONGEST_RETRY_AFTER_S = 5.0

# The pause that the client is asked for when the gateway gives up and the provider named none. The failure has
# outlasted the gateway's own pauses, so the SDKs' first pause of 0.5 s would be too short.
PAUSE_AFTER_RETRIES_S = 2.0


class Dispatcher(Component):
    """Sends requests to providers."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._clients = runtime.get(ProviderClients)
        self._breakers = runtime.get(CircuitBreakers)
        self._health = runtime.get(TargetHealth)

    def dispatch(self, exchange: Exchange, request: UpstreamRequest) -> Response:
        """Sends a request, and retries it after failures that are safe to retry.

        If the first attempt fails, each attempt is added to the record's `attempts`.

        Returns:
            The provider's response with status 2xx, whose body is still to be read.

        Raises:
            UpstreamError: the last attempt failed. After retries, it has `retry_after_s` if it is still retryable.
            ConfigurationMissing: the provider's key is not set.
        """
        provider = request.target.provider
        model, key_id = request.target.model, exchange.record.key_id
        headers = request.headers if exchange.trace is None else add_trace_headers(exchange, request)
        client, breakers, attempts = self._clients.get_client(provider), self._breakers, exchange.record.attempts
        while True:
            breakers.raise_if_open(provider.name, model, key_id)  # If it raises, this was no attempt.
            exchange.is_sent = True
            if exchange.limited is not None:
                exchange.limited.is_unbilled = False
            exchange.attempt_started_s = started_s = time.monotonic()
            try:
                response = client.post(
                    request.path,
                    request.content,
                    stream=request.stream,
                    headers=headers,
                    first_byte_timeout_s=request.first_byte_timeout_s,
                )
            except UpstreamError as error:
                self._record_failure(request.target, key_id, error)
                if not _wait_before_retry(exchange, request.target, error):
                    raise
                drop_frames(error)
            except BaseException:
                breakers.release_probes(provider.name, model)
                self._health.end_probe(request.target)
                raise
            else:
                breakers.record_success(provider.name, model)
                if attempts or exchange.fallback is not None:
                    end_attempt(exchange.record, request.target, response.status, None, time.monotonic() - started_s)
                return response

    def _record_failure(self, target: Target, key_id: str, error: UpstreamError) -> None:
        self._breakers.record_failure(target.provider.name, target.model, key_id, error)
        if is_targets_failure(error):
            self._health.record_failure(target, error)


def _wait_before_retry(exchange: Exchange, target: Target, error: UpstreamError) -> bool:
    """Records a failed attempt, waits if it is to be repeated, and returns whether it is."""
    attempts, limited = exchange.record.attempts, exchange.limited
    status, code = error.upstream_status, error.code or error.type
    end_attempt(exchange.record, target, status, code, time.monotonic() - exchange.attempt_started_s)
    if limited is not None:
        limited.fail_attempt(error)
    pause_s = _get_pause_s(error, len(attempts))
    if _may_retry(exchange, error, pause_s):
        time.sleep(pause_s)
        open_attempt(exchange.record, target)
        if limited is None or _hold_another_ceiling(exchange, limited):
            return True
        withdraw_attempt(exchange.record)
        return False
    if len(attempts) > 1 and error.is_retryable and error.retry_after_s is None:
        error.retry_after_s = PAUSE_AFTER_RETRIES_S
    return False


def _hold_another_ceiling(exchange: Exchange, limited: LimitedRequest) -> bool:
    """Holds another ceiling if the failed attempt may be billed; returns whether the limits have room for it.

    The start of the request is then written again with the higher charge, in case this worker is killed.
    """
    try:
        if limited.repeat(exchange.record):
            exchange.write_start()
    except GatewayError as error:
        log_event("retry_refused", level="warning", request_id=exchange.request_id, reason=error.message)
        return False
    return True


def _get_pause_s(error: UpstreamError, attempts: int) -> float:
    """Returns the pause before the next attempt in seconds; infinity if there must be no retry."""
    if not error.is_retryable:
        return math.inf
    if error.retry_after_is_upstreams and error.retry_after_s is not None:
        asked_s = error.retry_after_s
        return asked_s + random.random() * FIRST_PAUSE_S if asked_s <= LONGEST_RETRY_AFTER_S else math.inf
    return random.random() * min(FIRST_PAUSE_S * 2.0 ** (attempts - 1), LONGEST_PAUSE_S)


def _may_retry(exchange: Exchange, error: UpstreamError, pause_s: float) -> bool:
    """Returns whether to send the request again.

    A client that is itself retrying gets only one attempt per request if the provider keeps responding with errors. So
    the attempts of client and gateway add up (3 + 1 + 1 with the SDKs' defaults) and do not multiply (3 × 3).
    """
    if exchange.record.client_retry and error.upstream_status is not None:
        return False
    tries, fallback = len(exchange.record.attempts), exchange.fallback
    if fallback is None:
        is_attempt_left = tries <= exchange.settings.upstream_retries
    else:
        is_attempt_left = fallback.may_repeat(error, tries)
    return is_attempt_left and time.monotonic() + pause_s < exchange.deadline_s
