"""The record of a provider: everything that the rest of the gateway knows about it.

What each provider accepts is taken from its own reference and OpenAPI description, read in 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.config import Settings
from app.services.pricing import Billing, PriceTable
from app.services.providers.naming import Naming
from app.upstream import UpstreamClient

# OpenAI's chat fields that none of the four providers supports. Fireworks refuses each with 400 "Extra inputs are not
# permitted"; they mean nothing to a provider without OpenAI's storage, audio or web search.
OPENAI_ONLY_FIELDS = frozenset(
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

# vLLM and SGLang accept -1 for "off", and no upper bound below the size of a vocabulary.
OPEN_TOP_K = (-1, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSupport:
    """How a provider serves one endpoint, and what must be changed in a request for it.

    Attributes:
        path: the endpoint's path at the provider, below its base URL.
        dropped_fields: top-level fields that are removed.
        dropped_message_fields: fields that are removed from each message.
        renamed_fields: field → the provider's name for the same thing.
        accepted_values: field → the values that the provider accepts; a field with another value is removed.
        ranges: field → the least and the greatest number that the provider accepts; others are refused.
        max_unstreamed_tokens: the provider requires streaming above this many requested tokens; None if it does not.
    """

    path: str
    dropped_fields: frozenset[str] = frozenset()
    dropped_message_fields: frozenset[str] = frozenset()
    renamed_fields: Mapping[str, str] = field(default_factory=dict)
    accepted_values: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    max_unstreamed_tokens: int | None = None


def _no_generation_s(headers: Mapping[str, str]) -> float | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Provider:
    """One provider; compared by identity.

    Attributes:
        name: its name in URLs, in `provider` and in records, and the prefix of its settings.
        title: its name in messages.
        site_url: its web site.
        serves: the endpoints that it supports, by the endpoint's name.
        fetch_pages: fetches its list of models and yields the raw entries, page by page. In a list of many pages, one
            without a new model is the last.
        is_paged: whether the list takes many requests, too many to repeat them for one unknown name.
        normalize: a raw entry of the list → the catalog's entry, with the fields of `Model`.
        naming: the names of its models.
        billing: how it bills.
        fetch_prices: (client, timeout in seconds) → the prices of a separate list; None if the models' entries
            contain them.
        shown_headers: prefixes of its response headers that a caller may see: its limits and its own
            measurements, nothing about its network.
        request_id_headers: its response headers that may contain its id for a request, the best first.
        get_generation_s: response headers → how long it generated, in seconds; None if they do not say.
    """

    name: str
    title: str
    site_url: str
    serves: Mapping[str, EndpointSupport]
    fetch_pages: Callable[[UpstreamClient], Iterator[list[Any]]]
    is_paged: bool = False
    normalize: Callable[[Mapping[str, Any]], dict[str, Any]]
    naming: Naming
    billing: Billing
    fetch_prices: Callable[[UpstreamClient, float], PriceTable] | None = None
    shown_headers: tuple[str, ...] = ("x-ratelimit-",)
    request_id_headers: tuple[str, ...] = ("x-request-id", "cf-ray")
    get_generation_s: Callable[[Mapping[str, str]], float | None] = _no_generation_s

    @property
    def key_setting(self) -> str:
        """The environment name of the setting that holds its key."""
        return f"{self.name}_API_KEY".upper()

    def get_api_key(self, settings: Settings) -> str | None:
        """Returns the provider's key from `settings`, or None if it is not set."""
        key: str | None = getattr(settings, f"{self.name}_api_key")
        return key

    def get_base_url(self, settings: Settings) -> str:
        """Returns the provider's base URL from `settings`, without a slash at the end."""
        url: str = getattr(settings, f"{self.name}_base_url")
        return url
