"""Circuit breakers: requests fail fast while a provider has a failure that every further request would meet.

There are breakers for three classes of failure: the provider's account (suspended, out of credit), its key (refused),
its address (no connection). A breaker opens after a few failures in a row. While it is open, requests get the last
error at once, with the time to wait if waiting can help. Then one request is sent as a probe, and its success closes
the breaker.

A failure of the address concerns the whole provider. A refusal of the account or the key may concern only the requested
model, so it counts for that model: callers choose model names, and one caller must not shut a provider off from all
others. So after a few refusals the gateway sends the provider a request of its own (`Provider.probe`). The provider's
breaker opens if that is refused too, or if refusals come from two models and for two gateway keys. For a provider
without such a request one key is enough, if no other is in use there.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.errors import UpstreamAuthenticationFailed, UpstreamError, UpstreamSuspended
from app.logs import log_event
from app.runtime import Component, Runtime
from app.services.inference.account_probe import AccountProbes
from app.services.inference.billing import CONNECT_CODES

# The number of failures in a row that opens a breaker. A suspended account stays suspended between two requests; a
# refused key may be a matter of permissions that change; and a single connection may fail for an unrelated reason.
THRESHOLDS = {"account": 2, "key": 5, "connect": 5}

# Classes of refusals that may concern only one model.
REFUSALS = ("account", "key")

# The number of models and of gateway keys that must be refused before the provider counts as the cause.
_WITNESSES = 2

# The first pause, and the longest after failed probes, in seconds. After an operator has topped up an account or
# replaced a key, traffic resumes after the longest pause at the latest.
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0

# The longest wait of other requests for the result of a probe, in seconds. A slow model must not keep a breaker open.
PROBE_LIMIT_S = 20.0

# A gateway key counts as in use at a provider until this many seconds after its last request.
KEY_IN_USE_S = 600.0

# A bound on memory, because callers choose model names. Beyond it, the oldest breaker of a model is forgotten.
MAX_MODEL_BREAKERS = 1_000


@dataclass(slots=True)
class Breaker:
    """The state of one breaker; times on the monotonic clock, in seconds.

    Attributes:
        failures: the number of failures in a row, or since it opened.
        models, keys: the first two models and gateway keys that met these failures.
        probe_ends_s: the time until which other requests wait for the result of a probe; 0 without one.
    """

    failures: int = 0
    models: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    pause_s: float = FIRST_PAUSE_S
    open_until_s: float = 0.0
    probe_ends_s: float = 0.0
    is_open: bool = False
    error: UpstreamError | None = None


def classify_failure(error: UpstreamError) -> str | None:
    """Returns the breaker that an error counts for, or None for a failure that may concern only this request."""
    if isinstance(error, UpstreamSuspended):
        return "account"
    if isinstance(error, UpstreamAuthenticationFailed):
        return "key"
    return "connect" if error.code in CONNECT_CODES else None


class CircuitBreakers(Component):
    """The breakers of this process.

    Attributes:
        breakers: the breakers of whole providers, by provider and class of failure.
        model_breakers: the breakers of single models, by provider, model and class of failure; the oldest first.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.breakers: dict[tuple[str, str], Breaker] = {}
        self.model_breakers: dict[tuple[str, str, str], Breaker] = {}
        # Provider → gateway key → time of its last use there. Only the operator makes keys, so there are few.
        self._keys: dict[str, dict[str, float]] = defaultdict(dict)
        self._probes = runtime.get(AccountProbes)

    def raise_if_open(self, provider: str, model: str, key_id: str) -> None:
        """Raises if a breaker is open for this request. After its pause, one request passes as a probe.

        Raises:
            UpstreamError: a copy of the last failure. It has `retry_after_s` until the next probe, unless someone must
                act first, because the provider refuses the account or the key.
        """
        now_s = time.monotonic()
        self._keys[provider][key_id] = now_s
        if not self.breakers and not self.model_breakers:
            return  # The usual case: nothing has failed recently.
        open_ones = [breaker for breaker in self._find(provider, model, key_id) if breaker.is_open]
        for breaker in open_ones:
            if breaker.open_until_s > now_s or breaker.probe_ends_s > now_s:
                raise _make_fast_failure(breaker, max(breaker.open_until_s - now_s, 1.0))
        for breaker in open_ones:
            breaker.probe_ends_s = now_s + PROBE_LIMIT_S  # Others keep failing fast until this one has its result.

    def is_open(self, provider: str, model: str, key_id: str) -> bool:
        """Returns whether `raise_if_open` would raise for this request; it counts nothing."""
        if not self.breakers and not self.model_breakers:
            return False
        now_s = time.monotonic()
        return any(
            breaker.is_open and max(breaker.open_until_s, breaker.probe_ends_s) > now_s
            for breaker in self._find(provider, model, key_id)
        )

    def _find(self, provider: str, model: str, key_id: str | None = None) -> Iterator[Breaker]:
        """Yields the breakers for a request; without `key_id`, also a model's that concerns only other keys."""
        for kind in THRESHOLDS:
            found = self.breakers.get((provider, kind))
            if found is not None:
                yield found
        for kind in REFUSALS:
            found = self.model_breakers.get((provider, model, kind))
            # If a model has refused a single gateway key, the cause may be in that caller's requests.
            if found is not None and (key_id is None or key_id in found.keys or len(found.keys) >= _WITNESSES):
                yield found

    def record_success(self, provider: str, model: str) -> None:
        """Closes the breakers of the provider and of the model after a successful response."""
        if not self.breakers and not self.model_breakers:
            return
        for kind in THRESHOLDS:
            _log_closed(self.breakers.pop((provider, kind), None), provider, kind)
        for kind in REFUSALS:
            _log_closed(self.model_breakers.pop((provider, model, kind), None), provider, kind, model)

    def record_failure(self, provider: str, model: str, key_id: str, error: UpstreamError) -> None:
        """Counts a failure, and opens the breaker of its class after enough failures in a row."""
        kind = classify_failure(error)
        # Any failure ends the probe; only one of the breaker's own class is its result.
        was_probe = self._is_probing(provider, kind)
        model_was_probe = kind in REFUSALS and _is_probing(self.model_breakers.get((provider, model, kind)))
        self.release_probes(provider, model)
        if kind is None:
            return
        if kind in REFUSALS:
            breaker = self._get_model_breaker(provider, model, kind)
            _count(breaker, model, key_id, error)
            if breaker.failures >= THRESHOLDS[kind] and _open(breaker, provider, kind, model_was_probe, model):
                self._probes.start(provider, self._open_refused)
        breaker = self.breakers.setdefault((provider, kind), Breaker())
        if breaker.is_open and not was_probe:
            return  # This request was already under way when the breaker opened.
        _count(breaker, model, key_id, error)
        if self._is_proven(breaker, provider, kind):
            _open(breaker, provider, kind, was_probe)
        elif was_probe or breaker.failures >= THRESHOLDS[kind]:
            self._probes.start(provider, self._open_refused)

    def _is_probing(self, provider: str, kind: str | None) -> bool:
        return kind is not None and _is_probing(self.breakers.get((provider, kind)))

    def _is_proven(self, breaker: Breaker, provider: str, kind: str) -> bool:
        """Returns whether the failures counted by a whole provider's breaker are the provider's fault."""
        if kind in REFUSALS:
            # Without the gateway's own request, its breaker could never open while only one key is in use.
            can_ask = self._probes.can_ask(provider)
            keys_needed = _WITNESSES if can_ask else min(_WITNESSES, self._count_keys(provider))
            if len(breaker.models) < _WITNESSES or len(breaker.keys) < keys_needed:
                return False
        return breaker.is_open or breaker.failures >= THRESHOLDS[kind]

    def _count_keys(self, provider: str) -> int:
        """Returns how many gateway keys are in use at a provider, and forgets the others."""
        oldest_s = time.monotonic() - KEY_IN_USE_S
        keys = self._keys[provider]
        for key_id in [key_id for key_id, used_s in keys.items() if used_s < oldest_s]:
            del keys[key_id]
        return len(keys)

    def _get_model_breaker(self, provider: str, model: str, kind: str) -> Breaker:
        key = (provider, model, kind)
        breaker = self.model_breakers.get(key)
        if breaker is None:
            while len(self.model_breakers) >= MAX_MODEL_BREAKERS:
                del self.model_breakers[next(iter(self.model_breakers))]
            breaker = self.model_breakers[key] = Breaker()
        return breaker

    def release_probes(self, provider: str, model: str) -> None:
        """Ends a request's probes without a result, for example after its client has disconnected."""
        for breaker in self._find(provider, model):
            breaker.probe_ends_s = 0.0

    def _open_refused(self, provider: str, error: UpstreamError) -> None:
        """Opens the breaker of a provider that has refused the gateway's own request."""
        kind = classify_failure(error)
        assert kind is not None
        breaker = self.breakers.setdefault((provider, kind), Breaker())
        breaker.error = error
        _open(breaker, provider, kind, was_probe=breaker.open_until_s <= time.monotonic())


