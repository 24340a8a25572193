"""The catalog's answers as bytes: lists filtered and encoded, kept as long as they are true, packed when asked."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import msgspec

from app.services import models
from app.services.models.entry import Model
from app.services.models.listing import Listing
from app.services.providers.provider import PROVIDERS, Provider

ALL_GATEWAYS = "all"

# A thousand models, the most a page holds, are 0.7 MB, and all 22,000 in OpenAI's form 2.5 MB. This keeps the few
# lists that clients ask for again and again, and bounds what a caller who varies the query can make us hold.
_KEPT_BYTES = 8 << 20

# Level 1 packs a list of 300 in 1 ms to an eighth; level 6 takes three times as long for a tenth.
_GZIP_LEVEL = 1


class Query(NamedTuple):
    """What is asked of the list: `gateway` a provider's name or `all`, `provider` the publisher, and a page."""

    gateway: str
    provider: str
    search: str
    limit: int
    offset: int


class Rendered:
    """One encoded answer.

    Attributes:
        etag: the validator as it stands in the header; weak where the body also tells the list's age, which a client
            that asks for changes does not mean.
        body: JSON.
    """

    def __init__(self, etag: str, body: bytes) -> None:
        self.etag = etag
        self.body = body
        self._packed: bytes | None = None

    def get_packed(self) -> bytes:
        """Returns the body in gzip, packed once."""
        if self._packed is None:
            self._packed = gzip.compress(self.body, _GZIP_LEVEL, mtime=0)
        return self._packed

    @property
    def size(self) -> int:
        """The bytes it takes, the packed form counted as a quarter."""
        return len(self.body) + len(self.body) // 4


class _Kept:
    """Rendered answers by what was asked, each with the state of the lists for which it is true."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Hashable, tuple[Hashable, Rendered]] = OrderedDict()
        self._bytes = 0

    def get(self, asked: Hashable, state: Hashable, render: Callable[[], Rendered]) -> Rendered:
        """Returns the kept answer if it is still true, else a new one, which it keeps."""
        kept = self._answers.get(asked)
        if kept is not None and kept[0] == state:
            self._answers.move_to_end(asked)
            return kept[1]
        answer = render()
        self._drop(asked)
        self._answers[asked] = (state, answer)
        self._bytes += answer.size
        while self._bytes > _KEPT_BYTES:
            self._drop(next(iter(self._answers)))
        return answer

    def _drop(self, asked: Hashable) -> None:
        kept = self._answers.pop(asked, None)
        if kept is not None:
            self._bytes -= kept[1].size


_kept = _Kept()


class _Lists(NamedTuple):
    """The lists that an answer is made from, and how old they are."""

    listings: Sequence[tuple[Provider, Listing]]
    missing: tuple[str, ...]
    age_s: int
    stale: bool

    @property
    def said(self) -> Hashable:
        """Changes with whatever the answer says except its age."""
        return tuple(listing.version for _, listing in self.listings), self.missing, self.stale


def render_list(query: Query) -> Rendered:
    """Returns `{"data", "total", "returned", "offset", "limit", "gateway", "fetched_at", "age_s", "stale", …}`.

    Raises:
        ConfigurationMissing: the gateway's key is not set.
        Unavailable: there is no list.
    """
    lists = _get_lists(query.gateway)
    # The body tells the age in whole seconds, so an answer is true for a second.
    state = (lists.said, lists.age_s, int(time.time()))
    return _kept.get(query, state, lambda: _render_list(query, lists))


def _render_list(query: Query, lists: _Lists) -> Rendered:
    found = [model for _, listing in lists.listings for model in _select(listing, query)]
    page = found[query.offset : query.offset + query.limit]
    body: dict[str, Any] = {
        "data": page,
        "total": len(found),
        "returned": len(page),
        "offset": query.offset,
        "limit": query.limit,
        "gateway": query.gateway,
        **_moment(lists),
    }
    return Rendered(f'W/"{_digest(query, lists.said)}"', msgspec.json.encode(body))


def _digest(*said: Hashable) -> str:
    return hashlib.blake2b(repr(said).encode(), digest_size=12).hexdigest()


def _select(listing: Listing, query: Query) -> Sequence[Model]:
    chosen = listing.search(query.search) if query.search else listing
    if not query.provider:
        return chosen
    return [model for model in chosen if model.provider_slug.lower() == query.provider]


def _moment(lists: _Lists) -> dict[str, Any]:
    """Returns when the lists were fetched and how old they are; the oldest speaks for several."""
    now = datetime.datetime.now(datetime.UTC)
    moment: dict[str, Any] = {
        "fetched_at": _text(min(listing.fetched_at for _, listing in lists.listings)),
        "age_s": lists.age_s,
        "stale": lists.stale,
        "timestamp": _text(now),
    }
    return moment | ({"unavailable": lists.missing} if lists.missing else {})


def _text(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _get_lists(gateway: str) -> _Lists:
    on = models.get_providers_on() if gateway == ALL_GATEWAYS else [PROVIDERS[gateway]]
    listings, error = models.get_listings(on)
    if error is not None and not listings:
        raise error
    states = models.get_catalog_ages()
    ages_s = [states[provider.name].age_s or 0.0 for provider, _ in listings]
    had = {provider.name for provider, _ in listings}
    return _Lists(
        listings=listings,
        missing=tuple(provider.name for provider in on if provider.name not in had),
        age_s=int(max(ages_s)),
        stale=any(states[name].stale for name in had),
    )


def render_model(provider: Provider, model: Model) -> Rendered:
    """Returns `{"data": entry, "gateway", "fetched_at", "age_s", "stale", "timestamp"}`."""
    lists = _get_lists(provider.name)
    body = {"data": model, "gateway": provider.name, **_moment(lists)}
    return Rendered(f'W/"{_digest(model.id, lists.said)}"', msgspec.json.encode(body))


def render_openai_list() -> Rendered:
    """Returns all models of all providers that are on in OpenAI's form, each under a name that can be sent as it is.

    A model that several providers serve is there once for each, as `<provider>/<id>`: its bare id would not say which.

    Raises:
        ConfigurationMissing: no provider is on.
        Unavailable: there is no list.
    """
    lists = _get_lists(ALL_GATEWAYS)
    return _kept.get("openai", lists.said, lambda: _render_openai_list(lists))


def _render_openai_list(lists: _Lists) -> Rendered:
    times = Counter(model.id for _, listing in lists.listings for model in listing)
    data = [
        to_openai(model, model.id if times[model.id] == 1 else f"{provider.name}/{model.id}")
        for provider, listing in lists.listings
        for model in listing
    ]
    return Rendered(f'"{_digest(lists.said)}"', msgspec.json.encode({"object": "list", "data": data}))


def to_openai(model: Model, name: str) -> dict[str, Any]:
    """Returns OpenAI's form of a model. `created` is 0 where unknown: that form has no null, and its SDKs insist."""
    return {"id": name, "object": "model", "created": model.created or 0, "owned_by": model.provider_slug}
