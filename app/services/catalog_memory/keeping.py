"""Compares a provider's list with the stored one, and stores the difference."""

from __future__ import annotations

from collections.abc import Mapping

from app.db import Connection
from app.db.catalog import (
    Facts,
    ModelChange,
    select_kept_list,
    select_kept_models,
    try_lock_catalog,
    update_kept_list,
)
from app.services.catalog_memory.facts import complete_price, find_kinds, make_facts
from app.services.models import ModelList
from app.services.pricing import Prices
from app.services.providers import Provider
from app.yielding import with_pauses


def keep_list(
    connection: Connection, provider: Provider, models: ModelList, prices: Prices
) -> list[ModelChange] | None:
    """Stores a list if it is newer than the stored one and differs from it.

    The first list of a provider is stored without changes, because nobody knows whether its models are new.

    Args:
        connection: in a transaction that the caller commits.
        provider: the provider of the list.
        models: the list.
        prices: the prices of its models.

    Returns:
        The changes, [] if there are none; None if another worker is storing a list, so that this one must be tried
        again.
    """
    kept = select_kept_list(connection, provider.name)
    if kept is not None and (kept.version == models.version or kept.fetched_at >= models.fetched_at):
        return []
    if not try_lock_catalog(connection):
        return None
    now = {
        model.id: make_facts(model, prices.get_provider_price(provider.billing, model.id))
        for model in with_pauses(models)
    }
    # Read again under the lock: another worker may have stored a newer list since.
    kept = select_kept_list(connection, provider.name)
    if kept is not None and kept.fetched_at >= models.fetched_at:
        return []
    before = select_kept_models(connection, provider.name)
    changed, changes = _compare(before, now)
    update_kept_list(
        connection,
        provider.name,
        fetched_at=models.fetched_at,
        version=models.version,
        changed=changed,
        removed=[model for model in before if model not in now],
        changes=[] if kept is None else changes,
    )
    return [] if kept is None else changes


def _compare(before: Mapping[str, Facts], now: Mapping[str, Facts]) -> tuple[dict[str, Facts], list[ModelChange]]:
    """Returns the models that are new or different, with their facts, and the changes to report."""
    changed: dict[str, Facts] = {}
    changes = [ModelChange(model, "removed", facts, None) for model, facts in before.items() if model not in now]
    for model, stated in with_pauses(list(now.items())):
        earlier = before.get(model)
        if earlier is None:
            changed[model] = stated
            changes.append(ModelChange(model, "added", None, stated))
            continue
        facts = complete_price(earlier, stated)
        if facts != earlier:
            changed[model] = facts
            changes += [ModelChange(model, kind, earlier, facts) for kind in find_kinds(earlier, facts)]
    return changed, changes