def _is_probing(breaker: Breaker | None) -> bool:
    return breaker is not None and breaker.is_open and breaker.probe_ends_s > 0


def _count(breaker: Breaker, model: str, key_id: str, error: UpstreamError) -> None:
    breaker.failures += 1
    breaker.error = error
    if len(breaker.models) < _WITNESSES:
        breaker.models.add(model)
    if len(breaker.keys) < _WITNESSES:
        breaker.keys.add(key_id)


def _make_fast_failure(breaker: Breaker, left_s: float) -> UpstreamError:
    error = breaker.error or UpstreamError("The provider keeps failing. Retry in a moment.")
    return type(error)(
        error.message,
        status=error.status,
        type=error.type,
        code=error.code,
        retry_after_s=None if error.should_retry is False else left_s,
        should_retry=error.should_retry,
    )


def _open(breaker: Breaker, provider: str, kind: str, was_probe: bool, model: str | None = None) -> bool:
    """Opens a breaker, for longer after a failed probe; returns whether it did."""
    if breaker.is_open and not was_probe:
        return False  # This request was already under way when the breaker opened.
    breaker.pause_s = min(breaker.pause_s * 2, LONGEST_PAUSE_S) if breaker.is_open else FIRST_PAUSE_S
    breaker.open_until_s = time.monotonic() + breaker.pause_s
    breaker.is_open, breaker.probe_ends_s = True, 0.0
    if model is None:
        # The next probe may be a request that this provider always refuses, so the evidence must be collected again.
        breaker.failures = 0
        breaker.models.clear()
        breaker.keys.clear()
    reason = breaker.error.message if breaker.error else None
    log_event(
        "breaker_opened",
        level="error",
        provider=provider,
        kind=kind,
        model=model,
        pause_s=breaker.pause_s,
        reason=reason,
    )
    return True


def _log_closed(breaker: Breaker | None, provider: str, kind: str, model: str | None = None) -> None:
    if breaker is not None and breaker.is_open:
        log_event("breaker_closed", provider=provider, kind=kind, model=model)
