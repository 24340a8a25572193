"""The catalog as response bodies: filtered, encoded, cached while they are current, and gzipped on request."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import msgspec

from app.config import ALL_GATEWAYS
from app.runtime import Component, Runtime, get_component
from app.services.models.catalog import get_catalog_states, get_model_lists
from app.services.models.entry import Model
from app.services.models.model_list import ModelList
from app.services.providers import PROVIDERS, Provider, get_configured_providers

# A thousand models, the most on a page, are 0.7 MB, and all 22,000 for SDKs 6 MB, or 12 MB with their aliases. This is
# enough for the few lists that clients request repeatedly, and limits the memory that a caller can occupy by varying
# the query.
_MAX_KEPT_BYTES = 32 << 20

# Level 1 compresses a list of 300 in 1 ms to an eighth; level 6 takes three times as long for a tenth.
_GZIP_LEVEL = 1


class ListQuery(NamedTuple):
    """A query for models.

    Attributes:
        gateway: the name of the provider that serves the models, or ALL_GATEWAYS.
        provider: the publisher of the models, in lower case; empty for all.
        search: words that a model's id, name or description must contain, in lower case.
        limit: the most models to return.
        offset: the number of models to skip at the beginning.
    """

    gateway: str
    provider: str
    search: str
    limit: int
    offset: int


class Rendered:
    """One encoded response body.

    Attributes:
        etag: the validator, as in the header. It is weak if the body also states the list's age, because clients do not
            ask about changes of the age.
        body: JSON.
    """

    def __init__(self, etag: str, body: bytes) -> None:
        self.etag = etag
        self.body = body
        self._gzipped: bytes | None = None

    def get_gzipped(self) -> bytes:
        """Returns the body gzipped; it is compressed at the first call."""
        if self._gzipped is None:
            self._gzipped = gzip.compress(self.body, _GZIP_LEVEL, mtime=0)
        return self._gzipped

    @property
    def size(self) -> int:
        """The bytes that it occupies; the compressed form counts as a quarter."""
        return len(self.body) + len(self.body) // 4


class RenderedCache(Component):
    """A cache of rendered bodies by query, each with the state of the lists from which it was made."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._kept: OrderedDict[Hashable, tuple[Hashable, Rendered]] = OrderedDict()
        self._bytes = 0

    def get(self, asked: Hashable, state: Hashable, render: Callable[[], Rendered]) -> Rendered:
        """Returns the cached body if it has this state, or else a new one, which is cached."""
        kept = self._kept.get(asked)
        if kept is not None and kept[0] == state:
            self._kept.move_to_end(asked)
            return kept[1]
        rendered = render()
        self._drop(asked)
        self._kept[asked] = (state, rendered)
        self._bytes += rendered.size
        while self._bytes > _MAX_KEPT_BYTES:
            self._drop(next(iter(self._kept)))
        return rendered

    def _drop(self, asked: Hashable) -> None:
        kept = self._kept.pop(asked, None)
        if kept is not None:
            self._bytes -= kept[1].size


class Lists(NamedTuple):
    """The lists for a body, and their ages."""

    available: Sequence[tuple[Provider, ModelList]]
    missing: tuple[str, ...]
    age_s: int
    stale: bool

    @property
    def state(self) -> Hashable:
        """A value that changes with every change in the body except the age."""
        return tuple(model_list.version for _, model_list in self.available), self.missing, self.stale


def render_list(query: ListQuery) -> Rendered:
    """Returns `{"data", "total", "returned", "offset", "limit", "gateway", "fetched_at", "age_s", "stale", …}`.

    Raises:
        ConfigurationMissing: the gateway's key is not set.
        Unavailable: there is no list.
    """
    lists = get_lists(query.gateway)
    # The body states the age in whole seconds, so it is current for a second.
    state = (lists.state, lists.age_s, int(time.time()))
    return get_component(RenderedCache).get(query, state, lambda: _render_list(query, lists))


def _render_list(query: ListQuery, lists: Lists) -> Rendered:
    found = [model for _, model_list in lists.available for model in _filter(model_list, query)]
    page = found[query.offset : query.offset + query.limit]
    body: dict[str, Any] = {
        "data": page,
        "total": len(found),
        "returned": len(page),
        "offset": query.offset,
        "limit": query.limit,
        "gateway": query.gateway,
        **_make_times(lists),
    }
    return Rendered(f'W/"{make_digest(query, lists.state)}"', msgspec.json.encode(body))


def make_digest(*parts: Hashable) -> str:
    """Returns a digest of values, for a validator."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()


def _filter(model_list: ModelList, query: ListQuery) -> Sequence[Model]:
    chosen = model_list.search(query.search) if query.search else model_list
    if not query.provider:
        return chosen
    return [model for model in chosen if model.provider_slug.lower() == query.provider]


def _make_times(lists: Lists) -> dict[str, Any]:
    """Returns the time of the lists' fetch and their age; of several lists, the oldest."""
    now = datetime.datetime.now(datetime.UTC)
    times: dict[str, Any] = {
        "fetched_at": _to_text(min(model_list.fetched_at for _, model_list in lists.available)),
        "age_s": lists.age_s,
        "stale": lists.stale,
        "timestamp": _to_text(now),
    }
    return times | ({"unavailable": lists.missing} if lists.missing else {})


def make_times(providers: Sequence[Provider]) -> dict[str, Any]:
    """Returns `{"fetched_at", "age_s", "stale", "timestamp"}` of these providers' lists; of several, the oldest.

    Raises:
        ConfigurationMissing: the key of one is not set.
        Unavailable: there is no list.
    """
    return _make_times(_get_lists_of(providers))


def _to_text(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def get_lists(gateway: str) -> Lists:
    """Returns the lists of one provider, or of all that are configured.

    Raises:
        ConfigurationMissing: the key of one is not set.
        Unavailable: there is no list.
    """
    return _get_lists_of(get_configured_providers() if gateway == ALL_GATEWAYS else [PROVIDERS[gateway]])


def _get_lists_of(asked: Sequence[Provider]) -> Lists:
    available, error = get_model_lists(asked)
    if error is not None and not available:
        raise error
    states = get_catalog_states()
    ages_s = [states[provider.name].age_s or 0.0 for provider, _ in available]
    names = {provider.name for provider, _ in available}
    return Lists(
        available=available,
        missing=tuple(provider.name for provider in asked if provider.name not in names),
        age_s=int(max(ages_s)),
        stale=any(states[name].stale for name in names),
    )


def render_model(provider: Provider, model: Model) -> Rendered:
    """Returns `{"data": entry, "gateway", "fetched_at", "age_s", "stale", "timestamp"}`."""
    lists = get_lists(provider.name)
    body = {"data": model, "gateway": provider.name, **_make_times(lists)}
    return Rendered(f'W/"{make_digest(model.id, lists.state)}"', msgspec.json.encode(body))
