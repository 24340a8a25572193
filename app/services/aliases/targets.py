"""Finds the models that targets of aliases name, in the lists of this process; nothing here waits for a list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from app.runtime import get_component
from app.services.aliases.aliases import Alias, Aliases, AliasTarget
from app.services.models import ALIAS_PREFIX, Allows, Model, peek_model_list
from app.services.providers import PROVIDERS, Provider, is_configured


class Candidate(NamedTuple):
    """A model that a target names. `model` is its entry; None if the list is not loaded, or need not have it."""

    provider: Provider
    model_id: str
    model: Model | None


def split_target(name: str) -> tuple[Provider, str] | None:
    """Returns the only provider that the name of a target can mean, and the model in the form for its lists.

    Args:
        name: a form that only one provider uses, which stays whole, or `<provider>/<model>`.

    Returns:
        None if the name does not determine a provider.
    """
    for provider in PROVIDERS.values():
        if provider.naming.claims(name):
            return provider, name
    prefix, _, model = name.partition("/")
    found = PROVIDERS.get(prefix.lower())
    return (found, model) if found is not None and model else None


def find_alias(name: str) -> Alias | None:
    """Returns the alias that a request's `model` names; None if it names none.

    Like any model, an alias also has a name that begins with `anthropic/`, unless a provider lists that very name.
    """
    aliases = get_component(Aliases)
    found = aliases.get(name)
    if found is None and name.startswith(ALIAS_PREFIX):
        found = aliases.get(name.removeprefix(ALIAS_PREFIX))
        if found is not None and is_listed(name):
            return None
    return found


def is_listed(name: str) -> bool:
    """Returns whether the list of a configured provider has this name."""
    return any(models.find(name) for each in PROVIDERS.values() if (models := peek_model_list(each)) is not None)


def find_candidates(targets: Iterable[AliasTarget], allows: Allows | None = None) -> list[Candidate]:
    """Returns the models that the targets name, in their order, except those that cannot be used.

    Args:
        targets: the targets.
        allows: the models that the caller may use; None for all.
    """
    found = [candidate for target in targets for candidate in _find(target.name)]
    if allows is None:
        return found
    return [each for each in found if allows(each.provider.name, each.model_id)]


def _find(name: str) -> list[Candidate]:
    split = split_target(name)
    if split is None or not is_configured(split[0]):
        return []
    provider, asked = split
    models = peek_model_list(provider)
    if models is None:
        return [Candidate(provider, asked, None)]
    exact = models.get(asked)
    listed = models.find(asked) if exact is None else (exact,)
    if listed:
        return [Candidate(provider, model.id, model) for model in listed]
    naming = provider.naming
    takes_unlisted = any(support.serves_unlisted for support in provider.serves.values())
    if naming.claims(asked):
        return [Candidate(provider, naming.get_canonical_id(asked, lambda _: ()), None)]
    if takes_unlisted or naming.is_unlisted(asked):
        return [Candidate(provider, asked, None)]
    return []
