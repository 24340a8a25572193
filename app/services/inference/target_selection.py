"""Chooses the target of a request with several candidates, and the next one after a failure."""

from __future__ import annotations

import math
import time
from typing import Any

from app.errors import BadRequest, GatewayError, UpstreamError
from app.logs import log_event
from app.metrics import count_fallback
from app.runtime import Component, Runtime
from app.services.endpoints import InferenceBody
from app.services.inference.adaptation import UpstreamRequest, adapt
from app.services.inference.attempts import (
    add_missing,
    add_skipped,
    describe_attempts,
    fail_response,
    open_attempt,
    set_aside,
    withdraw_attempt,
)
from app.services.inference.circuit_breaker import CircuitBreakers
from app.services.inference.exchange import Exchange
from app.services.inference.fallback import Fallback, is_targets_failure
from app.services.inference.known_fields import find_unknown
from app.services.routing import Route, Target, TargetHealth, get_session, make_seed, order_targets

_CONTEXT_CODE = "context_length_exceeded"

# Statuses of errors that a repeated request would always get.
_LASTING_STATUSES = frozenset({400, 404, 413, 422})


class TargetSelection(Component):
    """Selects the targets of requests.

    Attributes:
        health: this worker's recent experience with each target.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.health = runtime.get(TargetHealth)
        self._breakers = runtime.get(CircuitBreakers)

    def begin(self, exchange: Exchange, body: dict[str, Any], fields: InferenceBody, route: Route) -> UpstreamRequest:
        """Returns the request for the first target, with its ceiling reserved.

        Raises:
            GatewayError: no target can serve the request, or a limit has no room.
        """
        session = get_session(body, exchange.get_header)
        seed = None if session is None else make_seed(exchange.holder or exchange.record.key_id, session)
        targets = order_targets(route, time.monotonic(), seed)
        if route.tries_one:
            targets = [self._take_best(exchange, targets)]
        fallback = exchange.fallback = Fallback(
            route,
            body,
            fields,
            targets,
            max_tries=max(len(targets), self.settings.upstream_retries + 1) + len(route.missing),
            patience_s=self.settings.fallback_after_s,
        )
        for name, code in route.missing:
            add_missing(exchange.record, name, code)
        if exchange.limited is not None:
            self._reserve(exchange, fallback)
            exchange.limited.is_unbilled = True  # Until the request is sent.
        request = self._take_next(exchange, fallback)
        if request is None:
            _raise_best(exchange, fallback)
            raise AssertionError("every target that is left out has an error")
        open_attempt(exchange.record, request.target)
        return request

    def _reserve(self, exchange: Exchange, fallback: Fallback) -> None:
        """Reserves the ceiling of the dearest target. This needs the requests for all targets."""
        assert exchange.limited is not None
        targets, requests = fallback.remaining, []
        fallback.remaining = []
        for target in targets:
            if (request := self._adapt(exchange, fallback, target, has_others=len(targets) > 1)) is not None:
                requests.append(request)
        if not requests:
            return
        usable, others = exchange.limited.reserve_dearest(exchange.endpoint, requests, exchange.record)
        for request, error in others:
            add_skipped(exchange.record, request.target, error.code or error.type)
            fallback.max_tries += 1  # A skipped target is not a try.
        fallback.prepared = {_get_key(request.target): request for request in usable}
        fallback.remaining = [request.target for request in usable]

    def _take_best(self, exchange: Exchange, targets: list[Target]) -> Target:
        """Removes the best target from a list and returns it. Targets that are known to fail come last."""
        key_id, breakers = exchange.record.key_id, self._breakers
        usable = [each for each in targets if not breakers.is_open(each.provider.name, each.model, key_id)]
        best = self.health.choose(usable or targets, not exchange.is_dry_run)
        targets.remove(best)
        return best

    def _take_next(self, exchange: Exchange, fallback: Fallback) -> UpstreamRequest | None:
        """Returns the request for the best of the remaining targets that can serve it; None if there is none."""
        while fallback.remaining:
            target = self._take_best(exchange, fallback.remaining)
            request = fallback.prepared.get(_get_key(target))
            if request is None:
                request = self._adapt(exchange, fallback, target, has_others=bool(fallback.remaining))
            if request is not None:
                request.first_byte_timeout_s = fallback.patience_s if fallback.remaining else None
                exchange.set_target(target)
                return request
        return None

    def take_others(self, exchange: Exchange) -> list[UpstreamRequest]:
        """Returns the requests for all targets after the first, in the order in which failures would lead to them."""
        others: list[UpstreamRequest] = []
        fallback = exchange.fallback
        while fallback is not None and (request := self._take_next(exchange, fallback)) is not None:
            others.append(request)
        return others

    def _adapt(
        self, exchange: Exchange, fallback: Fallback, target: Target, *, has_others: bool
    ) -> UpstreamRequest | None:
        """Returns the request for a target; None if the target cannot serve it, which is noted."""
        try:
            return self._make_request(exchange, fallback, target, has_others=has_others)
        except GatewayError as error:
            add_skipped(exchange.record, target, error.code or error.type)
            fallback.max_tries += 1  # A skipped target is not a try.
            fallback.add_failure(target, error)
            return None

    def _make_request(
        self, exchange: Exchange, fallback: Fallback, target: Target, *, has_others: bool
    ) -> UpstreamRequest:
        policy = exchange.policy
        request = adapt(
            fallback.body,
            fallback.fields,
            exchange.endpoint,
            target,
            exchange.get_header,
            exchange.translated,
            None if policy is None else policy.max_output_tokens,
            # Only a stream shows early whether the target has begun.
            prefers_stream=has_others and fallback.patience_s is not None and exchange.endpoint.stream is not None,
        )
        choice = fallback.route.choice
        if choice is not None and choice.require_parameters and (unknown := find_unknown(request)):
            raise BadRequest(
                f"{target.provider.title} does not know {', '.join(unknown)} for {target.model}, and "
                "`provider.require_parameters` is true. Leave them out, or accept other providers.",
                param=unknown[0],
                code="parameter_not_supported",
            )
        return request

    def advance(self, exchange: Exchange, request: UpstreamRequest, error: UpstreamError) -> UpstreamRequest | None:
        """Returns the request for another target after a failure, ready to be sent.

        Args:
            exchange: the request.
            request: as it was sent to the target that failed.
            error: its error.

        Returns:
            The request, or None if the client gets the error: there is no other target, or none may be tried.

        Raises:
            GatewayError: the error of an earlier target, which tells the client more.
        """
        record, fallback, target = exchange.record, exchange.fallback, request.target
        withdraw_attempt(record)  # An attempt that is still open was never made, because a breaker refused it.
        has_response = record.upstream_status is not None
        if has_response:  # The dispatcher has noted failures without a response.
            if is_targets_failure(error):
                self.health.record_failure(target, error)
            if record.attempts:
                fail_response(record, error.code or error.type, time.monotonic() - exchange.attempt_started_s)
            if exchange.limited is not None:
                exchange.limited.fail_attempt(error)
        if fallback is None or not _keep_possible_targets(exchange, fallback, target, error):
            _name_attempts(exchange, error)
            return None
        fallback.add_failure(target, error)
        following = self._take_next(exchange, fallback)
        if following is None:
            _raise_best(exchange, fallback, error)
        elif not _hold_ceiling(exchange, following):
            exchange.set_target(target)
        else:
            _fall_back(exchange, request, following, error)
            return following
        _name_attempts(exchange, error)
        return None


def _keep_possible_targets(exchange: Exchange, fallback: Fallback, target: Target, error: UpstreamError) -> bool:
    """Keeps only targets that may follow: after a too long prompt, those with a larger context.

    Returns:
        Whether another target may be tried at all.
    """
    if error.code == _CONTEXT_CODE:
        fallback.remaining = [other for other in fallback.remaining if _has_larger_context(other, target)]
    elif not is_targets_failure(error):
        return False
    return time.monotonic() < exchange.deadline_s


def _hold_ceiling(exchange: Exchange, following: UpstreamRequest) -> bool:
    """Holds the ceiling of a failed attempt that may be billed; returns whether the limits have room for it."""
    if exchange.limited is None:
        return True
    try:
        exchange.limited.repeat(exchange.record, following)
    except GatewayError as error:
        log_event("fallback_refused", level="warning", request_id=exchange.request_id, reason=error.message)
        add_skipped(exchange.record, following.target, error.code or error.type)
        return False
    return True


def _fall_back(exchange: Exchange, request: UpstreamRequest, following: UpstreamRequest, error: UpstreamError) -> None:
    exchange.spent_usd += set_aside(exchange.record)
    exchange.set_target(following.target)
    exchange.served_from_s = time.monotonic()
    count_fallback(request.target.provider.name, _get_reason(error))
    log_event(
        "request_rerouted",
        level="warning",
        request_id=exchange.request_id,
        provider=request.target.provider.name,
        model=request.target.model,
        reason=error.message,
        next_provider=following.target.provider.name,
    )
    open_attempt(exchange.record, following.target)
    try:
        exchange.write_start()  # Written again, now with the next provider.
    except GatewayError:
        withdraw_attempt(exchange.record)
        raise


def _raise_best(exchange: Exchange, fallback: Fallback, last: UpstreamError | None = None) -> None:
    """Raises the most useful error for the client, unless it is `last`: errors that a retry can help come first, by the
    time until the retry, and among equals the last one."""
    target, error = min(reversed(fallback.failures), key=lambda failure: _get_wait(failure[1]))
    fallback.failures.clear()
    if error is last:
        return
    if exchange.is_sent:
        exchange.set_target(target)
        # The status of the last target's response is already in its attempt. It says nothing about this error, nor
        # whether it may be billed.
        exchange.record.upstream_status = exchange.record.upstream_request_id = None
    _name_attempts(exchange, error)
    try:
        raise error
    finally:
        del error  # This frame is part of the error's traceback, so a reference here would be a cycle.


def _name_attempts(exchange: Exchange, error: GatewayError) -> None:
    if len(exchange.record.attempts) > 1:
        error.attempts = describe_attempts(exchange.record.attempts)


def _get_wait(error: GatewayError) -> tuple[bool, float]:
    """Returns the sort key of an error: whether a retry is useless, and the seconds until it makes sense."""
    is_useless = error.should_retry is False or error.status in _LASTING_STATUSES
    return is_useless, math.inf if error.retry_after_s is None else error.retry_after_s


def _has_larger_context(target: Target, than: Target) -> bool:
    """Returns whether a target is another of the caller's models, with a larger context."""
    if target.place == than.place or target.context_length is None:
        return False
    return than.context_length is None or target.context_length > than.context_length


def _get_key(target: Target) -> tuple[str, str]:
    return target.provider.name, target.model


def _get_reason(error: UpstreamError) -> str:
    """Returns one of a few short names for a failure, as a metric label; other codes are the provider's own words."""
    if error.upstream_status is not None:
        return str(error.upstream_status)
    return error.code if error.code is not None and error.code.startswith("upstream_") else error.type
