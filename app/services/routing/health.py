"""The recent failures of each target at this worker, so that requests with a choice avoid targets that fail.

A circuit breaker handles failures that every request to a provider meets, and then fails requests at once. This memory
handles all failures that another target may not have, and only changes the order in which targets are tried. It is
empty while nothing fails.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import UpstreamError
from app.logs import log_event
from app.runtime import Component, Runtime, get_component
from app.services.quality import get_quality
from app.services.routing.target import Target

# A target is avoided after this many failures in a row, or if a quarter of its latest requests, at least four, failed.
FAILURES_IN_A_ROW = 3
FAILED_SHARE = 0.25
LEAST_FAILURES = 4.0

# The weight of a result halves in this time, in seconds.
HALF_LIFE_S = 30.0

# How long a target is avoided before one request tries it again, in seconds; doubled after each failed try.
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0

# How long other requests keep avoiding it while that request is running, in seconds.
PROBE_LIMIT_S = 20.0

# A target with this share of failures for all workers together in the last half hour is avoided, unless this worker
# knows better. A success that a worker saw itself also counts for half an hour.
KNOWN_BAD_SHARE = 0.5
KNOWN_BAD_REQUESTS = 10
KNOWN_S = 1_800.0

# A bound on memory, because callers choose model names. Beyond it, the oldest state is forgotten.
MAX_STATES = 1_000

_RATE_LIMITED = 429

Key = tuple[str, str]  # (provider's name, the model's id there)


@dataclass(slots=True)
class _State:
    """The memory of one target; times on the monotonic clock, in seconds.

    Attributes:
        good, bad: its latest successes and failures, weighted by age.
        in_a_row: the number of failures since the last success.
        changed_s: the time of the last weighting of `good` and `bad`.
        avoided_until_s: the time until which it is avoided; 0 if it is not.
        pause_s: the duration of the next avoidance.
        probe_ends_s: the time until which others wait for the request that tries it; 0 without one.
    """

    good: float = 0.0
    bad: float = 0.0
    in_a_row: int = 0
    changed_s: float = 0.0
    avoided_until_s: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    probe_ends_s: float = 0.0

    def age(self, now_s: float) -> None:
        """Reduces the weight of earlier results."""
        factor = 0.5 ** ((now_s - self.changed_s) / HALF_LIFE_S)
        self.good, self.bad, self.changed_s = self.good * factor, self.bad * factor, now_s


class TargetHealth(Component):
    """The memory of this worker.

    Attributes:
        states: the states of targets that failed recently; the oldest first.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.states: dict[Key, _State] = {}
        # Targets that the measurements of all workers call bad → the time until which this worker knows better.
        self._known: dict[Key, float] = {}

    def choose(self, targets: Sequence[Target], may_probe: bool = True) -> Target:
        """Returns the first target that need not be avoided, or the first of all if every target must be.

        If a target has been avoided long enough, this request tries it, and others follow after its success.

        Args:
            targets: at least one, the best first.
            may_probe: False if the target is not tried after all, so that others need not wait for the result.
        """
        return next((target for target in targets if self._admit(target, may_probe)), targets[0])

    def _admit(self, target: Target, may_probe: bool) -> bool:
        """Returns whether a target need not be avoided; notes when it is tried again, and that it is being tried."""
        key, now_s = (target.provider.name, target.model), time.monotonic()
        state = self.states.get(key)
        if state is None:
            if not self._is_known_bad(key, now_s):
                return True
            state = self._get_state(key)
            # Spreads the workers' tries, so that they do not all come at the same moment.
            state.avoided_until_s = now_s + random.uniform(0.0, FIRST_PAUSE_S)
        if not state.avoided_until_s:
            return True
        if now_s < state.avoided_until_s or now_s < state.probe_ends_s:
            return False
        if may_probe:
            state.probe_ends_s = now_s + PROBE_LIMIT_S
        return True

    def _is_known_bad(self, key: Key, now_s: float) -> bool:
        if self._known.get(key, 0.0) > now_s:
            return False
        quality = get_quality(*key)
        share = quality.error_share
        return share is not None and share >= KNOWN_BAD_SHARE and quality.requests >= KNOWN_BAD_REQUESTS

    def get_avoided_s(self, provider_name: str, model_id: str) -> float | None:
        """Returns how long a target is still avoided, in seconds; None if it is not. It changes nothing."""
        state = self.states.get((provider_name, model_id))
        left_s = 0.0 if state is None else state.avoided_until_s - time.monotonic()
        return left_s if left_s > 0 else None

    def record_failure(self, target: Target, error: UpstreamError) -> None:
        """Counts a failure that another target may not have."""
        key, now_s = (target.provider.name, target.model), time.monotonic()
        state = self._get_state(key)
        state.age(now_s)
        state.bad += 1
        state.in_a_row += 1
        was_avoided, was_probe = bool(state.avoided_until_s), state.probe_ends_s > 0
        if was_avoided and not was_probe:
            return  # This request was already running, or there was no other target.
        pause_s = self._get_pause_s(state, error)
        if pause_s is None:
            return
        state.avoided_until_s, state.probe_ends_s = now_s + pause_s, 0.0
        state.pause_s = min(2 * state.pause_s, LONGEST_PAUSE_S)
        if not was_avoided:
            log_event(
                "target_avoided",
                level="warning",
                provider=key[0],
                model=key[1],
                pause_s=round(pause_s, 1),
                reason=error.message,
            )

    def _get_pause_s(self, state: _State, error: UpstreamError) -> float | None:
        """Returns how long to avoid a target, in seconds; None if it failed too seldom."""
        if error.upstream_status == _RATE_LIMITED and error.retry_after_is_upstreams and error.retry_after_s:
            return min(error.retry_after_s, LONGEST_PAUSE_S)
        is_failing = state.bad >= LEAST_FAILURES and state.bad >= FAILED_SHARE * (state.good + state.bad)
        if state.probe_ends_s or state.in_a_row >= FAILURES_IN_A_ROW or is_failing:
            return state.pause_s
        return None

    def record_success(self, target: Target) -> None:
        """Counts a success of a target that failed before. Call it only if `states` is not empty."""
        key = (target.provider.name, target.model)
        state = self.states.get(key)
        if state is None:
            return
        now_s = time.monotonic()
        state.age(now_s)
        state.good += 1
        state.in_a_row = 0
        if state.avoided_until_s:
            log_event("target_readmitted", provider=key[0], model=key[1])
            # Its failures still count, so that the next one makes it avoided again: it may fail intermittently.
            state.avoided_until_s = state.probe_ends_s = 0.0
            self._known[key] = now_s + KNOWN_S
        elif state.bad < 1 / LEAST_FAILURES:
            del self.states[key]

    def end_probe(self, target: Target) -> None:
        """Ends a try without a result, for example after its client has disconnected."""
        state = self.states.get((target.provider.name, target.model))
        if state is not None:
            state.probe_ends_s = 0.0

    def _get_state(self, key: Key) -> _State:
        state = self.states.get(key)
        if state is None:
            while len(self.states) >= MAX_STATES:
                forgotten = next(iter(self.states))
                del self.states[forgotten]
            state = self.states[key] = _State(changed_s=time.monotonic())
        return state


def get_avoided_s(provider_name: str, model_id: str) -> float | None:
    """Returns how many seconds this worker still avoids a target; None if it does not."""
    return get_component(TargetHealth).get_avoided_s(provider_name, model_id)
