"""Fails fast while a provider is known to fail in a way that the next request cannot change.

One breaker per provider and class of failure: its account (suspended, out of credit), its key (refused), its address
(no connection). It opens after a few failures in a row; while it is open requests get the last error at once with
the time to wait; then one request probes, and its success closes the breaker.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from app.errors import UpstreamAuthenticationFailed, UpstreamError, UpstreamSuspended
from app.logs import log_event

# How many failures in a row open it. A suspended account does not un-suspend itself between two requests, a key may
# lack access to one model only, and a single connection may fail for reasons of its own.
THRESHOLDS = {"account": 2, "key": 5, "connect": 5}

# The first pause, and the longest after failed probes, in seconds. An operator who tops up an account or mends a key
# waits at most the latter for traffic to come back.
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0

_CONNECT_CODES = frozenset({"upstream_unreachable", "upstream_connect_timeout", "upstream_tls_error"})


@dataclass(slots=True)
class Breaker:
    """The state of one breaker; times on the monotonic clock, in seconds."""

    failures: int = 0
    pause_s: float = FIRST_PAUSE_S
    open_until_s: float = 0.0
    is_open: bool = False
    probing: bool = False
    error: UpstreamError | None = None


_breakers: dict[tuple[str, str], Breaker] = {}


def failure_class(error: UpstreamError) -> str | None:
    """Returns which breaker an error counts for, None for failures that may well be of this request alone."""
    if isinstance(error, UpstreamSuspended):
        return "account"
    if isinstance(error, UpstreamAuthenticationFailed):
        return "key"
    return "connect" if error.code in _CONNECT_CODES else None


def check_breakers(provider: str) -> None:
    """Lets a request through, or raises the error that opened a breaker of this provider.

    Raises:
        UpstreamError: a copy of the last failure, with `retry_after_s` until the next probe.
    """
    found = (_breakers.get((provider, kind)) for kind in THRESHOLDS)
    open_ones = [breaker for breaker in found if breaker is not None and breaker.is_open]
    for breaker in open_ones:
        left_s = breaker.open_until_s - time.monotonic()
        if left_s > 0 or breaker.probing:
            raise _fast_failure(breaker, max(left_s, 1.0))
    for breaker in open_ones:
        breaker.probing = True  # This request probes; the others go on failing fast until it is back.


def _fast_failure(breaker: Breaker, left_s: float) -> UpstreamError:
    error = breaker.error or UpstreamError("The provider keeps failing. Retry in a moment.")
    return type(error)(
        error.message,
        status=error.status,
        type=error.type,
        code=error.code,
        retry_after_s=left_s,
        should_retry=error.should_retry,
    )


def note_success(provider: str) -> None:
    """Closes the provider's breakers: it answered."""
    for kind in THRESHOLDS:
        breaker = _breakers.get((provider, kind))
        if breaker is not None and breaker.failures:
            if breaker.is_open:
                log_event("breaker closed", provider=provider, kind=kind)
            _breakers[provider, kind] = Breaker()


def note_failure(provider: str, error: UpstreamError) -> None:
    """Counts a failure; opens the breaker of its class when there were enough in a row."""
    kind = failure_class(error)
    for other in THRESHOLDS:
        breaker = _breakers.get((provider, other))
        if other != kind and breaker is not None:
            breaker.probing = False  # The probe met another failure, so it told nothing about this one.
    if kind is None:
        return
    breaker = _breakers.setdefault((provider, kind), Breaker())
    breaker.failures += 1
    breaker.error = error
    if breaker.failures >= THRESHOLDS[kind]:
        _open(provider, kind, breaker)


def _open(provider: str, kind: str, breaker: Breaker) -> None:
    if breaker.is_open and not breaker.probing:
        return  # A request that was under way when it opened.
    breaker.pause_s = min(breaker.pause_s * 2, LONGEST_PAUSE_S) if breaker.is_open else FIRST_PAUSE_S
    breaker.open_until_s = time.monotonic() + breaker.pause_s
    breaker.is_open, breaker.probing = True, False
    reason = breaker.error.message if breaker.error else None
    log_event("breaker open", level="error", provider=provider, kind=kind, pause_s=breaker.pause_s, reason=reason)


def abandon_probe(provider: str) -> None:
    """Gives up a probe that ended without an answer either way, as when its client left."""
    for kind in THRESHOLDS:
        breaker = _breakers.get((provider, kind))
        if breaker is not None:
            breaker.probing = False


def get_open_breakers() -> list[dict[str, object]]:
    """Returns the open breakers: provider, kind, seconds until the next probe."""
    now_s = time.monotonic()
    return [
        {"provider": provider, "kind": kind, "retry_in_s": max(0.0, round(breaker.open_until_s - now_s, 1))}
        for (provider, kind), breaker in _breakers.items()
        if breaker.is_open
    ]
