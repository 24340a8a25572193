"""The providers the gateway can forward to: one record each, and the client that speaks to it.

Adding a provider is a row here, a source in `models.py` for its catalog, and its two settings. Facts about what
each accepts are from the providers' own references and OpenAPI descriptions, read in 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.config import Settings
from app.errors import BadRequest, ConfigurationMissing
from app.runtime import get_settings
from app.upstream import UpstreamClient

# OpenAI's chat parameters that none of the four providers knows. Fireworks answers each with 400 "Extra inputs are
# not permitted"; they carry nothing a provider without OpenAI's storage, audio or web search could act on.
OPENAI_ONLY_PARAMS = frozenset(
    {
        "audio",
        "modalities",
        "moderation",
        "prompt_cache_retention",
        "safety_identifier",
        "store",
        "verbosity",
        "web_search_options",
    }
)

# Keys of OpenAI's message objects that Fireworks' schema forbids. Clients replay them from earlier answers.
OPENAI_ONLY_MESSAGE_FIELDS = frozenset({"name", "refusal", "annotations", "audio"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider.

    Attributes:
        name: its word in URLs, in `provider` and on activity rows.
        title: its name in messages.
        site_url: where a person reads about it.
        key_setting, base_url_setting: the environment names of its two settings.
        dropped_params: top-level request fields that are left out for it.
        dropped_message_fields: fields left out of each message.
        service_tiers: values of `service_tier` it takes; None passes any.
        renamed_params: request field → the name this provider has for the same thing.
        top_k_range: least and greatest `top_k` it takes.
        max_unstreamed_tokens: above this many `max_tokens` it insists on streaming; None for no such rule.
    """

    name: str
    title: str
    site_url: str
    key_setting: str
    base_url_setting: str
    dropped_params: frozenset[str] = OPENAI_ONLY_PARAMS
    dropped_message_fields: frozenset[str] = frozenset()
    service_tiers: frozenset[str] | None = None
    renamed_params: Mapping[str, str] = field(default_factory=dict)
    # vLLM and SGLang take -1 for "off" and no upper bound below the size of a vocabulary.
    top_k_range: tuple[int, int] = (-1, 1_000_000)
    max_unstreamed_tokens: int | None = None

    def api_key(self, settings: Settings) -> str | None:
        """Returns the provider's key from `settings`, or None when it is off."""
        key: str | None = getattr(settings, self.key_setting.lower())
        return key

    def base_url(self, settings: Settings) -> str:
        """Returns the provider's base URL from `settings`, without a slash at the end."""
        url: str = getattr(settings, self.base_url_setting.lower())
        return url


FIREWORKS = Provider(
    name="fireworks",
    title="Fireworks",
    site_url="https://fireworks.ai",
    key_setting="FIREWORKS_API_KEY",
    base_url_setting="FIREWORKS_BASE_URL",
    dropped_message_fields=OPENAI_ONLY_MESSAGE_FIELDS,
    service_tiers=frozenset({"auto", "default", "flex", "priority"}),
    top_k_range=(0, 100),
    # "Requests with max_tokens > 4096 must have stream=true" is its 400 for a larger unstreamed request.
    max_unstreamed_tokens=4096,
)

FEATHERLESS = Provider(
    name="featherless",
    title="Featherless",
    site_url="https://featherless.ai",
    key_setting="FEATHERLESS_API_KEY",
    base_url_setting="FEATHERLESS_BASE_URL",
)

DEEPINFRA = Provider(
    name="deepinfra",
    title="DeepInfra",
    site_url="https://deepinfra.com",
    key_setting="DEEPINFRA_API_KEY",
    base_url_setting="DEEPINFRA_BASE_URL",
    renamed_params={"max_completion_tokens": "max_tokens"},
)

CHUTES = Provider(
    name="chutes",
    title="Chutes",
    site_url="https://chutes.ai",
    key_setting="CHUTES_API_KEY",
    base_url_setting="CHUTES_BASE_URL",
    renamed_params={"max_completion_tokens": "max_tokens"},
)

PROVIDERS: dict[str, Provider] = {p.name: p for p in (FIREWORKS, FEATHERLESS, DEEPINFRA, CHUTES)}

_clients: dict[str, UpstreamClient] = {}


def get_provider(name: str, *, param: str = "provider") -> Provider:
    """Returns the provider called `name`.

    Raises:
        BadRequest: there is none of that name; `param` is the request field that named it.
    """
    provider = PROVIDERS.get(name)
    if provider is None:
        raise BadRequest(
            f"Unknown {param} {name[:100]!r}. Use one of: {', '.join(PROVIDERS)}.",
            param=param,
            code="unknown_provider",
        )
    return provider


def is_on(provider: Provider) -> bool:
    """Tells whether the provider's key is set."""
    return provider.api_key(get_settings()) is not None


def get_client(provider: Provider) -> UpstreamClient:
    """Returns this process's client for the provider; its connections are shared by all requests.

    Raises:
        ConfigurationMissing: the provider's key is not set.
    """
    settings = get_settings()
    key = provider.api_key(settings)
    if key is None:
        raise ConfigurationMissing(f"{provider.title} API key not configured", param=provider.key_setting)
    client = _clients.get(provider.name)
    if client is None or client.settings is not settings:
        client = UpstreamClient(
            title=provider.title,
            base_url=provider.base_url(settings),
            api_key=key,
            key_setting=provider.key_setting,
            settings=settings,
            request_id_headers=("x-request-id", "x-fireworks-request-id", "x-chutes-invocationid", "cf-ray"),
        )
        _clients[provider.name] = client
    return client
