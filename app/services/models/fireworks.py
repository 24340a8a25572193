"""The documented functions for Fireworks' models. They work in a plain Python program; nothing here needs Flask."""

from __future__ import annotations

from typing import Any

import msgspec

from app.services.models.cache import get_cache
from app.services.models.catalog import fetch_for_unknown, get_catalog, get_model_list
from app.services.models.entry import Model
from app.services.providers import Entry, get_client, get_provider

_FIREWORKS = get_provider("fireworks")

# {"data": the list or None, "timestamp": its time on the monotonic clock in seconds, "ttl": 1800}
_fireworks_models_cache = get_cache(_FIREWORKS.name)


def normalize_fireworks_model(raw: dict[str, Any]) -> Entry:
    """Returns an entry of Fireworks' own list in the catalog's form, a dict with the fields of `Model`."""
    return _FIREWORKS.normalize(raw)


def fetch_models_from_fireworks() -> list[Entry]:
    """Fetches Fireworks' list now and caches it; concurrent callers share one request.

    Returns:
        An entry for each model, as a JSON-ready dict with the fields of `Model`.

    Raises:
        ConfigurationMissing: FIREWORKS_API_KEY is not set.
        UpstreamError: the fetch failed; the old list is kept. The subclass gives the reason.
    """
    get_client(_FIREWORKS)  # Raises if the key is not set.
    return [_to_entry(model) for model in get_catalog(_FIREWORKS).fetch()]


def fetch_specific_model_from_fireworks(provider_name: str, model_name: str | None = None) -> Entry | None:
    """Returns one Fireworks model's entry, or None if no model, or more than one, has that name.

    The entry comes from the cached list. If the name is not in it, the list is fetched again, at most once a minute.

    Args:
        provider_name: the model's name in any form (`accounts/fireworks/models/x`, `fireworks/x`, `x`), or only the
            part before its last slash.
        model_name: the part after it.

    Raises:
        ConfigurationMissing: FIREWORKS_API_KEY is not set.
        Unavailable: there is no list, and none can be fetched now.
    """
    name = provider_name if model_name is None else f"{provider_name}/{model_name}"
    found = get_model_list(_FIREWORKS).find(name)
    if not found and fetch_for_unknown([_FIREWORKS]):
        found = get_model_list(_FIREWORKS).find(name)
    return _to_entry(found[0]) if len(found) == 1 else None


def _to_entry(model: Model) -> Entry:
    return msgspec.json.decode(msgspec.json.encode(model), type=dict[str, Any])
