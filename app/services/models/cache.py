"""One provider's list in this process: when it is fetched, and which callers wait for it.

Within the TTL no request is sent to the provider. After it the old list is served while one refresh runs in the
background; if that fails, the old list is kept and the next attempt backs off. Callers wait only in a process that has
no list yet; they share one fetch, and their wait is bounded.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import cache
from threading import Event, Lock, Thread
from typing import Any

from app.errors import GatewayError, Unavailable, UpstreamError
from app.logs import log_event
from app.runtime import Runtime
from app.services.models.loading import load_model_list
from app.services.models.model_list import ModelList
from app.services.pricing import Prices
from app.services.providers import Provider, ProviderClients
from app.upstream import UpstreamClient

TTL_S = 1800

# The workers of one machine load their lists at the same moment, so these also expire together. Each worker waits a
# random part of this before it refreshes, and serves the old list meanwhile.
REFRESH_SPREAD_S = 10.0

# How long callers wait for a process's first list: longer than a healthy provider takes (0.3 s; Featherless' pages take
# longer and are loaded in the background), but shorter than the patience of a person or a load balancer.
COLD_WAIT_S = 3.0

# (first, longest) pause after failures, in seconds; each failure doubles it. A process without a list retries sooner,
# because its callers get errors; one with an old list has time.
BACKOFF_COLD_S = (5.0, 60.0)
BACKOFF_WARM_S = (60.0, 900.0)

# A name that no list contains may belong to a new model, so the list is fetched again. Without this pause, callers with
# unknown names would determine how often that happens.
UNKNOWN_NAME_PAUSE_S = 60.0


@cache
def get_cache(provider_name: str) -> dict[str, Any]:
    """Returns the dict that holds a provider's list: `data`, `timestamp` and `ttl`; see `Catalog.cache`.

    Each provider has one for the lifetime of the process, shared by successive runtimes, because the documented
    `_fireworks_models_cache` is imported by name and must always be the one in use.
    """
    return {"data": None, "timestamp": None, "ttl": TTL_S}


class Fetch:
    """A fetch in progress.

    Attributes:
        done: set when the fetch has ended.
        started_s: when it began, on the monotonic clock.
        error: the error of the fetch; None while it runs or if it succeeded.
    """

    def __init__(self) -> None:
        self.done = Event()
        self.started_s = time.monotonic()
        self.error: GatewayError | None = None


class Catalog:
    """One provider's cached list.

    Args:
        provider: the provider of the list.
        runtime: supplies the client that fetches it, and the prices in it.
        on_change: called after each new list, in the background.

    Attributes:
        cache: `data` is the `ModelList` (None before the first), `timestamp` when it was fetched, in seconds on the
            monotonic clock, which does not jump when the system time is changed, and `ttl` in seconds. The time of day
            is `data.fetched_at`.
        generation: the number of lists so far; after a change, results from the old list may be outdated.
        last_error: the error of the last fetch; None if it succeeded.
        fetch_under_way: the fetch in progress, or None.
    """

    def __init__(self, provider: Provider, runtime: Runtime, on_change: Callable[[], None]) -> None:
        self.provider = provider
        self._on_change = on_change
        self.cache = get_cache(provider.name)
        self.cache.update(data=None, timestamp=None)
        self.generation = 0
        self.last_error: GatewayError | None = None
        self.fetch_under_way: Fetch | None = None
        self._clients = runtime.get(ProviderClients)
        self._prices = runtime.get(Prices)
        self._lock = Lock()
        self._closed = Event()
        self._failures = 0
        self._next_try_s = 0.0
        self._last_try_s = float("-inf")

    def close(self) -> None:
        """Discards the list; the result of a fetch in progress will be ignored."""
        with self._lock:
            self._closed.set()
            self.abandon()

    def abandon(self) -> None:
        """Discards the list without the lock, which a thread of the parent process may have held."""
        self.cache.update(data=None, timestamp=None)

    @property
    def age_s(self) -> float | None:
        """Seconds since the list was fetched; None without one."""
        timestamp = self.cache["timestamp"]
        return None if timestamp is None or self.cache["data"] is None else time.monotonic() - timestamp

    @property
    def is_stale(self) -> bool:
        """Whether the list is older than its TTL."""
        age_s = self.age_s
        return age_s is None or age_s >= self.cache["ttl"]

    def peek(self) -> ModelList | None:
        """Returns the current list, however old, or None; starts a refresh if one is due, and never waits."""
        if self._is_refresh_due():
            with self._lock:
                # Checked again, because a complete refresh may have happened during the wait for the lock.
                if self._is_refresh_due():
                    self._start(0.0 if self.cache["data"] is None else random.uniform(0, REFRESH_SPREAD_S))
        found: ModelList | None = self.cache["data"]
        return found

    def _is_refresh_due(self) -> bool:
        return self.is_stale and self.fetch_under_way is None and self._may_try()

    def _may_try(self) -> bool:
        return time.monotonic() >= self._next_try_s

    def get(self) -> ModelList:
        """Returns the list; without one, waits for the fetch in progress, at most until COLD_WAIT_S after its start.

        Raises:
            Unavailable: there is no list yet; `retry_after_s` is the time until the next attempt.
        """
        found = self.peek()
        under_way = self.fetch_under_way
        if found is None and under_way is not None:
            under_way.done.wait(max(0.0, under_way.started_s + COLD_WAIT_S - time.monotonic()))
            found = self.cache["data"]
        if found is None:
            raise self._make_unavailable()
        return found

    def _make_unavailable(self) -> Unavailable:
        retry_after_s = max(1.0, self._next_try_s - time.monotonic())
        error = self.last_error
        why = "is still being loaded." if error is None else f"could not be loaded: {error.message}"
        return Unavailable(
            f"The model list of {self.provider.title} {why} Retry in {retry_after_s:.0f} s.",
            code="catalog_unavailable",
            retry_after_s=retry_after_s,
        )

    def fetch(self) -> ModelList:
        """Fetches the list now, or joins a fetch in progress, and waits for its end.

        Raises:
            GatewayError: the fetch failed; the old list is kept.
        """
        with self._lock:
            under_way = self.fetch_under_way or self._start(0.0)
        under_way.done.wait()
        if under_way.error is not None:
            raise under_way.error
        fetched: ModelList | None = self.cache["data"]
        if fetched is None:  # The catalog was closed in the meantime.
            raise self._make_unavailable()
        return fetched

    def fetch_for_unknown(self) -> bool:
        """Fetches the list again for a name that is not in it, at most once a minute; waits up to COLD_WAIT_S.

        Returns:
            Whether a fetch has ended in that time, so that another lookup makes sense.
        """
        with self._lock:
            pause_is_over = time.monotonic() - self._last_try_s >= UNKNOWN_NAME_PAUSE_S
            if self.provider.is_paged or not pause_is_over or self.fetch_under_way or not self._may_try():
                return False
            under_way = self._start(0.0)
        return under_way.done.wait(COLD_WAIT_S)

    def _start(self, delay_s: float) -> Fetch:
        """Starts a fetch in the background. The caller holds the lock and has checked that none is in progress."""
        fetch = Fetch()
        arguments = (fetch, self._clients.get_client(self.provider), delay_s)
        Thread(target=self._run, args=arguments, daemon=True, name=f"catalog-{self.provider.name}").start()
        self.fetch_under_way, self._last_try_s = fetch, fetch.started_s
        return fetch

    def _run(self, fetch: Fetch, client: UpstreamClient, delay_s: float) -> None:
        if delay_s and self._closed.wait(delay_s):
            fetch.done.set()
            return
        try:
            loaded = load_model_list(self.provider, client, self._prices, self.cache["data"], self.age_s)
        except GatewayError as error:
            self._finish(fetch, None, error)
        except Exception as error:
            # The fetch must end even after an unexpected error, or the list would never be fetched again.
            log_event("catalog_refresh_crashed", level="error", error=error, provider=self.provider.name)
            self._finish(fetch, None, UpstreamError(f"The model list of {self.provider.title} could not be read."))
        else:
            self._finish(fetch, loaded, None)
            if not self._closed.is_set():
                self._on_change()

    def _finish(self, fetch: Fetch, loaded: ModelList | None, error: GatewayError | None) -> None:
        with self._lock:
            fetch.error = error
            self.fetch_under_way = None
            if not self._closed.is_set():
                self.last_error = error
                if error is None:
                    self._keep(loaded)
                else:
                    self._back_off(error)
        fetch.done.set()

    def _keep(self, loaded: ModelList | None) -> None:
        self.cache.update(data=loaded, timestamp=time.monotonic())
        self.generation += 1
        self._failures, self._next_try_s = 0, 0.0

    def _back_off(self, error: GatewayError) -> None:
        first_s, longest_s = BACKOFF_COLD_S if self.cache["data"] is None else BACKOFF_WARM_S
        # The exponent is bounded because a float is not: 2.0 ** 1024 raises.
        pause_s = min(longest_s, first_s * 2 ** min(self._failures, 10))
        self._failures += 1
        self._next_try_s = time.monotonic() + pause_s
        log_event(
            "catalog_refresh_failed",
            level="warning",
            provider=self.provider.name,
            reason=error.message,
            next_try_s=pause_s,
        )
