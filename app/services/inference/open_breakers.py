"""The open circuit breakers of this process, as reports show them."""

from __future__ import annotations

import time
from collections import Counter

import msgspec

from app.runtime import get_component
from app.services.inference.circuit_breaker import REFUSALS, THRESHOLDS, CircuitBreakers


class OpenBreaker(msgspec.Struct, frozen=True):
    """An open breaker as reports show it; `retry_in_s` is the time until the next probe."""

    provider: str
    kind: str
    retry_in_s: float


def _make_open(provider: str, kind: str, open_until_s: float) -> OpenBreaker:
    return OpenBreaker(provider, kind, max(0.0, round(open_until_s - time.monotonic(), 1)))


def get_open_breaker(provider: str, model: str) -> OpenBreaker | None:
    """Returns the breaker that requests for a provider's model meet in this process, or None if none is open.

    It is the provider's or the model's (also one that only some gateway keys meet), and of several the last to end.
    """
    known = get_component(CircuitBreakers)
    found = [(kind, known.breakers.get((provider, kind))) for kind in THRESHOLDS]
    found += [(kind, known.model_breakers.get((provider, model, kind))) for kind in REFUSALS]
    open_ones = [(breaker.open_until_s, kind) for kind, breaker in found if breaker is not None and breaker.is_open]
    return _make_open(provider, max(open_ones)[1], max(open_ones)[0]) if open_ones else None


def get_open_breakers() -> list[OpenBreaker]:
    """Returns the open breakers of whole providers in this process."""
    return [
        _make_open(provider, kind, breaker.open_until_s)
        for (provider, kind), breaker in get_component(CircuitBreakers).breakers.items()
        if breaker.is_open
    ]


def count_refused_models() -> dict[str, int]:
    """Returns for how many models of each provider a breaker is open in this process."""
    found = get_component(CircuitBreakers).model_breakers
    refused = {(provider, model) for (provider, model, _), breaker in found.items() if breaker.is_open}
    return dict(Counter(provider for provider, _ in refused))
