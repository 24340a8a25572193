"""Which provider serves a model, and under what id: found in the live lists, never guessed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from heapq import nlargest
from typing import NamedTuple

from app.config import Settings
from app.errors import BadRequest, NotFound, Unavailable
from app.runtime import get_settings
from app.services import models
from app.services.models import MAX_MODEL_NAME_CHARACTERS, Model, ModelList
from app.services.providers import (
    PROVIDERS,
    Provider,
    get_client,
    get_configured_providers,
    get_provider,
    is_configured,
)

# Callers choose the names, so what is remembered of them is bounded; a gateway's users use some dozens.
_KEPT_RESOLUTIONS = 4_096

# How often the hot path looks whether a list's TTL has passed.
_POKE_EVERY_S = 1.0

_NAMES_SHOWN = 5


class Resolved(NamedTuple):
    """Who serves the model, and the id to send."""

    provider: Provider
    model_id: str


class _Memory:
    """Resolutions that hold as long as the settings and the lists they were made from."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.generation = -1
        self.resolved: dict[tuple[str, str | None], Resolved] = {}
        self.next_poke_s = 0.0


_memory = _Memory()


def resolve_model(model: str, provider_name: str | None = None) -> Resolved:
    """Returns the provider that serves `model` and the id that it has there.

    An explicit provider decides. Otherwise: a form that only one provider has (`accounts/…` is Fireworks'); then an
    exact id in a list; then the names people write (`deepseek-v3p1`, `fireworks/deepseek-v3p1`,
    `deepseek-ai/DeepSeek-V3.1`), in any case. With a provider's own form it never waits for a list.

    Args:
        model: the request's `model`.
        provider_name: the request's `provider`.

    Raises:
        BadRequest: an unknown provider, or a name that fits several models; the text lists them.
        ConfigurationMissing: the provider's key is not set.
        NotFound: no list has it; the text names the nearest.
        Unavailable: it is in no list that could be had, and one is missing.
    """
    _refresh_memory()
    key = (model, provider_name)
    resolved = _memory.resolved.get(key)
    if resolved is None:
        generation = _memory.generation
        resolved = _resolve(model, provider_name)
        if generation == models.get_generation():
            if len(_memory.resolved) >= _KEPT_RESOLUTIONS:
                _memory.resolved.clear()
            _memory.resolved[key] = resolved
    return resolved


def _refresh_memory() -> None:
    now_s = time.monotonic()
    if now_s >= _memory.next_poke_s:
        _memory.next_poke_s = now_s + _POKE_EVERY_S
        models.refresh_if_due()
    settings, generation = get_settings(), models.get_generation()
    if generation != _memory.generation or settings is not _memory.settings:
        _memory.settings, _memory.generation = settings, generation
        _memory.resolved = {}


def _resolve(model: str, provider_name: str | None) -> Resolved:
    if not 0 < len(model) <= MAX_MODEL_NAME_CHARACTERS:
        raise BadRequest(f"model must have from 1 to {MAX_MODEL_NAME_CHARACTERS} characters.", param="model")
    if provider_name is not None:
        return _resolve_at(get_provider(provider_name), model)
    claimant = next((provider for provider in PROVIDERS.values() if _claims(provider, model)), None)
    if claimant is not None:
        return _resolve_at(claimant, model)
    provider, found = resolve_entry(model, get_configured_providers())
    return Resolved(provider, found.id)


def _claims(provider: Provider, model: str) -> bool:
    naming = provider.naming
    return naming.claims(model) or (naming.claims_if_configured(model) and is_configured(provider))


def _resolve_at(provider: Provider, model: str) -> Resolved:
    """Resolves at one provider, which the caller or the name's form decided."""
    get_client(provider)
    naming = provider.naming
    if naming.claims(model):
        return Resolved(provider, naming.get_canonical_id(model, lambda name: _find_ids(provider, name)))
    if naming.is_unlisted(model):
        return Resolved(provider, model)
    try:
        models.get_model_list(provider)
    except Unavailable:
        return Resolved(provider, model)  # The provider itself knows best while we know nothing.
    return Resolved(provider, resolve_entry(model, [provider])[1].id)


def _find_ids(provider: Provider, name: str) -> list[str]:
    """Returns the ids that a name can mean in the provider's list, if the list is here; never waits for it."""
    model_list = models.peek_model_list(provider)
    return [model.id for model in model_list.find(name)] if model_list is not None else []


ModelLists = Sequence[tuple[Provider, ModelList]]
Found = list[tuple[Provider, Model]]


def resolve_entry(name: str, providers: Sequence[Provider]) -> tuple[Provider, Model]:
    """Returns the one model that `name` means in these providers' lists, and whose list that is.

    Raises:
        BadRequest: it means several; the text lists them.
        NotFound: it means none; the text names the nearest.
        Unavailable: it means none, and some list could not be had.
    """
    model_lists, missing = models.get_model_lists(providers)
    found = _find(name, model_lists)
    if not found and models.fetch_for_unknown(providers):
        model_lists, missing = models.get_model_lists(providers)
        found = _find(name, model_lists)
    if len(found) == 1:
        return found[0]
    if found:
        raise _ambiguous(name, found)
    if missing is not None:
        raise missing
    raise _not_found(name, model_lists)


def _find(name: str, model_lists: ModelLists) -> Found:
    exact = [(provider, model) for provider, model_list in model_lists if (model := model_list.get(name)) is not None]
    named = exact or [(provider, model) for provider, model_list in model_lists for model in model_list.find(name)]
    if named:
        return named
    # `deepinfra/Org/Name` says where to look for `Org/Name`.
    word, _, rest = name.partition("/")
    if word.lower() not in PROVIDERS:
        return []
    return [(at, model) for at, model_list in model_lists if at.name == word.lower() for model in model_list.find(rest)]


def _ambiguous(name: str, found: Found) -> BadRequest:
    shown = "; ".join(f"{provider.name}: {model.id}" for provider, model in found[: 2 * _NAMES_SHOWN])
    return BadRequest(
        f'{name!r} fits several models: {shown}. Send one of these ids and its provider, as in "provider": '
        f'"{found[0][0].name}".',
        param="model",
        code="ambiguous_model",
    )


def _not_found(name: str, model_lists: ModelLists) -> NotFound:
    scored = [near for _, model_list in model_lists for near in model_list.get_nearest(name, _NAMES_SHOWN)]
    nearest = list(dict.fromkeys(model_id for _, model_id in nlargest(_NAMES_SHOWN, scored)))
    where = ", ".join(provider.title for provider, _ in model_lists)
    hint = f" The nearest names are: {', '.join(nearest)}." if nearest else ""
    return NotFound(
        f"Model {name!r} is not served by {where}.{hint} GET /api/catalog/models lists them all.",
        param="model",
        code="model_not_found",
    )
