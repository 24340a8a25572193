"""One provider's list in this process: when it is fetched, and who waits for it.

Within the TTL nothing goes upstream. After it the old list is served while one refresh runs in the background; when
that fails, the old list stays and the next try backs off. Callers wait only in a process that has no list yet; they
wait together, for a bounded time.
"""

from __future__ import annotations

import random
import time
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

# The workers of one machine load their lists at the same moment, so they also expire together. Each waits a random
# part of this before it asks, while the old list is served.
REFRESH_SPREAD_S = 10.0

# How long callers wait for a process's first list: longer than a healthy provider takes (0.3 s; Featherless' pages
# take longer and come in the background), shorter than a person or a load balancer gives up.
COLD_WAIT_S = 3.0

# (first, longest) pause after failures, in seconds; each failure doubles it. A process without a list tries sooner,
# since its callers are refused; one with an old list has time.
BACKOFF_COLD_S = (5.0, 60.0)
BACKOFF_WARM_S = (60.0, 900.0)

# A name that no list knows may be that of a new model. Without this pause a caller who sends nonsense would decide how
# often the provider is asked.
UNKNOWN_NAME_PAUSE_S = 60.0


@cache
def get_cache(provider_name: str) -> dict[str, Any]:
    """Returns the dict that holds a provider's list: `data`, `timestamp` and `ttl`; see `Catalog.cache`.

    There is one for each provider as long as the process lives, and runtimes use it one after the other, because the
    documented `_fireworks_models_cache` is imported by name and must always be the live one.
    """
    return {"data": None, "timestamp": None, "ttl": TTL_S}


class Fetch:
    """A fetch that is under way.

    Attributes:
        done: set when it has ended.
        started_s: when it began, on the monotonic clock.
        error: why it failed; None while it runs or where it did not.
    """

    def __init__(self) -> None:
        self.done = Event()
        self.started_s = time.monotonic()
        self.error: GatewayError | None = None


class Catalog:
    """One provider's cached list.

    Args:
        provider: whose list.
        runtime: gives the client that fetches it, and the prices that go into it.

    Attributes:
        cache: `data` is the `ModelList` (None before the first), `timestamp` when it was fetched, in seconds on the
            monotonic clock, so that no change of the clock makes it older or newer, and `ttl` in seconds. The time of
            day is `data.fetched_at`.
        generation: how many lists there were; a change means that what was read from the old one may be outdated.
        last_error: why the last fetch failed; None when it did not.
        fetch_under_way: None while none is.
    """

    def __init__(self, provider: Provider, runtime: Runtime) -> None:
        self.provider = provider
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
        """Forgets the list; a fetch still under way will be ignored."""
        with self._lock:
            self._closed.set()
            self.abandon()

    def abandon(self) -> None:
        """Forgets the list, without the lock, which a thread of the parent process may have held."""
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
        """Returns the list that is here, however old, or None; starts a refresh when one is due, and never waits."""
        if self._is_refresh_due():
            with self._lock:
                # Looked at again, because a whole refresh may have come and gone during the wait for the lock.
                if self._is_refresh_due():
                    self._start(0.0 if self.cache["data"] is None else random.uniform(0, REFRESH_SPREAD_S))
        found: ModelList | None = self.cache["data"]
        return found

    def _is_refresh_due(self) -> bool:
        return self.is_stale and self.fetch_under_way is None and self._may_try()

    def _may_try(self) -> bool:
        return time.monotonic() >= self._next_try_s

    def get(self) -> ModelList:
        """Returns the list; without one, waits for the fetch under way, at most until COLD_WAIT_S after its start.

        Raises:
            Unavailable: there is none yet; `retry_after_s` is when the next try is due.
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
        """Fetches the list now, joining a fetch under way, and waits for its end.

        Raises:
            GatewayError: it failed; the list from before stays.
        """
        with self._lock:
            under_way = self.fetch_under_way or self._start(0.0)
        under_way.done.wait()
        if under_way.error is not None:
            raise under_way.error
        fetched: ModelList | None = self.cache["data"]
        if fetched is None:  # It was closed meanwhile.
            raise self._make_unavailable()
        return fetched

    def fetch_for_unknown(self) -> bool:
        """Fetches the list again for a name that it does not know, at most once a minute; waits up to COLD_WAIT_S.

        Returns:
            Whether a fetch was made, so that looking again makes sense.
        """
        with self._lock:
            pause_is_over = time.monotonic() - self._last_try_s >= UNKNOWN_NAME_PAUSE_S
            if self.provider.is_paged or not pause_is_over or self.fetch_under_way or not self._may_try():
                return False
            under_way = self._start(0.0)
        return under_way.done.wait(COLD_WAIT_S)

    def _start(self, delay_s: float) -> Fetch:
        """Starts a fetch in the background. The caller holds the lock and has seen that none is under way."""
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
            # Whatever a strange list breaks, the fetch must end, or no list would ever be fetched again.
            log_event("catalog_refresh_crashed", level="error", error=error, provider=self.provider.name)
            self._finish(fetch, None, UpstreamError(f"The model list of {self.provider.title} could not be read."))
        else:
            self._finish(fetch, loaded, None)

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
            why=error.message,
            next_try_s=pause_s,
        )
