"""Circuit breakers: requests fail fast while a provider has a failure that every further request would meet.

There is one breaker for each provider and class of failure: its account (suspended, out of credit), its key (refused),
its address (no connection). It opens after a few failures in a row. While it is open, requests get the last error at
once, with the time to wait. Then one request is sent as a probe, and its success closes the breaker.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

from app.errors import UpstreamAuthenticationFailed, UpstreamError, UpstreamSuspended
from app.logs import log_event
from app.runtime import Component, Runtime, get_component

# How many failures in a row open a breaker. A suspended account stays suspended between two requests; a key may
# lack access to one model only; and a single connection may fail for an unrelated reason.
THRESHOLDS = {"account": 2, "key": 5, "connect": 5}

# The first pause, and the longest after failed probes, in seconds. An operator who tops up an account or replaces a
# key waits at most the longest pause until traffic resumes.
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
    is_probing: bool = False
    error: UpstreamError | None = None


class OpenBreaker(msgspec.Struct, frozen=True):
    """An open breaker as reports show it; `retry_in_s` is the time until the next probe."""

    provider: str
    kind: str
    retry_in_s: float


def classify_failure(error: UpstreamError) -> str | None:
    """Returns the breaker that an error counts for, or None for a failure that may concern only this request."""
    if isinstance(error, UpstreamSuspended):
        return "account"
    if isinstance(error, UpstreamAuthenticationFailed):
        return "key"
    return "connect" if error.code in _CONNECT_CODES else None


class CircuitBreakers(Component):
    """The breakers of this process, by provider and class of failure."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.breakers: dict[tuple[str, str], Breaker] = {}

    def raise_if_open(self, provider: str) -> None:
        """Raises if a breaker is open. After its pause, one request passes as a probe.

        Raises:
            UpstreamError: a copy of the last failure, with `retry_after_s` until the next probe.
        """
        if not self.breakers:
            return  # The usual case: nothing has failed recently.
        found = (self.breakers.get((provider, kind)) for kind in THRESHOLDS)
        open_ones = [breaker for breaker in found if breaker is not None and breaker.is_open]
        for breaker in open_ones:
            left_s = breaker.open_until_s - time.monotonic()
            if left_s > 0 or breaker.is_probing:
                raise _make_fast_failure(breaker, max(left_s, 1.0))
        for breaker in open_ones:
            breaker.is_probing = True  # Other requests keep failing fast until this one has its result.

    def record_success(self, provider: str) -> None:
        """Closes the provider's breakers after a successful response."""
        if not self.breakers:
            return
        for kind in THRESHOLDS:
            breaker = self.breakers.pop((provider, kind), None)
            if breaker is not None and breaker.is_open:
                log_event("breaker_closed", provider=provider, kind=kind)

    def record_failure(self, provider: str, error: UpstreamError) -> None:
        """Counts a failure, and opens the breaker of its class after enough failures in a row."""
        kind = classify_failure(error)
        # This failure says nothing about the breakers of other classes, so their probes have no result.
        self.release_probes(provider, except_for=kind)
        if kind is None:
            return
        breaker = self.breakers.setdefault((provider, kind), Breaker())
        breaker.failures += 1
        breaker.error = error
        if breaker.failures >= THRESHOLDS[kind]:
            _open(provider, kind, breaker)

    def release_probes(self, provider: str, except_for: str | None = None) -> None:
        """Ends the provider's probes without a result, for example after the client of the probe has disconnected."""
        for kind in THRESHOLDS:
            breaker = self.breakers.get((provider, kind))
            if kind != except_for and breaker is not None:
                breaker.is_probing = False


def _make_fast_failure(breaker: Breaker, left_s: float) -> UpstreamError:
    error = breaker.error or UpstreamError("The provider keeps failing. Retry in a moment.")
    return type(error)(
        error.message,
        status=error.status,
        type=error.type,
        code=error.code,
        retry_after_s=left_s,
        should_retry=error.should_retry,
    )


def _open(provider: str, kind: str, breaker: Breaker) -> None:
    if breaker.is_open and not breaker.is_probing:
        return  # This request was already under way when the breaker opened.
    breaker.pause_s = min(breaker.pause_s * 2, LONGEST_PAUSE_S) if breaker.is_open else FIRST_PAUSE_S
    breaker.open_until_s = time.monotonic() + breaker.pause_s
    breaker.is_open, breaker.is_probing = True, False
    reason = breaker.error.message if breaker.error else None
    log_event("breaker_opened", level="error", provider=provider, kind=kind, pause_s=breaker.pause_s, reason=reason)


def get_open_breakers() -> list[OpenBreaker]:
    """Returns the open breakers of this process."""
    now_s = time.monotonic()
    return [
        OpenBreaker(provider, kind, max(0.0, round(breaker.open_until_s - now_s, 1)))
        for (provider, kind), breaker in get_component(CircuitBreakers).breakers.items()
        if breaker.is_open
    ]
