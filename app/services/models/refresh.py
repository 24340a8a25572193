"""One provider's list in this process: when it is fetched, who waits for it, and what may replace it.

Within the TTL nothing goes upstream. After it the old list is served while one refresh runs in the background; when
that fails, the old list stays and the next try backs off. Only a process without any list lets its callers wait,
together, for a bounded time.
"""

from __future__ import annotations

import datetime
import random
import time
from threading import Event, Lock, Thread
from typing import Any

from app.errors import GatewayError, Unavailable, UpstreamError
from app.logs import log_event
from app.services.models.entry import Model, Packer
from app.services.models.listing import Listing
from app.services.models.prices import get_carried_prices
from app.services.models.sources import Source, fetch_models
from app.services.pricing import lookup as pricing
from app.services.providers.provider import Provider, get_client
from app.upstream import UpstreamClient
from app.yielding import with_pauses

TTL_S = 1800

# The workers of one machine load their lists at the same moment, so they also expire together; each waits a random
# part of this before it asks, which nobody notices, since the old list is being served.
REFRESH_SPREAD_S = 10.0

# How long callers wait for a process's first list: longer than a healthy provider takes (0.3 s; Featherless' pages
# take longer and come in the background), shorter than a person or a load balancer gives up.
COLD_WAIT_S = 3.0

# (first, longest) pause after failures, in seconds; each failure doubles it. A process without a list tries sooner,
# since its callers are refused; one with an old list has time.
BACKOFF_COLD_S = (5.0, 60.0)
BACKOFF_WARM_S = (60.0, 900.0)

# A list of less than half its former length is a provider's accident, until it has stayed so for a day.
SHRUNK_SHARE = 0.5
SHRUNK_BELIEVED_AFTER_S = 86_400.0

# A name that no list knows may be that of a new model, and asking again more often than this would let anybody who
# sends nonsense decide how often we ask.
UNKNOWN_NAME_PAUSE_S = 60.0

# The price list is worth a wait, but not one that would make a first caller's list late.
_PRICES_TIMEOUT_COLD_S = 2.0
_PRICES_TIMEOUT_S = 20.0


class _Flight:
    """One fetch that is under way; `error` is set when it failed."""

    def __init__(self) -> None:
        self.done = Event()
        self.started_s = time.monotonic()
        self.error: GatewayError | None = None


