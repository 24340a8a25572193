"""All providers, by name, and this process's HTTP client for each.

The settings determine them: the provider `x` has the fields `x_api_key` and `x_base_url` in `Settings` and the module
`app.services.providers.x` with its record, `PROVIDER`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from app.config import provider_names
from app.errors import BadRequest, ConfigurationMissing
from app.runtime import Component, Runtime, get_component, get_settings
from app.services.providers.provider import Provider
from app.upstream import UpstreamClient


def _import_provider(name: str) -> Provider:
    provider: Provider = import_module(f"app.services.providers.{name}").PROVIDER
    return provider


# In the order of `Settings`; the first is named in the error if no provider is configured.
PROVIDERS: Mapping[str, Provider] = {name: _import_provider(name) for name in provider_names()}


class ProviderClients(Component):
    """The HTTP clients of this process, one for each provider; all requests share their connections."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._clients: dict[str, UpstreamClient] = {}

    def get_client(self, provider: Provider) -> UpstreamClient:
        """Returns the client for the provider, made at the first call.

        Raises:
            ConfigurationMissing: the provider's key is not set.
        """
        client = self._clients.get(provider.name)
        return self._clients.setdefault(provider.name, self._make(provider)) if client is None else client

    def _make(self, provider: Provider) -> UpstreamClient:
        keys = provider.get_api_keys(self.settings)
        if not keys:
            raise _make_not_configured(provider)
        name = self.settings.gateway_name
        return UpstreamClient(
            title=provider.title,
            base_url=provider.get_base_url(self.settings),
            api_keys=keys,
            key_setting=provider.key_setting,
            settings=self.settings,
            request_id_headers=provider.request_id_headers,
            headers=provider.make_name_headers(name) if name and provider.make_name_headers else None,
        )


def _make_not_configured(provider: Provider) -> ConfigurationMissing:
    return ConfigurationMissing(f"{provider.title} API key not configured", param=provider.key_setting)


def get_provider(name: str, *, param: str = "provider") -> Provider:
    """Returns the provider called `name`, in upper or lower case.

    Raises:
        BadRequest: there is no such provider; `param` is the request field with the name.
    """
    provider = PROVIDERS.get(name) or PROVIDERS.get(name.lower())
    if provider is None:
        raise BadRequest(
            f"Unknown {param} {name[:100]!r}. Use one of: {', '.join(PROVIDERS)}.",
            param=param,
            code="unknown_provider",
        )
    return provider


def is_configured(provider: Provider) -> bool:
    """Returns whether the provider's key is set."""
    return bool(provider.get_api_keys(get_settings()))


def get_configured_providers() -> list[Provider]:
    """Returns the providers whose key is set.

    Raises:
        ConfigurationMissing: there is none; the error names the first provider, as the documentation does.
    """
    configured = [provider for provider in PROVIDERS.values() if is_configured(provider)]
    if not configured:
        raise _make_not_configured(next(iter(PROVIDERS.values())))
    return configured


def get_client(provider: Provider) -> UpstreamClient:
    """Returns this process's client for the provider.

    Raises:
        ConfigurationMissing: the provider's key is not set.
    """
    return get_component(ProviderClients).get_client(provider)
