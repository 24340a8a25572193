"""The catalog of this process: every provider's list of models.

`fetch_` functions send requests to the provider, `get_` functions return data that this process holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import msgspec

from app.errors import Unavailable
from app.runtime import Component, Runtime, get_component
from app.services.models.cache import Catalog
from app.services.models.equivalents import Equivalents, Served, make_equivalents
from app.services.models.model_list import ModelList
from app.services.providers import PROVIDERS, Provider, get_client, is_configured


class CatalogState(msgspec.Struct, frozen=True):
    """The state of one provider's list.

    Attributes:
        models: how many it has; 0 without a list.
        age_s: seconds since it was fetched; None without a list.
        stale: whether it is older than its TTL, or missing.
        error: why the last fetch failed; None if it did not.
    """

    models: int
    age_s: float | None
    stale: bool
    error: str | None


class Catalogs(Component):
    """The cached lists of this process, one for each provider."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._catalogs = {
            provider.name: Catalog(provider, runtime, self._find_equivalents) for provider in PROVIDERS.values()
        }
        self._equivalents: Equivalents = {}
        self._equivalents_lock = Lock()

    def close(self) -> None:
        """Discards all lists; the results of fetches in progress will be ignored."""
        for catalog in self._catalogs.values():
            catalog.close()

    def abandon(self) -> None:
        """Discards all lists in a forked child."""
        for catalog in self._catalogs.values():
            catalog.abandon()

    def get_catalog(self, provider: Provider) -> Catalog:
        """Returns the cached list of a provider."""
        return self._catalogs[provider.name]

    def get_equivalents(self, provider: Provider, model_id: str) -> tuple[Served, ...]:
        """Returns the models that are the same as this one; see the function `get_equivalents`."""
        same = self._equivalents.get((provider.name, model_id), ())
        return tuple(served for served in same if served.model.id != model_id or served.provider is not provider)

    def _find_equivalents(self) -> None:
        """Finds the equivalents again after a list has changed. Several changes run in turn, and the last one wins."""
        with self._equivalents_lock:
            lists = [(each.provider, each.cache["data"]) for each in self._catalogs.values()]
            self._equivalents = make_equivalents([(each, models) for each, models in lists if models is not None])

    def get_generation(self) -> int:
        """Returns a number that changes whenever any list does."""
        return sum(catalog.generation for catalog in self._catalogs.values())


def get_catalog(provider: Provider) -> Catalog:
    """Returns this process's cached list of a provider."""
    return get_component(Catalogs).get_catalog(provider)


def get_model_list(provider: Provider) -> ModelList:
    """Returns a provider's list. A process without one waits for it, for a few seconds.

    Raises:
        ConfigurationMissing: the provider's key is not set.
        Unavailable: there is no list.
    """
    get_client(provider)  # Raises if the key is not set.
    return get_catalog(provider).get()


def get_model_lists(
    providers: Sequence[Provider],
) -> tuple[list[tuple[Provider, ModelList]], Unavailable | None]:
    """Returns the lists of these providers that are available, and the error of one that is not.

    Raises:
        ConfigurationMissing: the key of one is not set.
    """
    for provider in providers:
        peek_model_list(provider)  # All missing lists are fetched at the same time, so the waits below overlap.
    available: list[tuple[Provider, ModelList]] = []
    missing: Unavailable | None = None
    for provider in providers:
        try:
            available.append((provider, get_model_list(provider)))
        except Unavailable as error:
            missing = error
    return available, missing


def peek_model_list(provider: Provider) -> ModelList | None:
    """Returns a provider's list if this process has one, and starts a refresh if one is due; never waits."""
    return get_catalog(provider).peek() if is_configured(provider) else None


def get_equivalents(provider: Provider, model_id: str) -> tuple[Served, ...]:
    """Returns the models that are the same as a provider's model, in the order of the providers, without itself.

    They come from the lists of all configured providers as of a moment ago: after a list has changed, the equivalents
    are found again in the background.

    Args:
        provider: the provider that serves the model.
        model_id: its id there.

    Returns:
        One entry for each other listing; none if no other provider serves it, or if that is in doubt. A provider that
        lists a model twice, for instance with and without confidential computing, has two.
    """
    return get_component(Catalogs).get_equivalents(provider, model_id)


def refresh_if_due() -> None:
    """Starts fetching, in the background, each configured provider's list that is missing or older than its TTL."""
    for provider in PROVIDERS.values():
        peek_model_list(provider)


def fetch_for_unknown(providers: Sequence[Provider]) -> bool:
    """Fetches these providers' lists again for a name that none contains, each at most once a minute.

    Returns:
        Whether any was fetched, so that another lookup makes sense.
    """
    fetched = [get_catalog(provider).fetch_for_unknown() for provider in providers]
    return any(fetched)


def get_catalog_states() -> dict[str, CatalogState]:
    """Returns the state of the list of each configured provider, by the provider's name."""
    return {name: _make_state(get_catalog(provider)) for name, provider in PROVIDERS.items() if is_configured(provider)}


def _make_state(catalog: Catalog) -> CatalogState:
    data, error = catalog.cache["data"], catalog.last_error
    return CatalogState(
        models=0 if data is None else len(data),
        age_s=catalog.age_s,
        stale=catalog.is_stale,
        error=None if error is None else error.message,
    )