class Catalog:
    """One provider's cached list.

    Attributes:
        cache: `data` is the `Listing` (None before the first), `timestamp` its time on the monotonic clock in seconds,
            `ttl` in seconds. Its wall-clock time is `data.fetched_at`.
        generation: how many lists there were; a change means that what was read from the old one may be outdated.
        last_error: why the last fetch failed; None when it did not.
    """

    def __init__(self, provider: Provider, source: Source) -> None:
        self.provider = provider
        self.source = source
        self.cache: dict[str, Any] = {"data": None, "timestamp": None, "ttl": TTL_S}
        self.generation = 0
        self._lock = Lock()
        self.reset()

    def reset(self) -> None:
        """Forgets the list and all failures; a fetch still under way will be ignored."""
        with self._lock:
            self.cache.update(data=None, timestamp=None)
            self.generation += 1
            self.last_error: GatewayError | None = None
            self._flight: _Flight | None = None
            self._failures = 0
            self._next_try_s = 0.0
            self._last_try_s = float("-inf")

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

    def peek(self) -> Listing | None:
        """Returns the list that is here, however old, or None; starts a refresh when one is due, and never waits."""
        if self.is_stale and self._flight is None and self._may_try():
            with self._lock:
                # Looked at again, because a whole refresh may have come and gone while we waited for the lock.
                if self.is_stale and self._flight is None and self._may_try():
                    self._start(0.0 if self.cache["data"] is None else random.uniform(0, REFRESH_SPREAD_S))
        listing: Listing | None = self.cache["data"]
        return listing

    def _may_try(self) -> bool:
        return time.monotonic() >= self._next_try_s

    def get(self) -> Listing:
        """Returns the list; without one, waits for the fetch under way, at most until COLD_WAIT_S after its start.

        Raises:
            Unavailable: there is none yet; `retry_after_s` is when the next try is due.
        """
        listing = self.peek()
        flight = self._flight
        if listing is None and flight is not None:
            flight.done.wait(max(0.0, flight.started_s + COLD_WAIT_S - time.monotonic()))
            listing = self.cache["data"]
        if listing is None:
            raise self._unavailable()
        return listing

    def _unavailable(self) -> Unavailable:
        retry_after_s = max(1.0, self._next_try_s - time.monotonic())
        error = self.last_error
        why = "is still being loaded." if error is None else f"could not be loaded: {error.message}"
        return Unavailable(
            f"The model list of {self.provider.title} {why} Retry in {retry_after_s:.0f} s.",
            code="catalog_unavailable",
            retry_after_s=retry_after_s,
        )

    def fetch(self) -> Listing:
        """Fetches the list now, joining a fetch under way, and waits for its end.

        Raises:
            GatewayError: it failed; the list that was here stays.
        """
        with self._lock:
            flight = self._flight or self._start(0.0)
        flight.done.wait()
        if flight.error is not None:
            raise flight.error
        listing: Listing = self.cache["data"]
        return listing

    def fetch_for_unknown(self) -> bool:
        """Fetches the list again for a name that it does not know, at most once a minute; waits up to COLD_WAIT_S.

        Returns:
            Whether a fetch was made, so that looking again makes sense.
        """
        with self._lock:
            pause_is_over = time.monotonic() - self._last_try_s >= UNKNOWN_NAME_PAUSE_S
            if self.source.is_paged or not pause_is_over or self._flight is not None or not self._may_try():
                return False
            flight = self._start(0.0)
        return flight.done.wait(COLD_WAIT_S)

    def _start(self, delay_s: float) -> _Flight:
        """Starts a fetch in the background. The caller holds the lock and has seen that none is under way."""
        flight = _Flight()
        arguments = (flight, get_client(self.provider), delay_s)
        Thread(target=self._run, args=arguments, daemon=True, name=f"catalog-{self.provider.name}").start()
        self._flight, self._last_try_s = flight, flight.started_s
        return flight

    def _run(self, flight: _Flight, client: UpstreamClient, delay_s: float) -> None:
        time.sleep(delay_s)
        try:
            listing = self._load(client)
        except GatewayError as error:
            self._land(flight, None, error)
        except Exception as error:
            # Whatever a strange list breaks, the flight must end, or no list would ever be fetched again.
            log_event("catalog refresh broke", level="error", error=error, provider=self.provider.name)
            self._land(flight, None, UpstreamError(f"The model list of {self.provider.title} could not be read."))
        else:
            self._land(flight, listing, None)

    def _load(self, client: UpstreamClient) -> Listing:
        started_s, packer = time.monotonic(), Packer()
        models = fetch_models(client, self.source, packer)
        self._check_length(len(models))
        self._set_prices(client, models)
        name = self.provider.name
        priced = [packer.priced(model, pricing.get_price(name, model.id)) for model in with_pauses(models)]
        listing = Listing(priced, self.source.naming)
        duration_s = round(time.monotonic() - started_s, 3)
        log_event("catalog loaded", provider=name, models=len(listing), duration_s=duration_s)
        return listing

    def _check_length(self, length: int) -> None:
        if length == 0:
            raise UpstreamError(f"The model list of {self.provider.title} is empty.")
        old, age_s = self.cache["data"], self.age_s
        if old is None or age_s is None or age_s > SHRUNK_BELIEVED_AFTER_S:
            return
        if length < len(old) * SHRUNK_SHARE:
            raise UpstreamError(f"{self.provider.title} lists {length} models where it listed {len(old)}.")

    def _set_prices(self, client: UpstreamClient, models: list[Model]) -> None:
        if self.source.fetch_prices is None:
            today = datetime.datetime.now(datetime.UTC).date()
            pricing.set_listed_prices(self.provider.name, get_carried_prices(models, today))
            return
        timeout_s = _PRICES_TIMEOUT_COLD_S if self.cache["data"] is None else _PRICES_TIMEOUT_S
        try:
            pricing.set_listed_prices(self.provider.name, self.source.fetch_prices(client, timeout_s))
        except GatewayError as error:
            # A list without new prices is better than no list; the prices that were here stay.
            log_event("price list failed", level="warning", provider=self.provider.name, why=error.message)

    def _land(self, flight: _Flight, listing: Listing | None, error: GatewayError | None) -> None:
        with self._lock:
            flight.error = error
            if self._flight is flight:
                self._flight = None
                self._take(listing, error)
        flight.done.set()

    def _take(self, listing: Listing | None, error: GatewayError | None) -> None:
        self.last_error = error
        if error is None:
            self.cache.update(data=listing, timestamp=time.monotonic())
            self.generation += 1
            self._failures, self._next_try_s = 0, 0.0
            return
        first_s, longest_s = BACKOFF_COLD_S if self.cache["data"] is None else BACKOFF_WARM_S
        # The exponent is bounded because a float is not: 2.0 ** 1024 raises.
        pause_s = min(longest_s, first_s * 2 ** min(self._failures, 10))
        self._failures += 1
        self._next_try_s = time.monotonic() + pause_s
        log_event(
            "catalog refresh failed",
            level="warning",
            provider=self.provider.name,
            why=error.message,
            next_try_s=pause_s,
        )
