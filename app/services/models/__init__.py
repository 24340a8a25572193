"""The model catalog: what each provider serves, cached in this process for 30 minutes.

`fetch_` functions go to the provider, `get_` functions answer from what this process holds. All of it works in a
plain Python program too; nothing here needs Flask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from app.errors import ConfigurationMissing, Unavailable
from app.services.models.entry import Model
from app.services.models.listing import Listing
from app.services.models.normalize import (
    Entry,
    normalize_chutes_model,
    normalize_deepinfra_model,
    normalize_featherless_model,
    normalize_fireworks_model,
)
from app.services.models.refresh import Catalog
from app.services.models.sources import SOURCES
from app.services.providers.provider import FIREWORKS, PROVIDERS, Provider, get_client, is_on

__all__ = [
    "CatalogState",
    "Listing",
    "Model",
    "fetch_for_unknown",
    "fetch_models_from_fireworks",
    "fetch_specific_model_from_fireworks",
    "forget_catalogs",
    "get_catalog_ages",
    "get_generation",
    "get_listing",
    "get_listings",
    "get_providers_on",
    "normalize_chutes_model",
    "normalize_deepinfra_model",
    "normalize_featherless_model",
    "normalize_fireworks_model",
    "peek_listing",
    "start_catalogs",
]

_catalogs: Mapping[str, Catalog] = {name: Catalog(PROVIDERS[name], source) for name, source in SOURCES.items()}

# `data` is the list, `timestamp` its time on the monotonic clock, so that no clock change can make it older or newer.
_fireworks_models_cache = _catalogs["fireworks"].cache


def fetch_models_from_fireworks() -> list[Entry]:
    """Fetches Fireworks' list now and caches it; concurrent callers share one request.

    Returns:
        An entry for each model, as JSON-ready dicts in the form of `entry.Model`.

    Raises:
        ConfigurationMissing: FIREWORKS_API_KEY is not set.
        UpstreamError: one of its subclasses; the list cached before stays.
    """
    get_client(FIREWORKS)
    return [_to_entry(model) for model in _catalogs["fireworks"].fetch()]


def fetch_specific_model_from_fireworks(provider_name: str, model_name: str | None = None) -> Entry | None:
    """Returns one Fireworks model's entry, or None when there is none of that name.

    Answered from the cached list; a list that does not know the name is fetched again, at most once a minute.

    Args:
        provider_name: the model's name in any form (`accounts/fireworks/models/x`, `fireworks/x`, `x`), or only what
            stands before its last slash.
        model_name: what stands after it.

    Raises:
        ConfigurationMissing: FIREWORKS_API_KEY is not set.
        Unavailable: there is no list and none can be had now.
    """
    name = provider_name if model_name is None else f"{provider_name}/{model_name}"
    found = get_listing(FIREWORKS).find(name)
    if not found and fetch_for_unknown([FIREWORKS]):
        found = get_listing(FIREWORKS).find(name)
    return _to_entry(found[0]) if len(found) == 1 else None


def _to_entry(model: Model) -> Entry:
    return msgspec.json.decode(msgspec.json.encode(model), type=dict[str, Any])


def get_providers_on() -> list[Provider]:
    """Returns the providers whose key is set.

    Raises:
        ConfigurationMissing: there is none.
    """
    on = [provider for provider in PROVIDERS.values() if is_on(provider)]
    if not on:
        # The first provider's sentence is the one that the documentation knows.
        raise ConfigurationMissing(f"{FIREWORKS.title} API key not configured", param=FIREWORKS.key_setting)
    return on


def get_listing(provider: Provider) -> Listing:
    """Returns a provider's list, waiting for a process's first one for a few seconds.

    Raises:
        ConfigurationMissing: its key is not set.
        Unavailable: there is none.
    """
    get_client(provider)
    return _catalogs[provider.name].get()


def get_listings(providers: Sequence[Provider]) -> tuple[list[tuple[Provider, Listing]], Unavailable | None]:
    """Returns the lists of these providers that can be had, and the error of one that cannot.

    Raises:
        ConfigurationMissing: the key of one is not set.
    """
    for provider in providers:
        peek_listing(provider)  # All that are missing load side by side, so the waits below are one wait.
    listings: list[tuple[Provider, Listing]] = []
    missing: Unavailable | None = None
    for provider in providers:
        try:
            listings.append((provider, get_listing(provider)))
        except Unavailable as error:
            missing = error
    return listings, missing


def peek_listing(provider: Provider) -> Listing | None:
    """Returns a provider's list if this process has one, and starts a refresh if one is due; never waits."""
    return _catalogs[provider.name].peek() if is_on(provider) else None


def fetch_for_unknown(providers: Sequence[Provider]) -> bool:
    """Fetches these providers' lists again for a name that none knows, each at most once a minute.

    Returns:
        Whether any was fetched, so that looking again makes sense.
    """
    fetched = [_catalogs[provider.name].fetch_for_unknown() for provider in providers]
    return any(fetched)


def start_catalogs() -> None:
    """Starts loading the lists of all providers that are on, in the background: a worker calls it at boot."""
    for provider in PROVIDERS.values():
        peek_listing(provider)


def forget_catalogs() -> None:
    """Forgets all lists: for a process whose settings changed, as tests' do."""
    for catalog in _catalogs.values():
        catalog.reset()


def get_generation() -> int:
    """Returns a number that changes whenever any list does."""
    return sum(catalog.generation for catalog in _catalogs.values())


class CatalogState(msgspec.Struct, frozen=True):
    """How a provider's list is: `age_s` is None without one, `error` None where the last fetch was good."""

    models: int
    age_s: float | None
    stale: bool
    error: str | None


def get_catalog_ages() -> dict[str, CatalogState]:
    """Returns the state of the list of each provider that is on."""
    return {name: _state(_catalogs[name]) for name, provider in PROVIDERS.items() if is_on(provider)}


def _state(catalog: Catalog) -> CatalogState:
    data, error = catalog.cache["data"], catalog.last_error
    return CatalogState(
        models=0 if data is None else len(data),
        age_s=catalog.age_s,
        stale=catalog.is_stale,
        error=None if error is None else error.message,
    )
