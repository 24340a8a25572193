"""Finds the providers that serve a model, and its id there, in their current lists."""

from __future__ import annotations

import time
from collections.abc import Sequence

from app.errors import BadRequest, NotFound, Unavailable
from app.runtime import Component, Runtime
from app.services.endpoints import Endpoint
from app.services.limits import Policy
from app.services.models import Catalogs, get_model_list, peek_model_list, refresh_if_due
from app.services.providers import (
    PROVIDERS,
    Provider,
    get_client,
    get_configured_providers,
    get_provider,
    is_configured,
)
from app.services.routing.names import Allows, find_model, make_not_allowed, without_alias
from app.services.routing.target import Target

# Callers choose the names, so the number of remembered names is bounded. The users of a gateway use dozens.
_MAX_REMEMBERED = 4_096

# How often the hot path checks whether the TTL of a list has passed.
_REFRESH_CHECK_S = 1.0

# (endpoint, requested model, requested provider, the patterns of which a model must match one each)
_Asked = tuple[str, str, str | None, tuple[tuple[str, ...], ...]]


class Routes(Component):
    """A cache of the targets of requested names, which are valid until one of the lists changes."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._catalogs = runtime.get(Catalogs)
        self._targets: dict[_Asked, tuple[Target, ...]] = {}
        self._generation = -1
        self._next_check_s = 0.0

    def find_targets(
        self, endpoint: Endpoint, model: str, provider_name: str | None = None, policy: Policy | None = None
    ) -> tuple[Target, ...]:
        """Returns the providers that a request for `model` may be sent to, the best first; currently exactly one.

        An explicit provider decides. Otherwise these are tried in order: a form that only one provider uses
        (`accounts/…` is Fireworks'); an exact id in a list; the names that people write (`deepseek-v3p1`,
        `fireworks/deepseek-v3p1`, `deepseek-ai/DeepSeek-V3.1`), regardless of case. A name in a provider's own form
        never waits for a list.

        Args:
            endpoint: the endpoint that was called; only providers that serve it are targets.
            model: the request's `model`.
            provider_name: the request's `provider`.
            policy: the limits of the caller's key; models that it does not allow are no candidates.

        Raises:
            BadRequest: the provider is unknown or does not serve the endpoint, or the name matches several models; the
                message lists them.
            ConfigurationMissing: the provider's key is not set.
            NotFound: no list contains the model; the message names the most similar ones.
            PermissionDenied: the key may not use the model.
            Unavailable: no available list contains the model, and a list is missing.
        """
        now_s = time.monotonic()
        if now_s >= self._next_check_s:
            self._next_check_s = now_s + _REFRESH_CHECK_S
            refresh_if_due()
        generation = self._catalogs.get_generation()
        if self._generation != generation:
            self._generation, self._targets = generation, {}
        key = (endpoint.name, model, provider_name, () if policy is None else policy.models)
        targets = self._targets.get(key)
        if targets is None:
            targets = (_find_target(endpoint, model, provider_name, policy.allows if key[3] and policy else None),)
            self._remember(key, targets)
        return targets

    def _remember(self, key: _Asked, targets: tuple[Target, ...]) -> None:
        if self._generation != self._catalogs.get_generation():
            return  # A list has been replaced in the meantime, so the targets may be outdated.
        if len(self._targets) >= _MAX_REMEMBERED:
            self._targets.clear()
        self._targets[key] = targets


def _find_target(endpoint: Endpoint, model: str, provider_name: str | None, allows: Allows | None) -> Target:
    model = without_alias(model)
    if provider_name is not None:
        chosen: Provider | None = get_provider(provider_name)
    else:
        chosen = next((provider for provider in PROVIDERS.values() if _claims(provider, model)), None)
    if chosen is not None:
        if endpoint.name not in chosen.serves:
            raise _make_not_served(endpoint, chosen.title, "provider" if provider_name is not None else "model")
        return _find_at(chosen, model, endpoint, allows)
    serving = [provider for provider in get_configured_providers() if endpoint.name in provider.serves]
    if not serving:
        raise _make_not_served(endpoint, "No configured provider", "model")
    catch_all = next((provider for provider in serving if provider.serves[endpoint.name].serves_unlisted), None)
    return _find_listed(model, serving, catch_all, allows)


def _find_listed(
    model: str, providers: Sequence[Provider], catch_all: Provider | None, allows: Allows | None
) -> Target:
    """Returns the target whose list contains the model; if none does, `catch_all` gets the name as it was written."""
    try:
        provider, found = find_model(model, providers, fetch_again=catch_all is None, allows=allows)
    except NotFound:
        if catch_all is None:
            raise
        return _check(Target(catch_all, model), allows)
    return Target(provider, found.id, is_listed=True, context_length=found.context_length or None)


def _check(target: Target, allows: Allows | None) -> Target:
    """Returns the target; raises PermissionDenied if the caller may not use it."""
    if allows is not None and not allows(target.provider.name, target.model):
        raise make_not_allowed(f"{target.provider.name}/{target.model}")
    return target


def _make_not_served(endpoint: Endpoint, subject: str, param: str) -> BadRequest:
    titles = ", ".join(provider.title for provider in PROVIDERS.values() if endpoint.name in provider.serves)
    verb = "serves" if subject.startswith("No ") else "does not serve"
    return BadRequest(
        f"{subject} {verb} {endpoint.path}. Providers that serve it: {titles}.", param=param, code="endpoint_not_served"
    )


def _claims(provider: Provider, model: str) -> bool:
    naming = provider.naming
    return naming.claims(model) or (naming.claims_if_configured(model) and is_configured(provider))


def _find_at(provider: Provider, model: str, endpoint: Endpoint, allows: Allows | None) -> Target:
    """Returns the target at one provider, which the caller or the form of the name has determined."""
    get_client(provider)  # Raises if the provider is not configured.
    naming = provider.naming
    if naming.claims(model):
        id = naming.get_canonical_id(model, lambda name: _find_ids(provider, name))
        return _check(_make_target(provider, id), allows)
    if naming.is_unlisted(model):
        return _check(_make_target(provider, model), allows)
    try:
        get_model_list(provider)
    except Unavailable:
        return _check(Target(provider, model), allows)  # Without a list, only the provider can check the name.
    return _find_listed(model, [provider], provider if provider.serves[endpoint.name].serves_unlisted else None, allows)


def _make_target(provider: Provider, model: str) -> Target:
    models = peek_model_list(provider)
    found = models.get(model) if models is not None else None
    context_length = None if found is None else found.context_length or None
    return Target(provider, model, is_listed=found is not None, context_length=context_length)


def _find_ids(provider: Provider, name: str) -> list[str]:
    """Returns the ids that a name can mean in the provider's list; none if the list is not loaded. Never waits."""
    models = peek_model_list(provider)
    return [model.id for model in models.find(name)] if models is not None else []
