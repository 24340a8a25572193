"""The quality of each model at each provider over the last half hour, read from the sums of records.

A background thread reads all of it with one statement every quarter of a minute; a request only looks into a dict. The
sums are of all workers and hosts, so every worker knows the experience of all others.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import timedelta

import msgspec

from app.config import SettingsError
from app.db import Database, DatabaseError, describe_error
from app.db.histogram import histogram_quantiles_ms
from app.db.recent_quality import OutcomeSums, RecentQuality, select_recent_quality
from app.logs import log_event, redact
from app.periodic import PeriodicTask
from app.runtime import Component, Runtime, get_component
from app.services.models import peek_model_list
from app.services.providers import PROVIDERS

# The measured window: long enough for a model that is used occasionally, short enough to show a failure soon.
WINDOW = timedelta(minutes=30)

# The interval of queries to the database, in seconds; a random part is added, so that workers do not ask at once.
REFRESH_S = 15.0
_JITTER = 0.2

# Without an answer of the database for this long, nothing is known, because the window has moved on.
_KEPT_S = 300.0

# Outcomes that are failures of the provider. Other outcomes tell nothing about it: the gateway refused the request, the
# client left, or the gateway stopped.
_FAILURES = frozenset({"upstream_error", "upstream_cut", "upstream_timeout"})

# The type of errors that the caller must correct, such as a prompt that does not fit. They are not the provider's.
_CALLERS_FAULT = "invalid_request_error"

_QUANTILES = (0.5, 0.75, 0.9, 0.99)

Key = tuple[str, str]  # (provider's name, model id)


class Latencies(msgspec.Struct, frozen=True):
    """Percentiles of the time to the first token of streams, in milliseconds."""

    p50: float
    p75: float
    p90: float
    p99: float


class ModelQuality(msgspec.Struct, frozen=True, kw_only=True):
    """The measured service of a model by a provider in the last half hour; unmeasured values are None.

    Attributes:
        requests: how many requests it served or failed to serve, also if another one then served them.
        error_share: the share of them that it failed to serve, 0 to 1; None without a request.
        ttft_ms: the time to the first token of streams; None without a stream that had one.
        tokens_per_second: completion tokens by the time that they took, over all responses together; the time of a
            response that was not streamed includes the wait for its first token, unless the provider says otherwise.
    """

    requests: int = 0
    error_share: float | None = None
    ttft_ms: Latencies | None = None
    tokens_per_second: float | None = None


UNKNOWN = ModelQuality()


class Quality(Component):
    """The quality of all models in use, by the database's last answer."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._measured: dict[Key, ModelQuality] = {}
        self._measured_s = float("-inf")
        self._has_failed = False
        self._task = PeriodicTask(
            "quality",
            self.refresh,
            pause_s=lambda: REFRESH_S * random.uniform(1.0, 1.0 + _JITTER),
            on_error=lambda error: log_event("quality_refresh_failed", level="error", error=error),
        )

    def start(self) -> None:
        """Starts the refreshes; later calls do nothing."""
        self._task.start()

    def get(self, provider_name: str, model_id: str) -> ModelQuality:
        """Returns the quality of a provider's model; see the function `get_quality`."""
        if time.monotonic() - self._measured_s > _KEPT_S:
            return UNKNOWN
        return self._measured.get((provider_name, model_id), UNKNOWN)

    def refresh(self) -> None:
        """Reads the quality now; if the database does not answer, keeps the last one."""
        asked_s = time.monotonic()
        try:
            with self.runtime.get(Database).read_connection() as connection:
                found = select_recent_quality(connection, WINDOW)
        except (DatabaseError, SettingsError) as error:
            if not self._has_failed:
                log_event("quality_refresh_failed", level="warning", reason=redact(describe_error(error)))
            self._has_failed = True
            return
        self._measured, self._measured_s, self._has_failed = make_quality(found), asked_s, False

    def close(self) -> None:
        """Ends the refreshes."""
        self._task.close()


def make_quality(found: RecentQuality) -> dict[Key, ModelQuality]:
    """Returns the quality of each model that was used, by its provider and its id in the provider's list.

    Records name a model like the provider's response does, which may be another form of the listed id. A request that
    failed at a model counts for that model even if another one then ended it. The name in it may be a caller's
    invention, so it counts only if the provider lists it or has served it.
    """
    outcomes: dict[Key, list[OutcomeSums]] = defaultdict(list)
    first_tokens: dict[Key, Counter[int]] = defaultdict(Counter)
    for sums in found.outcomes:
        outcomes[_find_listed(sums.gateway, sums.model)].append(sums)
    for times in found.first_tokens:
        first_tokens[_find_listed(times.gateway, times.model)].update(times.histogram)
    given_up = {row[:2]: row.requests for row in found.given_up if row[:2] in outcomes or _is_listed(*row[:2])}
    return {
        key: _measure(outcomes[key], first_tokens[key], given_up.get(key, 0))
        for key in outcomes.keys() | given_up.keys()
    }


def _find_listed(provider_name: str, recorded: str) -> Key:
    """Returns the model of the provider's list that a record names; its own name if no single model fits."""
    provider = PROVIDERS.get(provider_name)
    models = peek_model_list(provider) if provider is not None else None
    found = models.find(recorded) if models is not None else ()
    return provider_name, found[0].id if len(found) == 1 else recorded


def _is_listed(provider_name: str, model_id: str) -> bool:
    provider = PROVIDERS.get(provider_name)
    models = peek_model_list(provider) if provider is not None else None
    return models is not None and models.get(model_id) is not None


def _measure(rows: Iterable[OutcomeSums], first_tokens: Counter[int], given_up: int) -> ModelQuality:
    served, failed, tokens = 0, given_up, 0
    speed_ms = 0.0
    for row in rows:
        tokens, speed_ms = tokens + row.speed_tokens, speed_ms + row.speed_ms
        if row.outcome == "ok":
            served += row.requests
        elif row.outcome in _FAILURES and row.error_type != _CALLERS_FAULT:
            failed += row.requests
    return ModelQuality(
        requests=served + failed,
        error_share=failed / (served + failed) if served + failed else None,
        ttft_ms=_make_latencies(first_tokens),
        tokens_per_second=round(tokens / speed_ms * 1000, 2) if speed_ms else None,
    )


def _make_latencies(histogram: Counter[int]) -> Latencies | None:
    values = [value for value in histogram_quantiles_ms(histogram, _QUANTILES) if value is not None]
    return Latencies(*(float(f"{value:.5g}") for value in values)) if values else None


def get_quality(provider_name: str, model_id: str) -> ModelQuality:
    """Returns the quality of a provider's model in the last half hour, from memory.

    Args:
        provider_name: the provider's name.
        model_id: the model's id in the provider's list.

    Returns:
        UNKNOWN if it was not used in that time, or if the database has not answered for five minutes.
    """
    return get_component(Quality).get(provider_name, model_id)


def start_quality() -> None:
    """Starts reading the quality of models in the background. Called once per worker."""
    get_component(Quality).start()
