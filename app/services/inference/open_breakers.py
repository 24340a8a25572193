"""The open circuit breakers of this process, for reports."""

from __future__ import annotations

import time
from collections import Counter

import msgspec

from app.logs import redact
from app.runtime import get_component
from app.services.inference.circuit_breaker import REFUSALS, THRESHOLDS, Breaker, CircuitBreakers


class OpenBreaker(msgspec.Struct, frozen=True):
    """An open breaker as reports show it.

    Attributes:
        retry_in_s: the time until the next probe.
        model: the model that the provider refuses; None if it is the provider's breaker.
        reason: the last error, without secrets; None where it is not shown.
    """

    provider: str
    kind: str
    retry_in_s: float
    model: str | None = None
    reason: str | None = None


def get_open_breaker(provider: str, model: str) -> OpenBreaker | None:
    """Returns the breaker that requests for a provider's model meet in this process, or None if none is open.

    It is the provider's or the model's (even if only some gateway keys meet it), and of several the one that stays open
    longest. Every caller may see it, so it gives no reason.
    """
    known = get_component(CircuitBreakers)
    found = [(kind, known.breakers.get((provider, kind))) for kind in THRESHOLDS]
    found += [(kind, known.model_breakers.get((provider, model, kind))) for kind in REFUSALS]
    open_ones = [(breaker.open_until_s, kind) for kind, breaker in found if breaker is not None and breaker.is_open]
    return OpenBreaker(provider, max(open_ones)[1], _compute_wait_s(max(open_ones)[0])) if open_ones else None


def get_open_breakers() -> list[OpenBreaker]:
    """Returns the open breakers of whole providers in this process."""
    return [
        _make_open(breaker, provider, kind)
        for (provider, kind), breaker in get_component(CircuitBreakers).breakers.items()
        if breaker.is_open
    ]


def get_open_model_breakers(limit: int) -> list[OpenBreaker]:
    """Returns the open breakers of single models in this process, at most `limit`, the newest first."""
    found = get_component(CircuitBreakers).model_breakers
    open_ones = [
        _make_open(one, provider, kind, model) for (provider, model, kind), one in found.items() if one.is_open
    ]
    return open_ones[::-1][:limit]


def count_refused_models() -> dict[str, int]:
    """Returns for how many models of each provider a breaker is open in this process."""
    found = get_component(CircuitBreakers).model_breakers
    refused = {(provider, model) for (provider, model, _), breaker in found.items() if breaker.is_open}
    return dict(Counter(provider for provider, _ in refused))


def _make_open(breaker: Breaker, provider: str, kind: str, model: str | None = None) -> OpenBreaker:
    # A message may contain half of a surrogate pair, which JSON cannot represent.
    reason = None if breaker.error is None else redact(breaker.error.message).encode(errors="replace").decode()
    return OpenBreaker(provider, kind, _compute_wait_s(breaker.open_until_s), model, reason)


def _compute_wait_s(open_until_s: float) -> float:
    return max(0.0, round(open_until_s - time.monotonic(), 1))
