"""The targets that a model name can mean, and those that serve the same model elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from app.errors import BadRequest, NotFound, Unavailable
from app.services.endpoints import Endpoint, ProviderChoice
from app.services.models import (
    Allows,
    Served,
    are_same,
    get_equivalents,
    get_model_list,
    get_model_lists,
    peek_model_list,
)
from app.services.providers import (
    PROVIDERS,
    Provider,
    get_client,
    get_configured_providers,
    get_provider,
    is_configured,
)
from app.services.routing.names import find_all, make_ambiguous, make_not_allowed, without_alias
from app.services.routing.target import Target


class Candidates(NamedTuple):
    """The targets for one name.

    Attributes:
        named: the targets that the name itself can mean, at least one.
        elsewhere: the same model at other providers, if the request or ROUTING_EQUIVALENTS allows them.
        is_at_home: whether the name says which provider serves it, so that the other targets are only for failures.
    """

    named: tuple[Target, ...]
    elsewhere: tuple[Target, ...] = ()
    is_at_home: bool = False


def find_at_provider(name: str, endpoint: Endpoint, provider_name: str, allows: Allows | None) -> Target:
    """Returns the target at a provider that the caller has named.

    Raises:
        as `find_candidates`; BadRequest also if there is no such provider.
    """
    provider = get_provider(provider_name)
    _raise_if_not_served(endpoint, provider, "provider")
    return _find_at(provider, without_alias(name), endpoint, allows)


def find_candidates(
    name: str, endpoint: Endpoint, choice: ProviderChoice | None, allows: Allows | None, *, crosses: bool
) -> Candidates:
    """Returns the targets of a request that does not name one provider.

    These are tried in order: a form that only one provider uses (`accounts/…` is Fireworks'); an exact id in a list;
    names in the forms that people write (`deepseek-v3p1`, `fireworks/deepseek-v3p1`, `deepseek-ai/DeepSeek-V3.1`),
    ignoring case. A name in a provider's own form never waits for a list.

    Args:
        name: the name.
        endpoint: the endpoint that was called; only providers that serve it are targets.
        choice: the providers that the caller accepts; None for all. The provider names in it are valid.
        allows: the models that the caller may use; None for all.
        crosses: whether the same model is also a target at providers that the name does not mean.

    Raises:
        BadRequest: no provider that may be used serves the endpoint, or the name matches models that are not the same;
            the message lists them.
        ConfigurationMissing: the provider's key is not set.
        NotFound: no list contains the model; the message names the most similar ones.
        PermissionDenied: the key may not use the model.
        Unavailable: no available list contains the model, and a list is missing.
    """
    name = without_alias(name)
    home = next((provider for provider in PROVIDERS.values() if _claims(provider, name)), None)
    if home is not None:
        _raise_if_not_served(endpoint, home, "model")
        named: Sequence[Target] = [_find_at(home, name, endpoint, allows)]
    else:
        named = _find_listed(name, endpoint, choice, allows)
    is_at_home = home is not None or name.partition("/")[0].lower() in PROVIDERS
    elsewhere = _find_elsewhere(named, endpoint, allows) if crosses else ()
    return Candidates(tuple(named), tuple(elsewhere), is_at_home)


def _find_listed(name: str, endpoint: Endpoint, choice: ProviderChoice | None, allows: Allows | None) -> list[Target]:
    """Returns the targets whose lists contain the model."""
    serving = [provider for provider in get_configured_providers() if endpoint.name in provider.serves]
    if not serving:
        raise _make_not_served(endpoint, "No configured provider", "model")
    catch_all = next((provider for provider in serving if provider.serves[endpoint.name].serves_unlisted), None)
    found = _search(name, serving, catch_all, allows)
    if choice is not None and len(found) > 1:
        accepted = [served for served in found if is_accepted(served.provider, choice)]
        if accepted and all(_is_named(served.provider, choice) for served in accepted):
            return [_make_listed(served) for served in accepted]
        found = accepted or found[:1]
    if len(found) > 1 and not are_same(found):
        raise make_ambiguous(name, found)
    if not found and catch_all is not None:
        return [_validate_target(Target(catch_all, name), allows)]
    return [_make_listed(served) for served in found]


def _search(
    name: str, providers: Sequence[Provider], catch_all: Provider | None, allows: Allows | None
) -> list[Served]:
    """Returns the models listed under this name; nothing only if `catch_all` gets the name unchanged."""
    try:
        return find_all(name, providers, fetch_again=catch_all is None, allows=allows)
    except NotFound:
        if catch_all is None:
            raise
        return []


def get_missing_list(endpoint: Endpoint, choice: ProviderChoice | None) -> Unavailable | None:
    """Returns the error for a list that is not loaded, if its provider may serve a request with this choice."""
    if choice is None:
        return None
    serving = [provider for provider in get_configured_providers() if endpoint.name in provider.serves]
    return get_model_lists([provider for provider in serving if is_accepted(provider, choice)])[1]


def is_accepted(provider: Provider, choice: ProviderChoice) -> bool:
    """Returns whether a provider may serve a request with this choice."""
    if choice.only is not None and not _contains(choice.only, provider):
        return False
    if choice.order and choice.allow_fallbacks is False and not _contains(choice.order, provider):
        return False
    return not _contains(choice.ignore or (), provider)


def _is_named(provider: Provider, choice: ProviderChoice) -> bool:
    return _contains((*(choice.only or ()), *(choice.order or ())), provider)


def _contains(names: Iterable[str], provider: Provider) -> bool:
    return any(name.lower() == provider.name for name in names)


def _find_elsewhere(named: Sequence[Target], endpoint: Endpoint, allows: Allows | None) -> list[Target]:
    """Returns the same model at other providers; for a confidential one, only at others that are confidential too."""
    known = {(target.provider.name, target.model) for target in named}
    found: list[Target] = []
    is_confidential = any(target.provider.naming.is_confidential(target.model) for target in named)
    for target in named:
        for served in get_equivalents(target.provider, target.model):
            provider, id = served.provider, served.model.id
            if (provider.name, id) in known or endpoint.name not in provider.serves:
                continue
            if is_confidential and not provider.naming.is_confidential(id):
                continue
            if allows is None or allows(provider.name, id):
                known.add((provider.name, id))
                found.append(_make_listed(served))
    return found


def _make_listed(served: Served) -> Target:
    return Target(served.provider, served.model.id, is_listed=True, context_length=served.model.context_length or None)


def _validate_target(target: Target, allows: Allows | None) -> Target:
    """Returns the target; raises PermissionDenied if the caller may not use it."""
    if allows is not None and not allows(target.provider.name, target.model):
        raise make_not_allowed(f"{target.provider.name}/{target.model}")
    return target


def _raise_if_not_served(endpoint: Endpoint, provider: Provider, param: str) -> None:
    if endpoint.name not in provider.serves:
        raise _make_not_served(endpoint, provider.title, param)


def _make_not_served(endpoint: Endpoint, subject: str, param: str) -> BadRequest:
    titles = ", ".join(provider.title for provider in PROVIDERS.values() if endpoint.name in provider.serves)
    verb = "serves" if subject.startswith("No ") else "does not serve"
    return BadRequest(
        f"{subject} {verb} {endpoint.path}. Use one of: {titles}.", param=param, code="endpoint_not_served"
    )


def _claims(provider: Provider, model: str) -> bool:
    naming = provider.naming
    return naming.claims(model) or (naming.claims_if_configured(model) and is_configured(provider))


def _find_at(provider: Provider, model: str, endpoint: Endpoint, allows: Allows | None) -> Target:
    """Returns the target at the provider that the caller or the form of the name has determined."""
    get_client(provider)  # Raises if the provider is not configured.
    naming = provider.naming
    if naming.claims(model):
        id = naming.get_canonical_id(model, lambda name: _find_ids(provider, name))
        return _validate_target(_make_target(provider, id), allows)
    if naming.is_unlisted(model):
        return _validate_target(_make_target(provider, model), allows)
    try:
        get_model_list(provider)
    except Unavailable:
        return _validate_target(
            Target(provider, model), allows
        )  # Without a list, only the provider can check the name.
    catch_all = provider if provider.serves[endpoint.name].serves_unlisted else None
    found = _search(model, [provider], catch_all, allows)
    if len(found) > 1:
        raise make_ambiguous(model, found)
    return _make_listed(found[0]) if found else _validate_target(Target(provider, model), allows)


def _make_target(provider: Provider, model: str) -> Target:
    models = peek_model_list(provider)
    found = models.get(model) if models is not None else None
    context_length = None if found is None else found.context_length or None
    return Target(provider, model, is_listed=found is not None, context_length=context_length)


def _find_ids(provider: Provider, name: str) -> list[str]:
    """Returns the ids that a name can mean in the provider's list; none if the list is not loaded. Never waits."""
    models = peek_model_list(provider)
    return [model.id for model in models.find(name)] if models is not None else []
